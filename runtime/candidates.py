"""The greatest logits after the repetition penalty, found without a look at every token that was seen.

A penalty lowers. So of the greatest logits as the model gave them, a few more than are asked for, those that stay above the
least of them after the penalty are the greatest of all; what is not among them was below before it was lowered. Each call
of numpy costs microseconds on memory that the model's weights have just pushed out of the processor's caches, so there are
few here, and the handful of numbers that is left is worked on as Python's.
"""

import math
from array import array
from collections.abc import Collection
from operator import neg

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

MOST = 64  # candidates; beyond, numpy's partition of all logits is as good
_SMALL = 8192  # and so it is for so few logits: one call of numpy more than the partition takes is more than it saves
_SPARE = 8  # logits that are looked at beyond those asked for: how many of the greatest a penalty may push out


class Greatest:
    """Finds the `count` greatest of `size` logits: as a matrix, they stand in the `count` columns with the greatest maxima, or
    in the rest that fills no row."""

    def __init__(self, size: int, count: int) -> None:
        self._count = min(count, size)
        # Columns are compared once, and so are the numbers in the columns that were chosen: their sum is least here.
        columns = min(size, max(self._count, math.isqrt(size * self._count)))
        columns = next((near for near in range(columns, columns + columns // 4) if size % near == 0), columns)
        self._rows, self._columns = size // columns, columns
        self._filled = self._rows * columns
        self._maxima = np.empty(columns, np.float32)

    def of(self, logits: F32) -> tuple[list[int], list[float]]:
        """Indices and values, in no order; NaN counts as the greatest."""
        count, columns = self._count, self._columns
        if len(logits) <= _SMALL:
            places = logits.argpartition(-count)[-count:]
            return places.tolist(), logits[places].tolist()
        matrix = logits[: self._filled].reshape(self._rows, columns)
        np.maximum.reduce(matrix, axis=0, out=self._maxima)
        chosen = self._maxima.argpartition(-count)[-count:]
        values = matrix.take(chosen, axis=1).ravel()
        in_columns = len(values)
        if self._filled < len(logits):
            values = np.concatenate((values, logits[self._filled :]))
        places = values.argpartition(-count)[-count:]
        of_column = chosen.tolist()
        ids = [
            place // count * columns + of_column[place % count]
            if place < in_columns
            else self._filled + place - in_columns
            for place in places.tolist()
        ]
        return ids, values[places].tolist()


class Candidates:
    """The `count` greatest of `size` logits, at most MOST, those of seen tokens multiplied by `shrink` if positive, else by
    `penalty` (Keskar et al. 2019, CTRL, 4.1); neither raises a logit."""

    def __init__(self, size: int, count: int, shrink: float, penalty: float) -> None:
        self._count = min(count, size)
        self._shrink, self._penalty = shrink, penalty
        wanted = self._count if penalty == 1 else min(size, self._count + _SPARE)
        self._greatest = Greatest(size, wanted)
        self._is_all = wanted in (size, self._count)

    def of(self, logits: F32, seen: Collection[int]) -> list[tuple[float, int]] | None:
        """(logit, token), the greatest first, of equal ones the lower token; None if too many were lowered to be sure.

        Without a penalty any of equal ones may be left out at the end of `count`. Where a logit is NaN, it alone is given out.
        """
        ids, values = self._greatest.of(logits)
        total, floor = sum(values), min(values)
        if total != total and any(value != value for value in values):  # two infinities have no sum either
            return [(math.nan, 0)]
        for i, token in enumerate(ids):
            if token in seen:
                values[i] *= self._shrink if values[i] > 0 else self._penalty
        rounded = array("f", values).tolist()  # as the products would be in float32
        found = sorted(zip(map(neg, rounded), ids, strict=True))[: self._count]
        if not self._is_all and -found[-1][0] <= floor:
            return None
        return [(-value, token) for value, token in found]
