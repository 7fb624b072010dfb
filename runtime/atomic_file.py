"""A file that gets its name only when it is whole.

Everything is written to `NAME.part` beside it, which is locked while it is written: what a killed run left behind is
recognised by its missing lock and cleared by the next run, and two runs cannot write the same file.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bq.runtime.errors import BqError
from bq.runtime.language import say

_LOCK_BYTE = 1 << 62  # Windows locks byte ranges against reading too: one far behind any data
_PRIVATE, _COMMON = 0o600, 0o666
_TRY_AGAIN_SECONDS = 0.005


def part_path(out: Path) -> Path:
    """Where `out` is written until it is whole."""
    return out.with_name(out.name + ".part")


@contextmanager
def replacing(out: Path, private: bool = False) -> Iterator[Path]:
    """The path to write to, an empty file; renamed to `out` when the block ends well, removed when it does not.

    The block syncs what it wrote. `private`: only the user may read it. Raises BqError if another process is writing the
    same file, or the folder refuses.
    """
    part = part_path(out)
    with _locked(part, say(f"Another bq is writing {out.name}.", f"另一个 bq 正在写 {out.name}。"), private) as lock:
        lock.truncate(0)
        yield part
        if os.name == "nt":  # a file cannot be renamed there while it is open
            lock.close()
        os.replace(part, out)
        _sync_folder(out.parent)


@contextmanager
def in_use(path: Path, wait_seconds: float = 0.0) -> Iterator[None]:
    """Keeps `path` for this process, by a lock on `NAME.lock` beside it. Raises BqError if another one has it, and does not let
    go of it within `wait_seconds`.

    Beside the file itself: several links to it are one file.
    """
    real = Path(os.path.realpath(path))
    lock = real.with_name(real.name + ".lock")
    taken = say(f"Another bq is using {path.name}.", f"另一个 bq 正在使用 {path.name}。")
    with _locked(lock, taken, private=True, wait_seconds=wait_seconds):
        yield


@contextmanager
def _locked(path: Path, taken: str, private: bool, wait_seconds: float = 0.0) -> Iterator[BinaryIO]:
    """`path` opened and locked, made if need be; removed at the end if it still has this name."""
    until = time.monotonic() + wait_seconds
    while (lock := _lock(path, private)) is None:
        if time.monotonic() >= until:
            raise BqError(taken, say("Wait for it, or give another name.", "请等它完成，或换一个文件名。"))
        time.sleep(_TRY_AGAIN_SECONDS)
    try:
        yield lock
    finally:
        is_left = not lock.closed and _is_there(lock, path)
        if os.name == "nt":  # nor removed
            is_left = True
            lock.close()
        if is_left:  # while it is still locked: afterwards it could be another run's
            with suppress(OSError):
                path.unlink()
        lock.close()


def _lock(path: Path, private: bool) -> BinaryIO | None:
    """The file, opened and locked; None if another process has it. Raises BqError if the folder refuses."""
    try:
        lock = _open(path, private)
    except OSError as error:
        raise BqError(
            say(f"{path} cannot be written: {error.strerror}.", f"无法写入 {path}：{error.strerror}。"),
            say("Check the folder's permissions, or give another name.", "请检查文件夹权限，或换一个文件名。"),
        ) from None
    if _try_lock(lock) and _is_there(lock, path):
        return lock
    lock.close()
    return None


def _open(path: Path, private: bool) -> BinaryIO:
    mode = _PRIVATE if private else _COMMON
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, flags, mode)
    if private and os.name != "nt":
        os.fchmod(handle, mode)
    return os.fdopen(handle, "ab")


def _try_lock(file: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(_LOCK_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_there(file: BinaryIO, path: Path) -> bool:
    """Whether `path` still is the open file: another run may have named it since, and it must not be truncated then."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
