"""The error for what the system does not let bq read: one wording for every kind of file."""

from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.language import say


def unreadable(path: Path | str, error: OSError, remedy: str | None = None) -> BqError:
    """What is wrong in the system's words, and `remedy` where there is more to do than to look at the file."""
    why = error.strerror or error
    return BqError(
        say(f"{path} cannot be read: {why}.", f"无法读取 {path}：{why}。"),
        remedy or say("Check that it is a file that you may read.", "请检查它是否是文件，以及是否有读取权限。"),
    )
