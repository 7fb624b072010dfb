"""What the library knows of a file: read from its header and some places, never from all of its weights."""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from bq.library.names import slug

if TYPE_CHECKING:
    from bq.runtime.gguf_file import GgufFile


@dataclass(frozen=True)
class Seen:
    """A file as it is now: the fields of Entry, and the name that it would have (see bq.library.names)."""

    path: Path
    name: str
    model: str
    variant: str
    mixture: str
    size_bytes: int
    bits_per_weight: float
    digest: str
    changed: int


def look(path: Path) -> Seen:
    """Raises BqError for what is no whole GGUF file."""
    from bq.runtime.evaluation.figures import content_of
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.known import describe_file

    path = absolute(path)
    file = read_gguf(path)
    known, content = describe_file(file), content_of(path)
    weights = sum(prod(one.shape) for one in file.tensors.values())
    bits = 8 * sum(one.size_bytes for one in file.tensors.values()) / max(1, weights)
    return Seen(
        path,
        name=f"{_model_name(file, known.name)}:{_tag(known.mixture)}",
        model=known.name,
        variant=known.variant,
        mixture=known.mixture,
        size_bytes=content["bytes"],
        bits_per_weight=bits,
        digest=content["digest"],
        changed=path.stat().st_mtime_ns,
    )


def _model_name(file: "GgufFile", name: str) -> str:
    """The release that the file is, else what it calls itself."""
    from bq.convert.named_release import name_file
    from bq.runtime.known import generation_of

    named = name_file(file, generation_of(file) or 2)
    return named.release.name if named else slug(name)


def _tag(mixture: str) -> str:
    return slug(mixture).upper() if mixture != "?" else "other"


def absolute(path: Path) -> Path:
    """The path from the root; links stay, for their names say more than those of what they point to."""
    return Path(os.path.abspath(os.path.expanduser(path)))  # unlike Path's own, leaves the ~name of nobody as it is
