"""Where a conversion writes: checked before the work begins, and named only when it is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bq.runtime.atomic_file import part_path, replacing
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say


def check_output(out: Path, force: bool, need_bytes: int, files: int = 1) -> None:
    """Raise UsageError or BqError if `out` exists, its folder does not, or the disk has too little space for all files."""
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
                f"{out.parent} has {free / 1e9:.2f} GB free, the file{'s need' if files > 1 else ' needs'} {need_bytes / 1e9:.2f} GB.",
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


@contextmanager
def writing(out: Path, force: bool = False) -> Iterator[Path]:
    """The path to write to; renamed to `out` when the block ends well, removed when it does not.

    Raises BqError if another process is writing the same file, or the disk refuses.
    """
    with replacing(out) as part:
        yield part
        if not force:  # it may have appeared since the work began
            _refuse_existing(out)
