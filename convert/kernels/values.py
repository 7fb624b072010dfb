"""The sixteen values of IQ4_NL and IQ4_XS (kvalues_iq4nl in ggml-common.h), and the nearest of them."""

import numpy as np

from bq.convert.kernels.blocks import (
    f32,
    i32,
)
from bq.convert.kernels.lanes import (
    F32s,
    I32s,
    inner,
    lanes,
    where,
)

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
LOWEST = f32(VALUES[0])
# Where the nearest value changes. ggml compares the two distances; around each middle both are exact floats, so the
# comparison is this one, and a number in the very middle goes up.
_MIDDLES = (VALUES[1:] + VALUES[:-1]) / np.float32(2)
_STEPS = VALUES[1:] - VALUES[:-1]


@inner
def nearest_value(x: F32s) -> F32s:
    """The nearest of VALUES; the largest for NaN, as best_index_int8 finds it."""
    found = lanes(LOWEST)
    for k in range(15):
        found = found + where(x < lanes(_MIDDLES[k]), lanes(f32(0)), lanes(_STEPS[k]))
    return found


@inner
def nearest_index(x: F32s) -> I32s:
    """Its index in VALUES: best_index_int8."""
    found = lanes(i32(0))
    for k in range(15):
        found = found + where(x < lanes(_MIDDLES[k]), lanes(i32(0)), lanes(i32(1)))
    return found
