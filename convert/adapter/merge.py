"""What adapters add to the rows of a tensor: factor * (B @ A) for each, computed for the rows at hand and no others.

Promise: a row comes out the same to the bit whatever the chunk it is asked for in, so that a file can be compared with its
sources later. Products are summed in float64, in tiles of rows that always begin at the same places and have the same shape, for
a BLAS may round another shape otherwise; base and deltas are rounded to float32 once, together. Memory does not grow with
the tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.convert.source import SourceTensor, aligned
from bq.runtime import ggml
from bq.runtime.language import Both

F32Array = npt.NDArray[np.float32]
F64Array = npt.NDArray[np.float64]
_ALL = slice(None)
_TILE_ROWS = 64
_RANKS = 256  # taken at a time: with 13,696 columns 28 MB


@dataclass(frozen=True)
class Term:
    """One adapter's pair for one matrix [rows, columns], which `left` @ `right` is as large as.

    `a` is [rank, columns] and `b` [rows, rank]. Of an embedding PEFT adds (B @ A).T: there `a` is [rank, rows] and `b`
    [columns, rank].
    """

    adapter: str
    factor: float
    a: SourceTensor
    b: SourceTensor
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def left(self, rows: slice, ranks: slice = _ALL) -> F32Array:
        """Of the first factor [rows, ranks]."""
        return _widened(self.a, (ranks, rows)).T if self.is_embedding else _widened(self.b, (rows, ranks))

    def right(self, ranks: slice = _ALL) -> F32Array:
        """Of the second factor [ranks, columns]."""
        return _widened(self.b, (_ALL, ranks)).T if self.is_embedding else _widened(self.a, (ranks, _ALL))


@dataclass(frozen=True)
class Delta:
    """What is added to one source tensor."""

    terms: tuple[Term, ...]

    def add(self, order: npt.NDArray[np.intp] | slice, wide: F32Array) -> None:
        """Add to `wide` [n, columns], which holds the source's rows `order`, what belongs to these."""
        rows = np.arange(order.start, order.stop) if isinstance(order, slice) else order
        tiles = rows // _TILE_ROWS
        places = [(int(tile) * _TILE_ROWS, np.flatnonzero(tiles == tile)) for tile in np.unique(tiles)]
        total = wide.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # who asks looks whether the sums are finite
            for term in self.terms:
                for start in range(0, term.rank, _RANKS):
                    ranks = slice(start, start + _RANKS)
                    right = term.right(ranks).astype(np.float64)
                    for first, inside in places:
                        product = _tile(term, first, ranks) @ right
                        total[inside] += term.factor * product[rows[inside] - first]
            wide[...] = total


@dataclass(frozen=True)
class Adapted:
    """What adapters make of a checkpoint: `deltas` by the name of the source tensor, `replaced` the names of those that they
    replace whole. `labels` are NAME or NAME:WEIGHT, `tokenizer_folder` is where a vocabulary of another size is.
    """

    labels: tuple[str, ...] = ()
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    tokenizer_folder: Path | None = None
    notes: tuple[Both, ...] = ()


def _tile(term: Term, first: int, ranks: slice) -> F64Array:
    """Rows of the first factor from `first` on, filled up with zeros where the tensor ends."""
    part = term.left(slice(first, first + _TILE_ROWS), ranks)
    tile = np.zeros((_TILE_ROWS, part.shape[1]))
    tile[: len(part)] = part
    return tile


def _widened(tensor: SourceTensor, part: tuple[slice, slice]) -> F32Array:
    rows = aligned(tensor.view()[part])
    wide = np.empty(rows.shape, np.float32)
    ggml.widen(rows, wide)
    return wide
