"""What taking a model out of the library removes from the disk: known before, and told afterwards.

Only files that bq made or downloaded into places of its own go by themselves; any other is the user's, and only forgotten.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bq.library.downloads import SNAPSHOTS, is_snapshot, remove_download
from bq.library.entry import Entry, Origin
from bq.library.home import models_folder
from bq.library.model_licences import drop_licences, keep_licences
from bq.library.registry import entries, forget
from bq.library.registry_file import changing
from bq.library.sources.open import SOURCES
from bq.runtime.errors import BqError
from bq.runtime.language import say


@dataclass(frozen=True)
class Removal:
    """A model to take out. `files` go from the disk, and so does `checkpoint`; `bytes` is what that frees."""

    entry: Entry
    files: tuple[Path, ...]
    checkpoint: Path | None
    bytes: int


def plan_removal(entry: Entry, delete_file: bool = False, checkpoint: bool = False) -> Removal:
    """What would go. Raises BqError for a checkpoint that bq did not download."""
    files = tuple(_files(entry)) if delete_file or is_own(entry) else ()
    folder = _checkpoint(entry) if checkpoint else None
    return Removal(entry, files, folder, _size([*files, *(folder.rglob("*") if folder else ())]))


def remove(removal: Removal) -> None:
    """The checkpoint goes first: if it cannot, the model is as it was. What is interrupted later is shown as missing.

    Raises BqError or OSError for what the system does not let go; what is still there stays in the library.
    """
    if removal.checkpoint is not None:
        remove_checkpoint(removal.checkpoint)
    for path in removal.files:
        path.unlink(missing_ok=True)
    forget(removal.entry)
    if removal.files and all(one.digest != removal.entry.digest for one in entries()):
        drop_licences(removal.entry)


def is_own(entry: Entry) -> bool:
    """Whether bq made the file for itself or downloaded it, and not the user to a place of his own."""
    if entry.path.parent == models_folder().absolute():
        return True
    is_file_of_it = entry.checkpoint is not None and entry.checkpoint in entry.path.parents
    return is_file_of_it and is_downloaded(entry.source)


def is_downloaded(origin: Origin | None) -> bool:
    """Whether what a model was made from was downloaded, and is not a folder of the user's."""
    return origin is not None and origin.source in SOURCES


def models_in(folder: Path, but: Entry) -> Sequence[Entry]:
    """The other models of the library that lie in a download: GGUF files of one repository share a folder."""
    return [one for one in entries() if one.name != but.name and folder in one.path.parents]


def made_from(folder: Path, but: Entry) -> Sequence[Entry]:
    """The other models that were made from a checkpoint; they go on without it."""
    return [one for one in entries() if one.name != but.name and one.checkpoint == folder]


def remove_checkpoint(folder: Path) -> None:
    """Remove a downloaded checkpoint, but for its licence texts where models made from it stay, and what the library knows of it.

    Raises BqError if it cannot be.
    """
    for one in entries():
        if one.checkpoint == folder and not one.is_missing and folder not in one.path.parents:
            keep_licences(one.path, folder)
    remove_download(folder)
    with changing() as library:
        library[:] = [replace(one, checkpoint=None) if one.checkpoint == folder else one for one in library]


def folder_bytes(folder: Path) -> int:
    """What removing a folder frees."""
    return _size(folder.rglob("*"))


def _checkpoint(entry: Entry) -> Path | None:
    folder = entry.checkpoint
    if folder is None or not folder.is_dir():
        return None
    if not is_downloaded(entry.source):
        raise BqError(
            say(f"The checkpoint {folder} was not downloaded by bq.", f"检查点 {folder} 不是由 bq 下载的。"),
            say("Remove it by hand.", "请手动删除。"),
        )
    if others := models_in(folder, entry):
        names = ", ".join(one.name for one in others)
        raise BqError(
            say(f"The checkpoint {folder} holds other models: {names}.", f"检查点 {folder} 中还有其他模型：{names}。"),
            say("Remove those first, or leave out --checkpoint.", "请先移除它们，或去掉 --checkpoint。"),
        )
    return folder


def _files(entry: Entry) -> Iterator[Path]:
    """The file, what it links to in a download, and the figures beside it."""
    from bq.runtime.evaluation.figures import figures_path

    blob = Path(os.path.realpath(entry.path))
    if entry.checkpoint is not None and is_snapshot(entry.checkpoint) and _is_only_link(entry.path, blob):
        yield blob
    yield from (path for path in (entry.path, figures_path(entry.path)) if os.path.lexists(path))


def _is_only_link(path: Path, blob: Path) -> bool:
    """Whether nothing else of its repository needs the bytes that a link in a snapshot points to."""
    repository = next((one.parent.parent for one in path.parents if is_snapshot(one)), None)
    if repository is None or not path.is_symlink() or blob.parent != Path(os.path.realpath(repository / "blobs")):
        return False
    others = (one for one in (repository / SNAPSHOTS).rglob("*") if one != path and one.is_symlink())
    return all(os.path.realpath(one) != str(blob) for one in others)


def _size(paths: Iterable[Path]) -> int:
    """Of all files, each once by whatever links; a link in a user's own folder frees nothing but itself."""
    return sum(os.path.getsize(real) for real in {os.path.realpath(path) for path in paths} if os.path.isfile(real))
