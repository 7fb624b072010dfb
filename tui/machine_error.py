"""What the machine refuses, a full disk or a folder without permission, as one line with what to do about it."""

import errno

from bq.runtime.errors import BqError
from bq.runtime.language import say


def of_machine(error: OSError) -> BqError:
    """What the machine refuses, and what to do about it."""
    named = f": {error.filename}" if error.filename else ""
    remedies = {
        errno.EACCES: say("Check the permissions.", "请检查权限。"),
        errno.EPERM: say("Check the permissions.", "请检查权限。"),
        errno.EROFS: say("Choose another place.", "请换一个位置。"),
        errno.ENOSPC: say("Free some space.", "请腾出空间。"),
        errno.EDQUOT: say("Free some space.", "请腾出空间。"),
        errno.ENOENT: say("Check the name.", "请检查名称。"),
        errno.ENAMETOOLONG: say("Choose a shorter one.", "请换一个较短的名称。"),
        errno.EMFILE: say("Raise the limit of open files (ulimit -n).", "请提高打开文件数的上限（ulimit -n）。"),
        errno.ENOMEM: say("Close other programs.", "请关闭其他程序。"),
        errno.EIO: say("Check the disk.", "请检查磁盘。"),
    }
    remedy = remedies.get(error.errno or 0, say("Check the file and the disk.", "请检查文件与磁盘。"))
    return BqError(f"{error.strerror or error}{named}{say('.', '。')}", remedy)
