"""What the headers of model files say, kept until the files change: reading 50 vocabularies takes seconds, a list none.

It lies in bq's own folder as files.json. Reading it never fails, and that it cannot be written is no reason to fail;
figures are read anew each time, and a broken file is examined anew.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.tui.quality import Listed, listed

_FILE = "files.json"
_MOST_BYTES, _MOST_FILES = 4 << 20, 2000
_TEXTS = ("name", "variant", "mixture")


def examine(paths: Sequence[Path]) -> list[Listed]:
    """What each file is, or why it is none."""
    from bq.runtime.evaluation.figures import best_figures

    kept = _read()
    found = [_kept(path, kept) or _examine(path) for path in paths]
    new = dict(_entries(found))
    if any(kept.get(path) != entry for path, entry in new.items()):
        _write({**kept, **new})
    return [one if one.error else replace(one, figures=best_figures(one.path)) for one in found]


def _examine(path: Path) -> Listed:
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.structure import check_structure

    try:
        file = read_gguf(path)
        check_structure(file)
        return listed(file, None)
    except BqError as error:
        return Listed(path, error=str(error), cannot_run=isinstance(error, UsageError))


def _kept(path: Path, kept: dict[str, Any]) -> Listed | None:
    """What was found when the file was as it is now, None if it was not or makes no sense."""
    entry = kept.get(str(path.absolute()))
    if not isinstance(entry, dict) or entry.get("mark") != _mark(path):
        return None
    texts = {name: entry.get(name) for name in _TEXTS}
    bits = entry.get("bits_per_weight")
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(bits, float):
        return None
    return Listed(path, **texts, size_bytes=entry["mark"][0], bits_per_weight=bits)  # type: ignore[arg-type]


def _entries(found: Sequence[Listed]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in found:
        mark = _mark(one.path)
        if not one.error and mark is not None:
            texts = {name: getattr(one, name) for name in _TEXTS}
            yield str(one.path.absolute()), {"mark": mark, **texts, "bits_per_weight": one.bits_per_weight}


def _mark(path: Path) -> list[int] | None:
    """What changes with a file: its size and the time of its last change; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _path() -> Path:
    from bq.tui.chosen_model import home

    return home() / _FILE


def _read() -> dict[str, Any]:
    """The entries by path; none of another version of bq, which may see more in a header."""
    from bq.runtime.evaluation.figures import bq_version

    try:
        with _path().open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or found.get("version") != bq_version():
        return {}
    files = found.get("files")
    return files if isinstance(files, dict) else {}


def _write(entries: dict[str, Any]) -> None:
    from bq.runtime.atomic_file import replacing
    from bq.runtime.evaluation.figures import bq_version

    data = {"version": bq_version(), "files": dict([*entries.items()][-_MOST_FILES:])}
    with suppress(OSError, BqError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_path(), private=True) as part:
            part.write_bytes(json.dumps(data).encode())
