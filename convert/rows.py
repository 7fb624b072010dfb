"""Rows of a planned tensor on their way from the checkpoint to packed bytes: in the order of the output, widened to float32,
checked, with what adapters add, and divided by their norms for NormHead.

A kernel takes `Rows`, the places in memory where the rows lie, and does all that itself; `wide_rows` does it for ggml.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bq.convert.gptq import GptqTensor
from bq.convert.plan import PlannedTensor, row_order
from bq.convert.source import Array, aligned
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType
from bq.runtime.language import say

_TINY = np.float32(1e-12)  # torch.nn.functional.normalize's eps
_SUMS = 16  # partial sums of squares of a row, as the kernels keep them
# Beyond this the scale of a block is none that float16 holds, and the searches of these types end the process where their sums
# overflow (GGML_ASSERT(grid_index >= 0)).
_MOST_WEIGHT = 1e7
_SEARCHED = frozenset(
    (
        GgmlType.IQ1_S,
        GgmlType.IQ1_M,
        GgmlType.IQ2_XXS,
        GgmlType.IQ2_XS,
        GgmlType.IQ2_S,
        GgmlType.IQ3_XXS,
        GgmlType.IQ3_S,
    )
)
_TYPES = {"f32": GgmlType.F32, "f16": GgmlType.F16, "bf16": GgmlType.BF16}


@dataclass(frozen=True)
class Rows:
    """Where rows lie: the memory address of each, their type, and what must stay alive meanwhile."""

    addresses: npt.NDArray[np.int64]
    dtype: GgmlType
    columns: int
    normalise: bool
    memory: Array


def rows_of(tensor: PlannedTensor, start: int, stop: int) -> Rows:
    """Output rows [start, stop) of a tensor of one source, where they lie in the mapped checkpoint; in a copy if a row has
    gaps, is packed, or is changed by adapters.
    """
    order = row_order(tensor, start, stop)
    if tensor.delta is not None or isinstance(tensor.source, GptqTensor):
        view: Array = np.empty((stop - start, tensor.columns), np.float32)
        dtype, order = GgmlType.F32, slice(0, stop - start)
        _plain_rows(tensor, start, stop, view)
    else:
        view, dtype = tensor.source.matrix(), _TYPES[tensor.source.dtype]
        if view.strides[1] != view.itemsize:
            view, order = view[order].copy(), slice(0, stop - start)
    numbers = np.arange(order.start, order.stop) if isinstance(order, slice) else order
    addresses = view.ctypes.data + numbers.astype(np.int64) * view.strides[0]
    return Rows(addresses, dtype, tensor.columns, tensor.normalise, view)


def wide_rows(tensor: PlannedTensor, start: int, stop: int, wide: npt.NDArray[np.float32]) -> None:
    """Output rows [start, stop) into `wide`, [stop - start, columns]. Raises BqError for a weight that is not finite."""
    done = 0
    for one, first, after in tensor.parts(start, stop):
        _plain_rows(one, first, after, wide[done : done + after - first])
        done += after - first
    if tensor.normalise:
        normalise_rows(wide)


def _plain_rows(tensor: PlannedTensor, start: int, stop: int, wide: npt.NDArray[np.float32]) -> None:
    """The same of one source, before NormHead's division."""
    order = row_order(tensor, start, stop)
    ggml.widen(aligned(tensor.source.rows(order)), wide)
    _check_finite(tensor, wide, start)
    if tensor.delta is not None:
        tensor.delta.add(order, wide)
        _check_merged(tensor, wide)


def normalise_rows(rows: npt.NDArray[np.float32]) -> None:
    """Divide each row [n, columns] by its L2 norm, in place (NormHead: torch's normalize with p=2, dim=1, eps=1e-12).

    The sums of squares are kept in float64 and added in a fixed order, that of the kernels' row_norm: bytes must not
    depend on how numpy groups additions, nor on who quantizes.
    """
    sums = np.zeros((len(rows), _SUMS))
    for start in range(0, rows.shape[1], _SUMS):
        part = rows[:, start : start + _SUMS].astype(np.float64)
        sums[:, : part.shape[1]] += part * part
    total = np.zeros(len(rows))
    for column in range(_SUMS):
        total += sums[:, column]
    rows /= np.maximum(np.sqrt(total).astype(np.float32), _TINY)[:, np.newaxis]


def check_size(tensor: PlannedTensor, wide: npt.NDArray[np.float32]) -> None:
    """Raises BqError for rows that ggml cannot take in the tensor's type."""
    if tensor.kind in _SEARCHED and max(wide.max(), -wide.min()) > _MOST_WEIGHT:
        raise too_large(tensor.name, tensor.kind)


def too_large(name: str, kind: GgmlType) -> BqError:
    """The error for a tensor whose type cannot hold its weights."""
    return BqError(
        say(f"{name} has weights too large for its type {kind.name}.", f"{name} 中的权重超出类型 {kind.name} 的范围。"),
        say(
            "Convert with -q BF16 or -q F32, and ask the checkpoint's author.",
            "请以 -q BF16 或 -q F32 转换，并联系检查点的作者。",
        ),
    )


def _check_merged(tensor: PlannedTensor, rows: npt.NDArray[np.float32]) -> None:
    if tensor.delta is None or np.isfinite(rows).all():
        return
    names = ", ".join(term.adapter for term in tensor.delta.terms)
    raise BqError(
        say(
            f"{tensor.source.name} is no longer finite with the adapter ({names}).",
            f"加上适配器（{names}）后，{tensor.source.name} 出现非有限值。",
        ),
        say("The adapter is damaged, or its weight too large.", "适配器已损坏，或权重过大。"),
    )


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
