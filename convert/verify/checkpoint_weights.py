"""The weights of a prepared checkpoint by the names that a file has for them, multiplied with a slab of rows at a time in threads.

Rows come in the checkpoint's own order, not in that of a GGUF file, and with what adapters add; of a stacked tensor only the
experts that are asked for are read. With noise they are those of a model as far from the checkpoint as a quantized file is.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bq.convert.plan import PlannedTensor
from bq.convert.source import aligned
from bq.convert.verify.layers import Floats
from bq.runtime import ggml

Part = TypeVar("Part")
_SLAB_WEIGHTS = 1 << 20  # widened at a time by a thread, 4 MiB
_TINY = np.float32(1e-12)  # torch.nn.functional.normalize's eps


class CheckpointWeights:
    """The tensors of a plan for whoever computes with them. `noise` is the relative error that each row of a matrix is given."""

    def __init__(self, tensors: Iterable[PlannedTensor], threads: int, noise: float = 0) -> None:
        self._tensors = {tensor.name: tensor for tensor in tensors}
        self._threads = threads
        self._noise = np.float32(noise)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="forward")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> PlannedTensor:
        return self._tensors[name]

    def vector(self, name: str) -> Floats:
        """A norm or a bias."""
        values: Floats = _rows(self._tensors[name], slice(0, 1)).reshape(-1)
        return values

    def rows(self, name: str, numbers: Sequence[int]) -> Floats:
        """Some rows of a matrix."""
        return _rows(self._tensors[name], np.asarray(numbers, np.intp))

    def linear(self, x: Floats, name: str) -> Floats:
        """x [tokens, columns] times a matrix [rows, columns], plus its bias if it has one."""
        y = self._product(x, self._tensors[f"{name}.weight"])
        return y + self.vector(f"{name}.bias") if f"{name}.bias" in self._tensors else y

    def linear_of_expert(self, x: Floats, name: str, expert: int) -> Floats:
        """The same with the matrix of one expert."""
        tensor = self._tensors[f"{name}.weight"]
        height = tensor.shape[1]
        (one, _, _), *_ = tensor.parts(expert * height, (expert + 1) * height)
        return self._product(x, one)

    def unit_linear(self, x: Floats, name: str) -> Floats:
        """The same with each row of the matrix divided by its L2 norm, as NormHead has it."""
        return self._product(x, self._tensors[f"{name}.weight"], normalise=True)

    def each(self, work: Callable[[Part], None], parts: Iterable[Part]) -> None:
        """Do each part of a work, in threads."""
        for _ in self._pool.map(work, parts):
            pass

    def _product(self, x: Floats, tensor: PlannedTensor, normalise: bool = False) -> Floats:
        y = np.empty((len(x), tensor.rows), np.float32)

        def multiply(rows: slice) -> None:
            weight = _rows(tensor, rows)
            if self._noise:
                weight += self._noise * _noise_like(weight, tensor.name, rows.start)
            if normalise:
                weight /= np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), _TINY)
            y[:, rows] = x @ weight.T

        self.each(multiply, _slabs(tensor))
        return y


def _slabs(tensor: PlannedTensor) -> Iterator[slice]:
    """A matrix in runs of rows, which are read ahead from the disk."""
    step = max(1, _SLAB_WEIGHTS // tensor.columns)
    for start in range(0, tensor.rows, step):
        rows = slice(start, min(start + step, tensor.rows))
        tensor.source.will_need(tensor.first_row + start, rows.stop - start)
        yield rows


def _rows(tensor: PlannedTensor, rows: slice | npt.NDArray[np.intp]) -> Floats:
    """Rows as the checkpoint has them, widened, with the deltas of its adapters."""
    first = tensor.first_row
    order = slice(first + rows.start, first + rows.stop) if isinstance(rows, slice) else first + rows
    narrow = aligned(tensor.source.rows(order))
    wide = np.empty(narrow.shape, np.float32)
    ggml.widen(narrow, wide)
    if tensor.delta is not None:
        tensor.delta.add(order, wide)
    return wide


def _noise_like(weight: Floats, name: str, first: int) -> Floats:
    """Normal noise with the L2 norm of each row, the same for the same rows."""
    values = np.random.default_rng((zlib.crc32(name.encode()), first)).standard_normal(weight.shape, np.float32)
    size = np.linalg.norm(weight, axis=1, keepdims=True) / np.sqrt(np.float32(weight.shape[1]))
    return np.asarray(values * size)
