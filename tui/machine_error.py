"""What the machine refuses, a full disk or a folder without permission, as one line with what to do about it."""

import errno
import os

from bq.runtime.errors import BqError
from bq.runtime.language import say

_SHOWN = 40  # characters of the beginning and of the end of a name that no system takes


def of_machine(error: OSError) -> BqError:
    """What the machine refuses, and what to do about it."""
    named = f": {_shown(error)}" if error.filename else ""
    remedies = {
        errno.EACCES: say("Check the permissions.", "请检查权限。"),
        errno.EPERM: say("Check the permissions.", "请检查权限。"),
        errno.EROFS: say("Choose another place.", "请换一个位置。"),
        errno.ENOSPC: say("Free some space.", "请腾出空间。"),
        errno.EDQUOT: say("Free some space.", "请腾出空间。"),
        errno.ENOENT: say("Check the name.", "请检查名称。"),
        errno.ENAMETOOLONG: say("Give a name of 255 bytes at most.", "请使用不超过 255 字节的名称。"),
        errno.EMFILE: say("Raise the limit of open files (ulimit -n).", "请提高打开文件数的上限（ulimit -n）。"),
        errno.ENOMEM: say("Close other programs.", "请关闭其他程序。"),
        errno.EIO: say("Check the disk.", "请检查磁盘。"),
    }
    remedy = remedies.get(error.errno or 0, say("Check the file and the disk.", "请检查文件与磁盘。"))
    return BqError(f"{error.strerror or error}{named}{say('.', '。')}", remedy)


def _shown(error: OSError) -> str:
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    if error.errno != errno.ENAMETOOLONG or len(name) <= 2 * _SHOWN:
        return name
    return f"{name[:_SHOWN]}…{name[-_SHOWN:]}"
