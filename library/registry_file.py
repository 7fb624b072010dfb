"""library.json: the entries of the library on the disk, one a line.

JSON and a lock, not SQLite: a library is some dozen lines that a person can read and mend, that are read without a lock, and
that lie in home folders on network disks, where SQLite's log does not work. A change reads, changes and writes while it holds
the lock, and the file gets its name only when it is whole: another process waits, a killed one leaves the old file.

A file that makes no sense is kept aside as library.json.damaged; the lines that do make sense stay.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bq.library.entry import Entry, as_entry, as_line
from bq.library.home import home
from bq.runtime.atomic_file import in_use, replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

_FORMAT = 1
_MOST_BYTES = 16 << 20
_WAIT_SECONDS = 20.0  # for another process; a change takes some ms
_TRIES, _TRY_AGAIN_SECONDS = 50, 0.02  # Windows renames no file over one that another process reads


def registry_path() -> Path:
    """Where the library is kept."""
    return home() / "library.json"


def read_entries() -> tuple[list[Entry], bool]:
    """The entries, and whether the file is sound; what can be made out of one that is not. Raises BqError if it may not be read."""
    path = registry_path()
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return [], True
    except OSError as error:
        raise unreadable(path, error) from None
    text = data.decode("utf-8", "replace")
    found = _parsed(text) if len(data) <= _MOST_BYTES else None
    return (found, True) if found is not None else (_legible(text), False)


@contextmanager
def changing() -> Iterator[list[Entry]]:
    """The entries, to be changed in place; written when the block ends well. Raises BqError if the folder refuses."""
    path = registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BqError(
            say(f"{path.parent} cannot be made: {error.strerror}.", f"无法创建 {path.parent}：{error.strerror}。"),
            say("Check its permissions, or set BQ_HOME.", "请检查权限，或设置 BQ_HOME。"),
        ) from None
    with in_use(path, _WAIT_SECONDS):
        entries, is_sound = read_entries()
        before = None if not is_sound else list(entries)
        yield entries
        if entries == before:
            return
        if not is_sound:
            _keep_aside(path)
        _write(path, entries)


def _parsed(text: str) -> list[Entry] | None:
    """The entries of a sound file, else None. Raises BqError for one that a newer bq wrote."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    version, lines = data.get("format"), data.get("entries")
    if isinstance(version, int) and version > _FORMAT:
        raise BqError(
            say("A newer bq keeps this library.", "此模型库由更新版本的 bq 维护。"), say("Update bq.", "请更新 bq。")
        )
    found = [as_entry(one) for one in lines] if isinstance(lines, list) else [None]
    sound = [one for one in found if one is not None]
    return sound if version == _FORMAT and len(sound) == len(found) else None


def _legible(text: str) -> list[Entry]:
    """The entries of those lines of a damaged file that make sense."""
    found: dict[Path, Entry] = {}
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            entry = as_entry(json.loads(line.strip().rstrip(",")))
            if entry is not None:
                found[entry.path] = entry
    return list(found.values())


def _keep_aside(path: Path) -> None:
    """Under a name that nothing has yet; as a second link, so that a kill before the new file is written loses no line."""
    aside, number = path.with_name(path.name + ".damaged"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    try:
        os.link(path, aside)
    except OSError:  # a disk without links
        shutil.copyfile(path, aside)


def _write(path: Path, entries: list[Entry]) -> None:
    lines = ",\n".join(as_line(one) for one in entries)
    data = f'{{"format": {_FORMAT}, "entries": [\n{lines}\n]}}\n'.encode()
    for _ in range(_TRIES - 1):
        with suppress(PermissionError):
            _replace(path, data)
            return
        time.sleep(_TRY_AGAIN_SECONDS)
    _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    with replacing(path, private=True) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
