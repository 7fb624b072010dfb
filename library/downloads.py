"""Downloads on the disk: a snapshot of the Hugging Face cache, or a commit's folder of bq's own; removed with what is theirs alone."""

from dataclasses import replace
from pathlib import Path

from bq.library.sources import modelscope
from bq.runtime.errors import BqError
from bq.runtime.language import say

SNAPSHOTS = "snapshots"  # of the Hugging Face cache: models--OWNER--NAME/snapshots/COMMIT


def is_snapshot(folder: Path) -> bool:
    """Whether this is the folder of a commit in a Hugging Face cache."""
    return folder.parent.name == SNAPSHOTS and folder.parent.parent.name.startswith("models--")


def is_in_cache(path: Path) -> bool:
    """Whether this is a snapshot, or in one: the cache is shared with other programs."""
    return any(is_snapshot(one) for one in (path, *path.parents))


def remove_download(folder: Path) -> None:
    """Remove the folder of a commit. Raises BqError if it is still there then."""
    if is_snapshot(folder) and folder.is_dir():
        _remove_snapshot(folder)
    elif modelscope.is_download(folder):
        modelscope.remove_download(folder)
    if folder.exists():
        raise BqError(
            say(f"The checkpoint {folder} could not be removed.", f"无法删除检查点 {folder}。"),
            say("Remove it by hand.", "请手动删除。"),
        )


def _remove_snapshot(folder: Path) -> None:
    """Through the cache's own library, which knows what other revisions share with it.

    It looks for a commit in all repositories of the cache, and those that were mirrored by git have the same commits: it is
    shown this one alone.
    """
    from huggingface_hub import scan_cache_dir

    cache, repository = scan_cache_dir(folder.parents[2]), folder.parents[1].resolve()
    alone = replace(cache, repos=frozenset(one for one in cache.repos if one.repo_path == repository))
    if alone.repos:
        alone.delete_revisions(folder.name).execute()
