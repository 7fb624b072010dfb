"""The licence texts that came with a model: in the folder of its checkpoint, or kept in bq's own folder when that was removed.

    licences/DIGEST/LICENSE      DIGEST is that of the model's content (bq.runtime.evaluation.figures)

Kept by the content, because a model may be renamed, moved, or taken out of the library while its file stays.
"""

import shutil
from pathlib import Path

from bq.library.entry import Entry
from bq.library.home import home
from bq.library.licence import licence_files
from bq.library.registry import at
from bq.library.written import write_bytes
from bq.runtime.evaluation.figures import content_of

_HEX = frozenset("0123456789abcdef")


def licences_of_model(path: Path) -> tuple[Path, ...]:
    """The texts of the checkpoint that a model was made from, where the library knows it; else those kept, or beside the file."""
    entry = at(path)
    checkpoint = None if entry is None else entry.checkpoint
    return licence_files(checkpoint) or _kept(path) or licence_files(path.parent)


def keep_licences(model: Path, folder: Path) -> None:
    """Copy the texts of a folder that is about to go. Raises BqError if they cannot be written."""
    for path in licence_files(folder):
        write_bytes(_place(_digest(model)) / path.name, path.read_bytes(), force=True)


def drop_licences(entry: Entry) -> None:
    """Remove the kept texts of a model whose file is gone; that this fails is no reason to fail."""
    if entry.digest and set(entry.digest) <= _HEX:
        shutil.rmtree(_place(entry.digest), ignore_errors=True)


def _kept(model: Path) -> tuple[Path, ...]:
    try:
        return licence_files(_place(_digest(model)))
    except OSError:
        return ()


def _place(digest: str) -> Path:
    return home() / "licences" / digest


def _digest(model: Path) -> str:
    return str(content_of(model)["digest"])
