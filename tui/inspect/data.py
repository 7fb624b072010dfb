"""A report as plain data for JSON: everything, sizes in bytes, arrays whole."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import BqError
from bq.tui.harmless import CONTROLS

if TYPE_CHECKING:
    from bq.convert.inspect.inspect import Report

_LISTS = ("pieces", "types", "scores")  # of a vocabulary; a GGUF file's metadata has them already
# What JSON leaves as it is and a terminal may obey, and halves of characters that no encoding has.
_UNSAFE = re.compile(f"[{CONTROLS}\ud800-\udfff]")


def as_data(report: "Report") -> dict[str, Any]:
    """The report, beginning with its kind: "model", "checkpoint", "adapter", "imatrix" or "types"."""
    from bq.convert.inspect.adapter import AdapterReport
    from bq.convert.inspect.inspect import MatrixReport, TypesReport
    from bq.convert.inspect.model import ModelReport

    data: dict[str, Any] = plain(report)
    if isinstance(report, ModelReport):
        return {"kind": "model", **_model(report, data)}
    if isinstance(report, MatrixReport):
        entries = [plain(one) | {"spread": plain(one.spread)} for one in report.entries]
        return {"kind": "imatrix", **data, "entries": entries}
    if isinstance(report, TypesReport):
        return {"kind": "types", **data}
    if isinstance(report, AdapterReport):
        return {"kind": "adapter", **data}
    shape = {**data["shape"], "kv_bytes_per_token": report.shape.kv_bytes_per_token}
    return {"kind": "checkpoint", **data, "weights": report.weights, "shape": shape}


def _model(report: Any, data: dict[str, Any]) -> dict[str, Any]:
    vocabulary = data["vocabulary"]
    return {
        **data,
        "weights": report.weights,
        "bits_per_weight": report.bits_per_weight,
        "shape": {**data["shape"], "kv_bytes_per_token": report.shape.kv_bytes_per_token},
        "by_type": plain(report.by_type()),
        "by_part": plain(report.by_part()),
        "origin": {**data["origin"], "details": dict(report.origin.details)},
        "vocabulary": vocabulary and {name: one for name, one in vocabulary.items() if name not in _LISTS},
    }


def plain(value: Any) -> Any:
    """Dataclasses as objects, errors as cause and remedy, numbers that JSON has not as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, BqError):
        return {"cause": value.cause, "remedy": value.remedy}
    if is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    return str(value) if isinstance(value, Path) else [plain(one) for one in value]


def to_json(data: dict[str, Any]) -> str:
    """The data as JSON that no terminal obeys: what could control one is escaped."""
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    return _UNSAFE.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)
