"""A file that gets its name only when it is whole.

Everything is written to `NAME.part` beside the output, which is locked while it is written: what a killed run left
behind is recognised by its missing lock and cleared by the next run, and two runs cannot write the same file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

_LOCK_BYTE = 1 << 62  # Windows locks byte ranges against reading too: one far behind any data


def check_output(out: Path, force: bool, need_bytes: int) -> None:
    """Raise UsageError or BqError if `out` exists, its folder does not, or the disk has too little space."""
    if out.exists() and not out.is_file():
        raise UsageError(
            say(f"{out} is a folder or a device.", f"{out} 是文件夹或设备。"),
            say("Give a file name with -o.", "请用 -o 给出文件名。"),
        )
    if not force:
        _refuse_existing(out)
    if not out.parent.is_dir():
        raise UsageError(
            say(f"There is no folder {out.parent}.", f"没有文件夹 {out.parent}。"),
            say("Make it first, or give another -o.", "请先创建，或用 -o 指定其他位置。"),
        )
    part = part_path(out)
    free = shutil.disk_usage(out.parent).free + (part.stat().st_size if part.exists() else 0)
    if free < need_bytes:
        raise BqError(
            say(
                f"{out.parent} has {free / 1e9:.2f} GB free, the file needs {need_bytes / 1e9:.2f} GB.",
                f"{out.parent} 剩余 {free / 1e9:.2f} GB，而文件需要 {need_bytes / 1e9:.2f} GB。",
            ),
            say(
                "Free some space, use a smaller mixture (-q), or another disk (-o).",
                "请腾出空间、改用更小的量化（-q），或换一块磁盘（-o）。",
            ),
        )


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UsageError(
            say(f"{out} exists already.", f"{out} 已存在。"),
            say("Use --force to replace it, or -o for another name.", "用 --force 覆盖，或用 -o 指定其他名称。"),
        )


def part_path(out: Path) -> Path:
    """Where `out` is written until it is whole."""
    return out.with_name(out.name + ".part")


@contextmanager
def writing(out: Path, force: bool = False) -> Iterator[Path]:
    """The path to write to; renamed to `out` when the block ends well, removed when it does not.

    Raises BqError if another process is writing the same file, or the disk refuses.
    """
    part = part_path(out)
    try:
        lock = part.open("ab")
    except OSError as error:
        raise BqError(
            say(f"{part} cannot be written: {error.strerror}.", f"无法写入 {part}：{error.strerror}。"),
            say("Check the folder's permissions, or give another -o.", "请检查文件夹权限，或用 -o 指定其他位置。"),
        ) from None
    if not _try_lock(lock) or not _is_there(lock, part):
        lock.close()
        raise BqError(
            say(f"Another bq is writing {out.name}.", f"另一个 bq 正在写 {out.name}。"),
            say("Wait for it, or give another -o.", "请等它完成，或用 -o 指定其他名称。"),
        )
    try:
        lock.truncate(0)
        yield part
        if os.name == "nt":  # a file cannot be renamed there while it is open
            lock.close()
        if not force:  # it may have appeared since the work began
            _refuse_existing(out)
        os.replace(part, out)
        _sync_folder(out.parent)
    except BaseException:
        if os.name == "nt":
            lock.close()
        part.unlink(missing_ok=True)  # while it is still locked: afterwards it could be another run's
        raise
    finally:
        lock.close()


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
