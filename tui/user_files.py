"""Files that the user names: found by what was typed, and written whole or not at all."""

import os
from pathlib import Path

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say


def path_named(text: str) -> Path:
    """The path that was typed. Raises UsageError for `~name` of nobody."""
    try:
        return Path(text.strip()).expanduser()
    except RuntimeError as error:
        raise UsageError(str(error)) from None


def file_named(text: str) -> Path:
    """The path of a file that is there. Raises UsageError if there is none."""
    path = path_named(text)
    if not is_there(path):
        raise UsageError(say(f"There is no file {path}.", f"没有文件 {path}。"), say("Check the path.", "请检查路径。"))
    return path


def is_there(path: Path) -> bool:
    """Whether there is a file of this name, as far as the system lets one see."""
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered, a name that is too long
        return False


def write_text(path: Path, text: str, force: bool = False) -> None:
    """Write a file that only the user may read. Raises BqError if that fails, or there is one already and no `force`."""
    from bq.runtime.atomic_file import replacing

    try:
        if path.exists() and not force:
            raise UsageError(
                say(f"{path} exists already.", f"{path} 已存在。"),
                say("Give another name; /export! replaces it.", "请换一个名称；/export! 可覆盖。"),
            )
        with replacing(path, private=True) as part, part.open("wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BqError(
            say(f"{path} cannot be written: {error.strerror}.", f"无法写入 {path}：{error.strerror}。"),
            say("Check the folder and the disk.", "请检查文件夹与磁盘。"),
        ) from None
