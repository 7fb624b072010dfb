"""The one pass: rows are read, widened, reordered or normalised, quantized and written, all at once and in order.

Worker threads prepare chunks of rows (ctypes lets them run side by side), the calling thread writes them in the order of
the file. No more than a few chunks are ever in memory, whatever the size of the model.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bq.convert.plan import ALIGNMENT, Plan, PlannedTensor, row_order
from bq.convert.source import aligned
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.language import say

# Weights per chunk: large enough that Python's share is nothing, small enough that 16 threads stay far below 700 MB.
CHUNK_WEIGHTS = 1 << 20
_AHEAD = 2  # chunks per thread that may wait for the writer
_TINY = np.float32(1e-12)  # torch.nn.functional.normalize's eps


@dataclass(frozen=True)
class Progress:
    """How far the pass is: the tensor being written, weights done and in all, bytes written."""

    tensor: str
    weights_done: int
    weights: int
    bytes_written: int


_scratch = threading.local()


def write_tensors(plan: Plan, out: BinaryIO, threads: int, report: Callable[[Progress], None]) -> None:
    """Write the data section of `plan` to `out`, which stands at its start.

    Raises BqError for weights that are not finite; OSError from writing passes through.
    """
    for kind in {tensor.kind for tensor in plan.tensors}:
        ggml.prepare(kind)
    pending: deque[tuple[PlannedTensor, int, Future[npt.NDArray[np.uint8]]]] = deque()
    done = written = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        for tensor, start, stop in _chunks(plan):
            if len(pending) >= threads * _AHEAD + 1:
                done, written = _write_next(pending, plan, out, done, written, report)
            tensor.source.will_need(tensor.first_row + start, stop - start)
            pending.append((tensor, stop, pool.submit(_convert_rows, tensor, start, stop)))
        while pending:
            done, written = _write_next(pending, plan, out, done, written, report)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _chunks(plan: Plan) -> Iterator[tuple[PlannedTensor, int, int]]:
    for tensor in plan.tensors:
        step = max(1, CHUNK_WEIGHTS // tensor.columns)
        for start in range(0, tensor.rows, step):
            yield tensor, start, min(start + step, tensor.rows)


def _write_next(
    pending: deque[tuple[PlannedTensor, int, Future[npt.NDArray[np.uint8]]]],
    plan: Plan,
    out: BinaryIO,
    done: int,
    written: int,
    report: Callable[[Progress], None],
) -> tuple[int, int]:
    tensor, stop, future = pending.popleft()
    packed = future.result()
    out.write(packed.data)
    written += packed.nbytes
    done += packed.shape[0] * tensor.columns
    if stop == tensor.rows:
        gap = -written % ALIGNMENT
        out.write(bytes(gap))
        written += gap
    report(Progress(tensor.name, done, plan.weights, written))
    return done, written


def _convert_rows(tensor: PlannedTensor, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Output rows [start, stop) of a tensor as packed bytes [rows, row_bytes]."""
    view = tensor.source.view()
    if view.ndim == 1:
        view = view[np.newaxis, :]
    rows = aligned(view[row_order(tensor, start, stop)])
    wide = _buffer(rows.size).reshape(rows.shape)
    ggml.widen(rows, wide)
    _check_finite(tensor, wide, start)
    if tensor.normalise:
        normalise_rows(wide)
    return ggml.quantize(tensor.kind, wide)


def _buffer(count: int) -> npt.NDArray[np.float32]:
    """This thread's own float32 scratch, kept from chunk to chunk."""
    buffer: npt.NDArray[np.float32] | None = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.size < count:
        buffer = _scratch.buffer = np.empty(max(count, CHUNK_WEIGHTS), np.float32)
    return buffer[:count]


def normalise_rows(rows: npt.NDArray[np.float32]) -> None:
    """Divide each row [n, columns] by its L2 norm, in place (NormHead: torch's normalize with p=2, dim=1, eps=1e-12).

    The sums of squares are kept in float64, so that the result does not depend on how numpy groups the additions.
    """
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)).astype(np.float32)
    rows /= np.maximum(norms, _TINY)[:, np.newaxis]


def _check_finite(tensor: PlannedTensor, rows: npt.NDArray[np.float32], start: int) -> None:
    finite = np.isfinite(rows)
    if finite.all():
        return
    row, column = (int(i) for i in np.argwhere(~finite)[0])
    order = row_order(tensor, start, start + rows.shape[0])
    source_row = order.start + row if isinstance(order, slice) else int(order[row])
    raise BqError(
        say(
            f"{tensor.source.name} in {tensor.source.file.path.name}, row {source_row}, column {column} is {rows[row, column]}.",
            f"{tensor.source.file.path.name} 中 {tensor.source.name} 第 {source_row} 行第 {column} 列的值为 {rows[row, column]}。",
        ),
        say(
            "The checkpoint is damaged: download it again, or ask its author.",
            "检查点已损坏：请重新下载，或联系其作者。",
        ),
    )
