"""A model of the library as a value, and as an entry of library.json: what is read from there is bounded and checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

_MOST_CHARACTERS = 4096  # of a text: more than any path has
_MOST_COUNT = 1 << 62
_PATHS = ("path", "checkpoint")
_TEXT, _PERHAPS, _COUNT = (str,), (str, NoneType), (int,)
_ORIGIN = {"source": _TEXT, "repository": _TEXT, "revision": _TEXT, "file": _PERHAPS, "commit": _TEXT}
_ENTRY: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "path", "added", "last_used", "model", "variant", "mixture", "digest"), _TEXT),
    **dict.fromkeys(("size_bytes", "changed"), _COUNT),
    "bits_per_weight": (float, int),
    "is_named": (bool,),
    "checkpoint": _PERHAPS,
    "source": (dict, NoneType),
}


@dataclass(frozen=True)
class Origin:
    """Where a model came from. `source` is "hf", "modelscope" or a folder, `revision` what was asked for ("main"), `commit`
    what that was then, `file` the GGUF file of the repository; None for one that was converted here.
    """

    source: str
    repository: str
    revision: str
    file: str | None = None
    commit: str = ""


@dataclass(frozen=True)
class Entry:
    """A model file that is known by its path. Times are UTC, as 2025-11-25T22:55:03Z, "" for never.

    `is_named`: the name is the user's own. `model` is what the file calls itself. Size, `digest` (of places of the file) and
    `changed` (the time of its last change, ns) tell its content from others. `checkpoint` is the folder it was made from.
    """

    name: str
    path: Path
    source: Origin | None = None
    added: str = ""
    last_used: str = ""
    is_named: bool = False
    model: str = ""
    variant: str = ""
    mixture: str = ""
    size_bytes: int = 0
    bits_per_weight: float = 0.0
    digest: str = ""
    changed: int = 0
    checkpoint: Path | None = None

    @property
    def is_missing(self) -> bool:
        """Whether there is no file at its path now."""
        try:
            return not self.path.is_file()
        except OSError:  # a folder that may not be entered
            return True

    @property
    def model_name(self) -> str:
        """The name without its mixture."""
        return self.name.partition(":")[0]


def as_line(entry: Entry) -> str:
    """The entry as JSON in one line; paths that are no text keep their bytes as escapes."""
    values = {one.name: getattr(entry, one.name) for one in fields(entry)}
    values |= {name: str(values[name]) for name in _PATHS if values[name] is not None}
    values["source"] = None if entry.source is None else vars(entry.source)
    return json.dumps(values)


def as_entry(values: object) -> Entry | None:
    """The entry that parsed JSON is, None if it makes no sense; what a newer bq may add is left out."""
    known = _known(values, _ENTRY)
    if not known.get("name") or not known.get("path"):
        return None
    origin = None
    if known.get("source") is not None:
        found = _known(known["source"], _ORIGIN)
        if not {"source", "repository", "revision"} <= found.keys():
            return None
        origin = Origin(**found)
    known |= {name: Path(known[name]) for name in _PATHS if known.get(name) is not None}
    return Entry(**{**known, "source": origin})


def _known(values: object, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The fields of parsed JSON that are known; none if one of them is not of its kind."""
    if not isinstance(values, dict):
        return {}
    known = {name: values[name] for name in kinds if name in values}
    return known if all(_fits(value, kinds[name]) for name, value in known.items()) else {}


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    if type(value) not in kinds:  # a bool is an int
        return False
    if isinstance(value, str):
        return len(value) <= _MOST_CHARACTERS and "\0" not in value
    return not isinstance(value, int | float) or 0 <= value < _MOST_COUNT
