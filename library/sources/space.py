"""Whether what is to come fits the disk, asked before its first byte, and what a full disk is called when it comes anyway."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.language import say

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def bytes_text(size: float) -> str:
    """A size as download pages give it: "15.0 GB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def check_space(folder: Path, size: int) -> None:
    """Raise BqError if the disk of `folder`, which need not exist yet, has fewer than `size` bytes free."""
    there = next((one for one in (folder, *folder.parents) if one.is_dir()), None)
    if there is None:
        return
    free = shutil.disk_usage(there).free
    if free < size:
        raise BqError(
            say(
                f"{bytes_text(size)} are to come, and the disk of {folder} has {bytes_text(free)} free.",
                f"还需下载 {bytes_text(size)}，而 {folder} 所在磁盘只剩 {bytes_text(free)}。",
            ),
            say("Free some space, or set another folder: ", "请腾出空间，或另设文件夹：") + "HF_HUB_CACHE, BQ_HOME.",
        )


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turns what goes wrong on the disk into BqError."""
    try:
        yield
    except OSError as error:
        raise write_error(Path(error.filename or path), error) from None


def write_error(path: Path, error: OSError) -> BqError:
    """What to say when `path` could not be written."""
    if error.errno in _FULL:
        return BqError(
            say(
                f"The disk is full: {path.parent} takes no more ({error.strerror}).",
                f"磁盘已满：{path.parent} 无法继续写入（{error.strerror}）。",
            ),
            say(
                "What came is kept. Free some space and call it again.",
                "已下载的部分会保留。请腾出空间后再次运行。",
            ),
        )
    return BqError(
        say(f"{path} cannot be written: {error.strerror or error}.", f"无法写入 {path}：{error.strerror or error}。"),
        say("Check the folder and its permissions.", "请检查文件夹与权限。"),
    )
