"""The one pass: rows are read, widened, merged with adapters, reordered or normalised, quantized and written, all at once and
in order.

Worker threads prepare chunks of rows (neither ggml nor a kernel holds the interpreter's lock), the calling thread writes them
in the order of the file. Several files of other types come from the same pass: each chunk is read once for all of
them. No more than a few chunks are ever in memory, whatever the size of the model.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bq.convert.plan import ALIGNMENT, Plan, PlannedTensor
from bq.convert.quantizer import GGML, Quantizer
from bq.convert.rows import wide_rows
from bq.convert.verify.blas import one_thread_each
from bq.runtime import ggml

# Weights per chunk: large enough that Python's share is nothing, small enough that 16 threads stay far below 700 MB.
CHUNK_WEIGHTS = 1 << 20
_AHEAD = 2  # chunks per thread that may wait for the writer


class Sink(Protocol):
    """What a file's data section is written to."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True)
class Target:
    """One file of a pass: its plan, where its data section goes, and who quantizes."""

    plan: Plan
    out: Sink
    quantizer: Quantizer = GGML


@dataclass(frozen=True)
class Progress:
    """How far the pass is: the tensor being written, weights done and in all, bytes written to all files."""

    tensor: str
    weights_done: int
    weights: int
    bytes_written: int


@dataclass(frozen=True)
class _Chunk:
    """Rows [start, stop) of the tensor number `number`, being packed for every target."""

    number: int
    stop: int
    packed: Future[list[npt.NDArray[np.uint8]]]


_Pending: TypeAlias = deque[_Chunk]
_scratch = threading.local()


def write_tensors(targets: Sequence[Target], threads: int, report: Callable[[Progress], None]) -> None:
    """Write the data section of each target. The plans differ in types alone.

    Raises BqError for weights that are not finite; OSError from writing passes through.
    """
    for kind in {tensor.kind for target in targets for tensor in target.plan.tensors}:
        ggml.prepare(kind)
    tensors = targets[0].plan.tensors
    pending: _Pending = deque()
    written = _Written(targets, report)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    alone = ExitStack()
    try:
        if any(tensor.deltas for tensor in tensors):
            alone.enter_context(one_thread_each())
        for number, start, stop in _chunks(tensors):
            if len(pending) >= threads * _AHEAD + 1:
                written.write(pending.popleft())
            tensors[number].will_need(start, stop)
            pending.append(_Chunk(number, stop, pool.submit(_pack, targets, number, start, stop)))
        while pending:
            written.write(pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        alone.close()


def _chunks(tensors: Sequence[PlannedTensor]) -> Iterator[tuple[int, int, int]]:
    for number, tensor in enumerate(tensors):
        step = max(1, CHUNK_WEIGHTS // tensor.columns)
        for start in range(0, tensor.rows, step):
            yield number, start, min(start + step, tensor.rows)


class _Written:
    """What has gone to the files."""

    def __init__(self, targets: Sequence[Target], report: Callable[[Progress], None]) -> None:
        self._targets, self._report = targets, report
        self._weights = 0
        self._bytes = [0] * len(targets)

    def write(self, chunk: _Chunk) -> None:
        """The next chunk, when it is ready."""
        parts = chunk.packed.result()
        tensor = self._targets[0].plan.tensors[chunk.number]
        for i, (target, packed) in enumerate(zip(self._targets, parts, strict=True)):
            target.out.write(packed.data)
            self._bytes[i] += packed.nbytes
            if chunk.stop == tensor.rows:
                gap = -self._bytes[i] % ALIGNMENT
                target.out.write(bytes(gap))
                self._bytes[i] += gap
        self._weights += len(parts[0]) * tensor.columns
        self._report(Progress(tensor.name, self._weights, self._targets[0].plan.weights, sum(self._bytes)))


def _pack(targets: Sequence[Target], number: int, start: int, stop: int) -> list[npt.NDArray[np.uint8]]:
    """Output rows [start, stop) of a tensor as packed bytes [rows, row_bytes] for each target, widened once for all."""
    tensor, wide = targets[0].plan.tensors[number], None

    def widen() -> npt.NDArray[np.float32]:
        nonlocal wide
        if wide is None:
            wide = _buffer((stop - start) * tensor.columns).reshape(stop - start, tensor.columns)
            wide_rows(tensor, start, stop, wide)
        return wide

    return [target.quantizer.pack(target.plan.tensors[number], start, stop, widen) for target in targets]


def _buffer(count: int) -> npt.NDArray[np.float32]:
    """This thread's own float32 scratch, kept from chunk to chunk."""
    buffer: npt.NDArray[np.float32] | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < count:
        buffer = _scratch.buffer = np.empty(max(count, CHUNK_WEIGHTS), np.float32)
    return buffer[:count]
