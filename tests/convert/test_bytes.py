"""Acceptance 4: for every mixture our file is, byte for byte, the one that llama.cpp's own quantizer makes from our F32 file.

Types depend on the block and the row width, bytes on the row alone; so the weights of most blocks are zero (their search
ends at once) and those of the first, the last and two in between are random.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bq.convert.convert import Conversion, convert, prepare
from bq.convert.mixture import MIXTURES
from bq.runtime.gguf_file import read_gguf
from tests.support.families import Family, Shape, write_checkpoint
from tests.support.llama import quantize_with_llama
from tests.support.stored import Stored, stored

LIVE_BLOCKS = {0, 6, 17, 31, 39}


@dataclass(frozen=True)
class Widths:
    """Hidden and FFN width; 256-wide types need multiples of 256, 32-wide ones of 32, and 48 is neither."""

    name: str
    hidden: int
    heads: int
    ffn: int


WIDTHS = (
    Widths("both-256", 256, 4, 256),
    Widths("ffn-not-256", 256, 4, 352),  # as the 13B releases: 5120 and 13,696
    Widths("none-256", 192, 6, 320),
    Widths("ffn-not-32", 256, 4, 144),
)


def _mostly_zero(tensors: list[Stored]) -> list[Stored]:
    def is_dead(name: str) -> bool:
        parts = name.split(".")
        return parts[1] == "layers" and int(parts[2]) not in LIVE_BLOCKS and "norm" not in name

    return [stored(t.name, np.zeros(t.shape, np.float32), "bf16") if is_dead(t.name) else t for t in tensors]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Family, Widths], Path]:
    """The folder of a checkpoint, with its F32 conversion beside it as f32.gguf; made once per family and widths."""
    made: dict[tuple[Family, str], Path] = {}

    def get(family: Family, widths: Widths) -> Path:
        key = (family, widths.name)
        if key not in made:
            folder = tmp_path_factory.mktemp("bytes") / "model"
            shape = Shape(family=family, hidden=widths.hidden, heads=widths.heads, ffn=widths.ffn)
            write_checkpoint(folder, shape, edit=_mostly_zero)
            convert(prepare(folder, "F32"), folder / "f32.gguf", threads=2)
            made[key] = folder
        return made[key]

    return get


# Types depend on the number of blocks (32 or 40) and the widths; that of the generation is seen with one of the widths.
@pytest.mark.parametrize(
    ("family", "widths"),
    [*itertools.product(("b1-7b", "b2-13b"), WIDTHS), ("b2-7b", WIDTHS[0])],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_mixture_is_llama_cpps_own_file(
    prepared: Callable[[Family, Widths], Path], tmp_path: Path, family: Family, widths: Widths
) -> None:
    folder = prepared(family, widths)
    for mixture in MIXTURES.values():
        ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        conversion = prepare(folder, mixture.name)
        convert(conversion, ours, threads=2, force=True)
        quantize_with_llama(folder / "f32.gguf", theirs, mixture.file_type)
        assert ours.read_bytes() == theirs.read_bytes(), _first_difference(ours, theirs, conversion)


def _first_difference(ours: Path, theirs: Path, conversion: Conversion) -> str:
    left, right = read_gguf(ours), read_gguf(theirs)
    for key in {**left.metadata, **right.metadata}:
        if left.metadata.get(key) != right.metadata.get(key):
            return f"{conversion.mixture.name}: metadata {key} differs"
    for name, one in left.tensors.items():
        other = right.tensors.get(name)
        if other is None or (one.kind, one.shape) != (other.kind, other.shape):
            return f"{conversion.mixture.name}: {name} is {one}, llama.cpp's is {other}"
        if (left.bytes[one.start :][: one.size_bytes] != right.bytes[other.start :][: one.size_bytes]).any():
            return f"{conversion.mixture.name}: the bytes of {name} ({one.kind.name}) differ"
    return f"{conversion.mixture.name}: the order or the padding differs"
