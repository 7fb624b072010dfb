"""Whether the bytes here are those that the source lists, by our own reading, and not again while a file stays as it is.

A release has up to 27 GB in one piece: what was read once is remembered in bq's own folder by path, size and time of the
last change. Losing that memory costs a second reading and nothing else.
"""

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from bq.convert.file_hash import SHA1_DIGITS, SHA256_DIGITS, digest_of
from bq.library.home import home
from bq.library.sources.source import RemoteFile, Watcher, is_hash
from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError

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
    def passed(done: int) -> None:
        watcher.stop_if_cancelled()
        watcher.checked(file.path, done, file.size)

    return digest_of(path, file.size, SHA256_DIGITS if file.sha256 else SHA1_DIGITS, passed)


def is_remembered(path: Path, file: RemoteFile) -> bool:
    """Whether `path` was found right before and has not changed since."""
    mark = _mark(path, file)
    return mark is not None and _read().get(os.path.realpath(path)) == mark


def remembered_digest(path: Path) -> str | None:
    """The hash of `path` as it was found right, None if it never was or has changed since."""
    match _read().get(os.path.realpath(path)):
        case [int(size), int(changed), str(digest)] if any(is_hash(digest, n) for n in (SHA256_DIGITS, SHA1_DIGITS)):
            found = path.stat()
            return digest if (found.st_size, found.st_mtime_ns) == (size, changed) else None
    return None


def remember(path: Path, file: RemoteFile) -> None:
    """Keep that `path` holds `file`; that this fails is no reason to fail."""
    mark = _mark(path, file)
    if mark is None:
        return
    with _writing:
        _keep({**_read(), os.path.realpath(path): mark})


def _keep(entries: dict[str, Any]) -> None:
    with suppress(OSError, BqError):
        kept = dict([*entries.items()][-_MOST_FILES:])
        home().mkdir(parents=True, exist_ok=True)
        with replacing(home() / _FILE, private=True) as part:
            part.write_text(json.dumps(kept), encoding="utf-8")


def forget(path: Path) -> None:
    """Read `path` again before it is taken for right."""
    with _writing:
        _keep({name: mark for name, mark in _read().items() if name != os.path.realpath(path)})


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
