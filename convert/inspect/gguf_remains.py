"""A GGUF file for looking at, also one that bq does not run: a download that broke off, a type of a newer llama.cpp.

bq.runtime.gguf_file refuses such a file, as it must before C code sees it. Here it is only shown: what stands before the
fault is kept, and nothing after it is guessed.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile, place_tensors
from bq.runtime.gguf_header import Claim, Header, read_header


@dataclass(frozen=True)
class TensorLine:
    """A tensor as its file declares it, `shape` as [rows, columns].

    The size is None for a type that nobody here knows, `start` where the header does not tell where the data begins.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    size_bytes: int | None
    start: int | None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Remains:
    """A file as far as it can be read. With a `fault`, `file` has no tensors: none of them may be looked into.

    `has_whole_header` tells whether a key or tensor that is not here is not in the file either.
    """

    file: GgufFile
    tensors: tuple[TensorLine, ...]
    fault: BqError | None
    has_whole_header: bool

    @property
    def expected_bytes(self) -> int:
        """Where the last tensor ends, be it beyond the file's end; 0 where that cannot be told."""
        return max((one.start + (one.size_bytes or 0) for one in self.tensors if one.start is not None), default=0)


def read_remains(path: Path) -> Remains:
    """The file, or what is left of it. Raises BqError for what is no GGUF file of a known version at all."""
    header = read_header(path)
    file = GgufFile(path, header.metadata, {}, header.size_bytes, header.kinds)
    fault = header.fault
    if fault is None:
        try:
            file = place_tensors(header)
        except BqError as error:
            fault = error
    return Remains(file, tuple(_line(header, claim) for claim in header.claims), fault, header.fault is None)


def _line(header: Header, claim: Claim) -> TensorLine:
    kind, size = _type(claim.kind, math.prod(claim.shape))
    start = None if header.data_start is None else header.data_start + claim.offset
    return TensorLine(claim.name, kind, claim.shape, size, start)


def _type(number: int, weights: int) -> tuple[str, int | None]:
    """The name of a tensor type, of those too that bq does not run, and the bytes of so many weights."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        return f"type {number}", None
    block, size = GGML_QUANT_SIZES[kind]
    return kind.name, weights // block * size
