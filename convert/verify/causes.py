"""Why a tensor is not what the checkpoint says: a few of its rows are held against everything else that they could be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from bq.convert.plan import PlannedTensor
from bq.convert.rows import wide_rows
from bq.convert.verify.comparison import Compared
from bq.convert.verify.limits import TINY_WEIGHT, row_error
from bq.convert.verify.value_checks import packed_rows
from bq.runtime import ggml
from bq.runtime.gguf_file import GgufFile

Kind = Literal["zeros", "order", "raw-head", "normalised-head", "other-tensor", "experts", "scaled", "rows", "unknown"]
_SAMPLE = 16  # rows that are looked at
_GLANCE = (0, -1)  # those of the sample that are looked at first, for there are many candidates
_FITTING = 0.9  # of them, for a cause to be the cause
_FEW_ROWS = 0.5  # of a tensor: fewer wrong ones are damage, not a wrong tensor
_ALIKE = 0.9  # cosine of rows that differ by their lengths alone, quantization included


@dataclass(frozen=True)
class Cause:
    """What was found in place of a tensor; `other` is the tensor that its rows are of, or two experts, of which the first has the
    place of the second.
    """

    kind: Kind
    tensor: Compared
    other: str = ""


def find_cause(file: GgufFile, wrong: Compared, every: Sequence[PlannedTensor]) -> Cause:
    """The first cause that explains the wrong rows."""
    bad = np.flatnonzero(wrong.errors > row_error(wrong.entry.kind))
    rows = bad[np.linspace(0, len(bad) - 1, min(_SAMPLE, len(bad)), dtype=int)]
    found = _file_rows(file, wrong, rows)
    if not found.any():
        whole = len(bad) > _FEW_ROWS * wrong.planned.rows
        return Cause("zeros" if whole else "rows", wrong)
    limit = row_error(wrong.entry.kind)
    if experts := _misplaced_expert(file, wrong, bad, limit):
        return Cause("experts", wrong, experts)
    for kind, other, candidate in _candidates(wrong.planned, every):
        is_likely = any(_fits(found[[i]], _rows_of(candidate, rows[[i]]), limit) for i in _GLANCE)
        if is_likely and _fits(found, _rows_of(candidate, rows), limit):
            return Cause(kind, wrong, other)
    if len(bad) <= _FEW_ROWS * wrong.planned.rows:
        return Cause("rows", wrong)
    is_matrix = len(wrong.planned.shape) > 1  # the weights of a norm are all positive, and so near to any other's
    return Cause("scaled" if is_matrix and _is_scaled(found, _rows_of(wrong.planned, rows)) else "unknown", wrong)


def _candidates(planned: PlannedTensor, every: Sequence[PlannedTensor]) -> Iterator[tuple[Kind, str, PlannedTensor]]:
    if planned.head_width is not None:
        yield "order", "", replace(planned, head_width=None)
    if planned.name == "output.weight":
        kind: Kind = "raw-head" if planned.normalise else "normalised-head"
        yield kind, "", replace(planned, normalise=not planned.normalise)
    for other in sorted(every, key=lambda one: _distance(one.name, planned.name)):
        if other.shape == planned.shape and other.name != planned.name:
            yield "other-tensor", other.name, other
            if other.head_width is not None:
                yield "other-tensor", other.name, replace(other, head_width=None)


def _misplaced_expert(file: GgufFile, wrong: Compared, bad: npt.NDArray[np.intp], limit: float) -> str:
    """Which expert stands in the place of which, "3 2", by the first one that is wrong; "" if none does."""
    if not wrong.planned.others:
        return ""
    height = wrong.planned.shape[1]
    place = int(bad[0]) // height
    own = bad[bad // height == place]
    rows = own[np.linspace(0, len(own) - 1, min(_SAMPLE, len(own)), dtype=int)]
    found = _file_rows(file, wrong, rows)
    for expert in range(wrong.planned.shape[0]):
        if expert != place and _fits(found, _rows_of(wrong.planned, rows + (expert - place) * height), limit):
            return f"{expert} {place}"
    return ""


def _distance(one: str, other: str) -> int:
    """Blocks between two tensors: where several have the same weights, the nearest was the one that was meant."""
    numbers = [int(name.split(".")[1]) if name.startswith("blk.") else 0 for name in (one, other)]
    return abs(numbers[0] - numbers[1])


def _file_rows(file: GgufFile, wrong: Compared, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    packed = np.concatenate([packed_rows(file, wrong.entry, int(row), int(row) + 1) for row in rows])
    return ggml.dequantize(wrong.entry.kind, packed, wrong.planned.columns)


def _rows_of(planned: PlannedTensor, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    wide = np.empty((len(rows), planned.columns), np.float32)
    for i, row in enumerate(rows):
        wide_rows(planned, int(row), int(row) + 1, wide[i : i + 1])
    return wide


def _fits(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], limit: float) -> bool:
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(found - expected, axis=1)
        tiny = TINY_WEIGHT * np.sqrt(found.shape[1])
        return bool((errors <= limit * np.maximum(np.linalg.norm(expected, axis=1), tiny)).mean() >= _FITTING)


def _is_scaled(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = np.einsum("ij,ij->i", found, expected) / lengths
        return bool((cosines > _ALIKE).mean() >= _FITTING)
