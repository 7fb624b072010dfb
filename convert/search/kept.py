"""Measurements that are kept: a search that was interrupted goes on where it was, and another size asks for none again."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert.search.measure import Measurement
from bq.runtime.atomic_file import replacing
from bq.runtime.ggml import GgmlType

_FORMAT = "bq-search-1"
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Key:
    """What the measurements hold for: another model, text or importance matrix has others."""

    model: Mapping[str, str]
    text_sha256: str
    chunks: int
    context: int
    importance_sha256: str = ""

    def as_data(self) -> dict[str, Any]:
        """For the file."""
        return {
            "format": _FORMAT,
            "model": dict(self.model),
            "text_sha256": self.text_sha256,
            "chunks": self.chunks,
            "context": self.context,
            "importance_sha256": self.importance_sha256,
        }


def read_kept(path: Path, key: Key) -> dict[tuple[str, GgmlType], float]:
    """What was measured before for this key; nothing where there is no such file, or it is damaged or of another key."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or {name: data.get(name) for name in key.as_data()} != key.as_data():
            return {}
        return dict(_measurement(entry) for entry in data["measurements"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {}


def _measurement(entry: Mapping[str, Any]) -> tuple[tuple[str, GgmlType], float]:
    harm = float(entry["divergence"])
    if not math.isfinite(harm):
        raise ValueError("no divergence")
    return (str(entry["group"]), GgmlType[entry["type"]]), harm


def write_kept(path: Path, key: Key, measured: Iterable[Measurement]) -> None:
    """Replace the file. Raises OSError or BqError if that fails."""
    entries = [{"group": one.group, "type": one.kind.name, "divergence": one.divergence} for one in measured]
    data = json.dumps({**key.as_data(), "measurements": entries}, ensure_ascii=False, indent=1)
    with replacing(path, private=True) as part, part.open("wb") as file:
        file.write(data.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
