"""What the files of a checkpoint that lies here have to hold, where that is known: of a Hugging Face cache, or downloaded by bq."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bq.convert.file_hash import SHA1_DIGITS, SHA256_DIGITS, FileHash
from bq.library.needed import SETTINGS
from bq.library.sources.hashes import remembered_digest
from bq.library.sources.source import is_hash


def known_hashes(folder: Path, weights: Sequence[Path]) -> tuple[FileHash, ...]:
    """The hashes of what a conversion reads: settings and tokenizer of a folder, and its files of weights."""
    return tuple(_known(path for path in (*map(folder.joinpath, sorted(SETTINGS)), *weights) if path.is_file()))


def _known(paths: Iterable[Path]) -> Iterator[FileHash]:
    for path in paths:
        digest = _name_in_cache(path) or remembered_digest(path)
        if digest is not None:
            yield FileHash(path, path.stat().st_size, digest)


def _name_in_cache(path: Path) -> str | None:
    """The cache names bytes by their hash (bq.library.sources.hub_cache)."""
    real = Path(os.path.realpath(path))
    is_named = real.parent.name == "blobs" and any(is_hash(real.name, d) for d in (SHA256_DIGITS, SHA1_DIGITS))
    return real.name if is_named else None
