"""Without a network: whether the user wants it so (`--offline`, or the variables that huggingface_hub heeds), and what is here
anyway.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from bq.library.sources.hashes import is_right
from bq.library.sources.several import each
from bq.library.sources.source import Listing, RemoteFile, Watcher, local_path
from bq.runtime.errors import BqError
from bq.runtime.language import say

_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Whether the environment says so."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in _VARIABLES)


def not_here(what: str, where: str) -> BqError:
    """The refusal of what is not on this computer, with what works without a network."""
    return BqError(
        say(
            f"bq is offline, and {what} is not whole in {where}.",
            f"bq 处于离线模式，而 {where} 中没有完整的 {what}。",
        ),
        say(
            "Give a folder or USB stick that holds it, or go online once (no --offline, no HF_HUB_OFFLINE).",
            "请给出含有它的文件夹或 U 盘，或联网一次（去掉 --offline 与 HF_HUB_OFFLINE）。",
        ),
    )


def check_here(listing: Listing, folder: Path, files: Iterable[RemoteFile], watcher: Watcher) -> None:
    """Raise BqError unless each of the files lies in `folder` and is right."""

    def check(file: RemoteFile, inner: Watcher) -> None:
        if not is_right(local_path(folder, file), file, inner):
            raise not_here(f"{listing.repository}: {file.path}", str(folder))
        inner.report(file.path, file.size, file.size)

    each(files, check, watcher)
