"""Every weight of a file beside the checkpoint's: the same bytes as a fresh quantization, or how far from it each row is.

Chunks of rows go to threads; what comes back of them is a few numbers for each row. The checkpoint and the file are mapped,
so that memory does not grow with the model.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bq.convert.plan import PlannedTensor
from bq.convert.quantizer import Quantizer
from bq.convert.rows import wide_rows
from bq.convert.verify.blas import one_thread_each
from bq.convert.verify.limits import TINY_WEIGHT
from bq.convert.verify.value_checks import packed_rows
from bq.runtime import ggml
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry

Floats = npt.NDArray[np.float32]
_CHUNK_WEIGHTS, _TRIAL_WEIGHTS = 1 << 20, 1 << 16
_TRIAL_SHARE = 0.25  # of the blocks: a flipped bit changes one, another quantizer nearly all that are not zeros
_KEPT = 8  # places of differing blocks that are remembered
# ggml ends the process if one of these is to be quantized without an importance matrix.
_NEED_IMPORTANCE = {GgmlType.IQ2_XXS, GgmlType.IQ2_XS, GgmlType.IQ1_S, GgmlType.IQ1_M}


@dataclass(frozen=True)
class Place:
    """A block of a tensor, and how far it is from the checkpoint, relative to its own size."""

    row: int
    block: int
    error: float


@dataclass(frozen=True)
class Compared:
    """A tensor beside the checkpoint's.

    `errors` are the rows' relative L2 errors, `rms` that of the whole tensor. `different` counts blocks whose bytes are others
    than a fresh quantization's, `places` the first of them; None where the file was not quantized so. `worst` is the block that
    is the furthest away.
    """

    planned: PlannedTensor
    entry: TensorEntry
    errors: npt.NDArray[np.float64]
    rms: float
    blocks: int
    different: int | None
    places: tuple[Place, ...]
    worst: Place

    @property
    def name(self) -> str:
        return self.planned.name


@dataclass(frozen=True)
class _Rows:
    """A chunk: squares of errors and of the weights themselves by row, blocks that differ, the worst one."""

    errors: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    different: int
    places: tuple[Place, ...]
    worst: Place


def compare(
    file: GgufFile,
    tensors: Sequence[PlannedTensor],
    quantizer: Quantizer,
    threads: int,
    progress: Callable[[float, str], None],
) -> Iterator[Compared]:
    """Each planned tensor beside the file's of its name, which has its shape and type. `progress` hears the part done and of what.

    Raises BqError for a weight of the checkpoint that is not finite.
    """
    entries = [file.tensors[tensor.name] for tensor in tensors]
    for kind in {entry.kind for entry in entries}:
        ggml.prepare(kind)
    whole, done = sum(tensor.weights for tensor in tensors), 0
    with one_thread_each(), ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for tensor, entry in zip(tensors, entries, strict=True):
            progress(done / whole, tensor.name)
            yield _compare(file, tensor, entry, quantizer, pool)
            done += tensor.weights
    progress(1.0, "")


def _compare(
    file: GgufFile, tensor: PlannedTensor, entry: TensorEntry, quantizer: Quantizer, pool: ThreadPoolExecutor
) -> Compared:
    """The first rows tell whether the rest is worth quantizing again."""
    trial = min(tensor.rows, max(1, _TRIAL_WEIGHTS // tensor.columns))
    is_possible = tensor.importance is not None or tensor.kind not in _NEED_IMPORTANCE
    again = quantizer if is_possible else None
    first = _compare_rows(file, tensor, entry, again, 0, trial)
    if again and first.different > max(1, _TRIAL_SHARE * _blocks(tensor, trial)):
        again = None
    step = max(1, _CHUNK_WEIGHTS // tensor.columns)
    starts = range(trial, tensor.rows, step)
    rest = pool.map(lambda at: _compare_rows(file, tensor, entry, again, at, min(at + step, tensor.rows)), starts)
    return _joined(tensor, entry, [first, *rest], again is not None)


def _blocks(tensor: PlannedTensor, rows: int) -> int:
    return rows * tensor.columns // ggml.block_size(tensor.kind)[0]


def _joined(tensor: PlannedTensor, entry: TensorEntry, parts: Sequence[_Rows], again: bool) -> Compared:
    errors, weights = (np.concatenate([getattr(part, name) for part in parts]) for name in ("errors", "weights"))
    floor = tensor.columns * TINY_WEIGHT**2
    with np.errstate(invalid="ignore"):
        relative = np.sqrt(errors / np.maximum(weights, floor))
        rms = float(np.sqrt(errors.sum() / max(weights.sum(), floor)))
    places = [place for part in parts for place in part.places]
    return Compared(
        planned=tensor,
        entry=entry,
        errors=relative,
        rms=rms,
        blocks=_blocks(tensor, tensor.rows),
        different=sum(part.different for part in parts) if again else None,
        places=tuple(places[:_KEPT]) if again else (),
        worst=max((part.worst for part in parts), key=lambda place: place.error),
    )


def _compare_rows(
    file: GgufFile, tensor: PlannedTensor, entry: TensorEntry, again: Quantizer | None, start: int, stop: int
) -> _Rows:
    packed = packed_rows(file, entry, start, stop)
    width, size = ggml.block_size(tensor.kind)
    wide = np.empty((stop - start, tensor.columns), np.float32)
    differs = np.empty((0, 2), np.intp)
    if again is not None:
        fresh = again.quantize(tensor, start, stop, wide)
        if not np.array_equal(fresh, packed):
            blocks = (fresh != packed).reshape(stop - start, -1, size).any(axis=2)
            differs = np.argwhere(blocks)
    wide_rows(tensor, start, stop, wide)
    error, row_squares = _errors(ggml.dequantize(tensor.kind, packed, tensor.columns), wide)
    blocks_of = max(width, _LEAST_BLOCK if tensor.columns % _LEAST_BLOCK == 0 else width)
    by_block = _block_errors(error, wide, row_squares, blocks_of)
    row, block = np.unravel_index(int(np.argmax(by_block)), by_block.shape)
    places = [
        Place(start + int(i), int(j), float(by_block[i, int(j) * width // blocks_of])) for i, j in differs[:_KEPT]
    ]
    return _Rows(
        errors=_finite(np.einsum("ij,ij->i", error, error)),
        weights=row_squares,
        different=len(differs),
        places=tuple(places),
        worst=Place(start + int(row), int(block) * blocks_of // width, float(by_block[row, block])),
    )


_LEAST_BLOCK = 32  # weights whose error is looked at together, where a type's block is smaller


def _errors(found: Floats, wide: Floats) -> tuple[Floats, npt.NDArray[np.float64]]:
    with np.errstate(all="ignore"):
        found -= wide
    return found, np.einsum("ij,ij->i", wide, wide).astype(np.float64)


def _block_errors(error: Floats, wide: Floats, row_squares: npt.NDArray[np.float64], width: int) -> Floats:
    """Relative errors [rows, blocks]; of a block much smaller than its row, relative to a tenth of the row's mean."""
    rows, blocks = len(error), error.shape[1] // width
    shape = (rows, blocks, width)
    errors, weights = (np.einsum("ijk,ijk->ij", one, one) for one in (error.reshape(shape), wide.reshape(shape)))
    floor = np.maximum(row_squares[:, np.newaxis] / blocks * 0.01, width * TINY_WEIGHT**2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(_finite(errors) / np.maximum(weights, floor)), np.float32)


def _finite(squares: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Squares of errors; a weight that is no number is infinitely wrong."""
    return np.nan_to_num(squares.astype(np.float64), nan=np.inf, posinf=np.inf)
