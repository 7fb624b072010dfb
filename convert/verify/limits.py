"""How far weights may be from the checkpoint's in each type, where bytes cannot be compared.

Measured over rows with weights spread evenly, normally, with heavy tails (Student's t with 2 and 3 degrees of freedom), with one
column of outliers and with columns of different size, each quantized plainly and with a random importance matrix
(tests/convert/test_verify_limits.py); the limits are about a third above the worst. A row of another tensor is 1.4 away.
"""

from collections.abc import Mapping

from bq.runtime.ggml import GgmlType, block_size

T = GgmlType
# The most that the L2 norm of a row's error may be, relative to that of the row.
ROW_ERROR: Mapping[GgmlType, float] = {
    T.F32: 1e-6,
    T.BF16: 0.006,  # 8 bits, cut off by some programs
    T.F16: 0.002,
    T.Q8_0: 0.02,
    T.Q6_K: 0.12,
    T.Q5_K: 0.09,
    T.Q5_1: 0.11,
    T.Q5_0: 0.16,
    T.Q4_K: 0.32,
    T.Q4_1: 0.28,
    T.Q4_0: 0.32,
    T.IQ4_NL: 0.45,
    T.IQ4_XS: 0.3,
    T.Q3_K: 0.34,
    T.IQ3_S: 0.48,
    T.IQ3_XXS: 0.6,
    T.Q2_K: 0.75,
}
_COARSEST = 0.98  # of the types below, whose rows may be nearly as far from the checkpoint's as zeros are
# A block that strays that much further than its tensor's median row does is damaged: a scale that a flipped bit doubled or
# halved is off by 0.5 at least. Types below 4 bits have such blocks of their own.
BLOCK_ERROR, _FINE_BITS = 0.49, 4
# The norm of a row of norm 1: at most 0.012 away for 4 bits and more, 0.1 for the three types below, with an importance
# matrix mostly below 0.05; the other types say nothing.
_NORM_NOISE, _COARSE_NORM_NOISE = 0.03, 0.11
_COARSE = (T.Q2_K, T.Q3_K, T.IQ3_S)
# A row may stray further than the many do, but a normalised one never to this: measured for 4 bits and more, the worst of
# 10,000 heavy-tailed rows was 0.07 (importance matrices included).
NORM_STRAY = 0.15
TELLING_NOISE = 0.05  # norms within this of 1 are no accident
# Weights of this size are as small as the steps of a block's float16 scale; below, no relative error is asked for.
TINY_WEIGHT = 1e-5


def row_error(kind: GgmlType) -> float:
    """The largest relative error of a row of this type."""
    return ROW_ERROR.get(kind, _COARSEST)


def block_error(kind: GgmlType) -> float | None:
    """The largest relative error of a block of this type, None where any is possible."""
    return max(BLOCK_ERROR, row_error(kind)) if bits_per_weight(kind) >= _FINE_BITS else None


def norm_noise(kind: GgmlType) -> float | None:
    """How far from 1 the norms of nearly all normalised rows are after quantization; None where they say nothing."""
    if kind in _COARSE:
        return _COARSE_NORM_NOISE
    return _NORM_NOISE if bits_per_weight(kind) >= _FINE_BITS else None


def bits_per_weight(kind: GgmlType) -> float:
    """Bits that a type spends on a weight."""
    weights, size = block_size(kind)
    return 8 * size / weights
