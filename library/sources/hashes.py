"""Whether the bytes here are those that the source lists, by our own reading, and not again while a file stays as it is.

A release has up to 27 GB in one piece: what was read once is remembered in bq's own folder by path, size and time of the
last change. Losing that memory costs a second reading and nothing else.
"""

import hashlib
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from bq.library.home import home
from bq.library.sources.source import RemoteFile, Watcher
from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError

_CHUNK_BYTES = 4 << 20
_FILE = "checked.json"
_MOST_BYTES, _MOST_FILES = 8 << 20, 10_000
_writing = threading.Lock()


def is_right(path: Path, file: RemoteFile, watcher: Watcher) -> bool:
    """Whether `path` holds `file`, which is remembered then."""
    if is_remembered(path, file):
        return True
    if not holds(path, file, watcher):
        return False
    remember(path, file)
    return True


def holds(path: Path, file: RemoteFile, watcher: Watcher) -> bool:
    """The same by reading it, whatever is remembered. Where the source tells no hash, its size has to do."""
    try:
        is_sized = path.is_file() and path.stat().st_size == file.size
    except OSError:
        return False
    return is_sized and (file.digest is None or _digest(path, file, watcher) == file.digest)


def _digest(path: Path, file: RemoteFile, watcher: Watcher) -> str:
    """The hash by which the source names the bytes: SHA-256, or SHA-1 after the header of a git object of type blob."""
    hasher = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    done = 0
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            watcher.stop_if_cancelled()
            hasher.update(chunk)
            done += len(chunk)
            watcher.checked(file.path, done, file.size)
    return hasher.hexdigest()


def is_remembered(path: Path, file: RemoteFile) -> bool:
    """Whether `path` was found right before and has not changed since."""
    mark = _mark(path, file)
    return mark is not None and _read().get(os.path.realpath(path)) == mark


def remember(path: Path, file: RemoteFile) -> None:
    """Keep that `path` holds `file`; that this fails is no reason to fail."""
    mark = _mark(path, file)
    if mark is None:
        return
    with _writing, suppress(OSError, BqError):
        entries = {**_read(), os.path.realpath(path): mark}
        kept = dict([*entries.items()][-_MOST_FILES:])
        home().mkdir(parents=True, exist_ok=True)
        with replacing(home() / _FILE, private=True) as part:
            part.write_text(json.dumps(kept), encoding="utf-8")


def _mark(path: Path, file: RemoteFile) -> list[Any] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, file.digest] if file.digest and found.st_size == file.size else None


def _read() -> dict[str, Any]:
    try:
        with (home() / _FILE).open("rb") as source:
            data = source.read(_MOST_BYTES + 1)
        found = json.loads(data) if len(data) <= _MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
