"""Where long work may write: refused before it begins, so that hours are not spent for a name that is taken."""

from pathlib import Path

from bq.runtime.errors import UsageError
from bq.runtime.language import say


def check_output(out: Path, force: bool) -> None:
    """Raise UsageError if the path exists (no file may be replaced unless `force`d, anything else never) or has no folder."""
    if out.exists() and not out.is_file():
        raise UsageError(
            say(f"{out} is a folder or a device.", f"{out} 是文件夹或设备。"),
            say("Give a file name with -o.", "请用 -o 给出文件名。"),
        )
    if not force:
        refuse_existing(out)
    if not out.parent.is_dir():
        raise UsageError(
            say(f"There is no folder {out.parent}.", f"没有文件夹 {out.parent}。"),
            say("Make it first, or give another -o.", "请先创建，或用 -o 指定其他位置。"),
        )


def refuse_existing(out: Path) -> None:
    """Raise UsageError if there is something of this name."""
    if out.exists():
        raise UsageError(
            say(f"{out} exists already.", f"{out} 已存在。"),
            say("Use --force to replace it, or -o for another name.", "用 --force 覆盖，或用 -o 指定其他名称。"),
        )
