"""A second name for a file instead of a second copy of its gigabytes."""

import os
from pathlib import Path

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say


def link(target: Path, place: Path) -> None:
    """Make `place` a symbolic link to `target`, or a hard link where the system wants a right for those.

    What is there already stays if it is the same file. Raises UsageError if it is another one, BqError if neither link can
    be made.
    """
    if os.path.lexists(place):
        if place.exists() and place.samefile(target):
            return
        raise UsageError(
            say(f"{place} exists already and is another file.", f"{place} 已存在，且是另一个文件。"),
            say("Remove it, or give another folder with -o.", "请删除它，或用 -o 指定其他文件夹。"),
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    real = target.resolve()
    try:
        place.symlink_to(real)
    except OSError:
        _hard_link(real, place)


def _hard_link(target: Path, place: Path) -> None:
    try:
        place.hardlink_to(target)
    except OSError as error:
        raise BqError(
            say(f"{place} cannot be made a link: {error.strerror}.", f"无法创建链接 {place}：{error.strerror}。"),
            say(
                "Give a folder on the same disk as the file, or allow symbolic links.",
                "请使用与该文件同一磁盘上的文件夹，或允许创建符号链接。",
            ),
        ) from None
