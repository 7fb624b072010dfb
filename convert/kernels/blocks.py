"""Rows in, packed blocks out: what the kernels of all formats share.

Sixteen blocks are read at a time, widened to float32 and, for NormHead, divided by their row's norm on the way into `Work.x`,
where number i holds weight i of all sixteen. A format's kernel puts byte i of its sixteen packed blocks at number i of
`Work.packed`.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from bq.convert.kernels.lanes import (
    LANES,
    F32Array,
    F32s,
    I32s,
    Mask,
    U8Array,
    any_lane,
    bits,
    from_bits,
    inner,
    lanes,
    load,
    load_16_bits,
    load_32_bits,
    sqrt,
    store,
    store_transposed,
    where,
)
from bq.runtime.ggml import GgmlType

SUPER_BLOCK = 256  # QK_K in ggml-common.h
F32, F16, BF16 = int(GgmlType.F32), int(GgmlType.F16), int(GgmlType.BF16)
f32, i32 = np.float32, np.int32
ALL_ZERO = f32(1e-15)  # GROUP_MAX_EPS in ggml-quants.c: a block of less counts as zero
NORM_FLOOR = f32(1e-12)  # torch.nn.functional.normalize's eps
_MAGIC = f32(12582912)  # 1.5 * 2^23: its sum with a small number has that number, rounded half to even, in its low bits
LARGEST_ROUNDED = f32(4194303)  # up to which that is so
_INFINITY = i32(0x7F800000)
I32Array: TypeAlias = npt.NDArray[np.int32]
I64Array: TypeAlias = npt.NDArray[np.int64]


class Work(NamedTuple):
    """Memory of one call of a kernel, small enough for the first cache; numbers of sixteen lanes each.

    Before a group of blocks is searched: `x`, its weights, and their `importance`, 1 if it is not known. Free to use: `weights` and `q` for
    a sub-block's weights in the search and its trial levels; `scales`, `minima`, `sums`, `scale_q` and `minimum_q` for up to
    sixteen numbers, mostly one of each sub-block. After it: `packed`. `tile` is read_blocks' own, `norms` one number per
    row, empty without NormHead.
    """

    x: F32Array
    importance: F32Array
    weights: F32Array
    q: F32Array
    scales: F32Array
    minima: F32Array
    sums: F32Array
    scale_q: I32Array
    minimum_q: I32Array
    packed: U8Array
    tile: F32Array
    norms: F32Array


@inner
def make_work(block_bytes: int, rows: int) -> Work:
    """For blocks of `block_bytes` packed; `rows` whose norms are needed, 0 without NormHead."""
    sub_blocks = SUPER_BLOCK // 16 * LANES
    return Work(
        np.empty(SUPER_BLOCK * LANES, f32),
        np.ones(SUPER_BLOCK * LANES, f32),
        np.empty(32 * LANES, f32),
        np.empty(32 * LANES, f32),
        np.empty(sub_blocks, f32),
        np.empty(sub_blocks, f32),
        np.empty(sub_blocks, f32),
        np.empty(sub_blocks, i32),
        np.empty(sub_blocks, i32),
        np.empty(block_bytes * LANES, np.uint8),
        np.empty(LANES * LANES, f32),
        np.zeros(rows, f32),
    )


@inner
def nowhere() -> Mask:
    """No lane."""
    return lanes(i32(0)) == lanes(i32(1))


@inner
def everywhere() -> Mask:
    """Every lane."""
    return lanes(i32(0)) == lanes(i32(0))


@inner
def smaller(x: F32s, y: F32s) -> F32s:
    """C's MIN(x, y)."""
    return where(x < y, x, y)


@inner
def larger(x: F32s, y: F32s) -> F32s:
    """C's MAX(x, y)."""
    return where(x > y, x, y)


@inner
def clamp(x: I32s, low: int, high: int) -> I32s:
    """Between `low` and `high`."""
    raised = where(x < lanes(i32(low)), lanes(i32(low)), x)
    return where(raised > lanes(i32(high)), lanes(i32(high)), raised)


@inner
def at_most(x: I32s, top: int) -> I32s:
    """C's MIN(top, x)."""
    return where(x > lanes(i32(top)), lanes(i32(top)), x)


@inner
def reciprocal(x: F32s) -> F32s:
    """1 / x, or 0."""
    return where(x == lanes(f32(0)), lanes(f32(0)), lanes(f32(1)) / x)


@inner
def absolute(x: F32s) -> F32s:
    """The magnitude."""
    return from_bits(bits(x) & lanes(i32(0x7FFFFFFF)))


@inner
def is_finite(x: F32s) -> Mask:
    """Neither infinite nor NaN."""
    return (bits(x) & lanes(_INFINITY)) < lanes(_INFINITY)


@inner
def nearest_int(x: F32s) -> I32s:
    """ggml's nearest_int: half to even, and its very bits where x is too large for it."""
    return (bits(x + lanes(_MAGIC)) & lanes(i32(0x007FFFFF))) - lanes(i32(0x00400000))


@inner
def rounded(x: F32s) -> F32s:
    """The same as a float, for |x| up to LARGEST_ROUNDED."""
    return (x + lanes(_MAGIC)) - lanes(_MAGIC)


@inner
def to_half(x: F32s) -> I32s:
    """The bits of the nearest float16 (half to even), for numbers that are not NaN: ggml_compute_fp32_to_fp16."""
    word = bits(x)
    base = (absolute(x) * lanes(f32(2.0**112))) * lanes(f32(2.0**-110))  # infinite where float16 is
    exponent = (word + word) & lanes(i32(-0x01000000))
    least = lanes(i32(0x71000000))  # of a float16 that is no denormal
    # Unsigned in C: the sign was shifted out, so an exponent from 2^0 on is negative here.
    exponent = where((exponent < least) & ~(exponent < lanes(i32(0))), least, exponent)
    base = from_bits((exponent >> lanes(i32(1))) + lanes(i32(0x07800000))) + base
    found = bits(base)
    nonsign = ((found >> lanes(i32(13))) & lanes(i32(0x7C00))) + (found & lanes(i32(0x0FFF)))
    return ((word >> lanes(i32(16))) & lanes(i32(0x8000))) | nonsign


@inner
def fits_half(x: F32s) -> Mask:
    """Whether float16 can hold it: it is no NaN, and does not round to infinity."""
    return absolute(x) < lanes(f32(65520))


@inner
def from_half(half: I32s) -> F32s:
    """float16 bits to float32; exact, denormals too."""
    nonsign = half & lanes(i32(0x7FFF))
    small = from_bits(nonsign << lanes(i32(13))) * lanes(f32(2.0**112))
    wide = where(nonsign < lanes(i32(0x7C00)), bits(small), lanes(_INFINITY) | (nonsign << lanes(i32(13))))
    return from_bits(wide | ((half & lanes(i32(0x8000))) << lanes(i32(16))))


@inner
def put_half(packed: U8Array, index: int, half: I32s) -> None:
    """A float16 as two bytes, the low one first."""
    store(packed, index, half)
    store(packed, index + 1, half >> lanes(i32(8)))


@inner
def _widened(address: int, dtype: int) -> F32s:
    if dtype == BF16:
        return from_bits(load_16_bits(address) << lanes(i32(16)))
    if dtype == F16:
        return from_half(load_16_bits(address))
    return from_bits(load_32_bits(address))


@inner
def row_norm(address: int, dtype: int, columns: int, tile: F32Array) -> np.float32:
    """The L2 norm of a row: sixteen sums of squares in float64, added up in order, so that every program gets the same.

    `columns` is a multiple of 16. bq.convert.rows.normalise_rows does the same in numpy.
    """
    sums = np.zeros(LANES, np.float64)
    step = LANES * (4 if dtype == F32 else 2)
    for i in range(columns // LANES):
        store(tile, 0, _widened(address + i * step, dtype))
        for lane in range(LANES):
            sums[lane] += np.float64(tile[lane]) * np.float64(tile[lane])
    total = np.float64(0)
    for lane in range(LANES):
        total += sums[lane]
    return max(f32(np.sqrt(total)), NORM_FLOOR)


@inner
def read_blocks(
    rows: I64Array, dtype: int, columns: int, importance: F32Array | None, work: Work, first: int, block: int
) -> bool:
    """Blocks `first` to `first + 15` of the rows at these addresses into `work`; the last one again beyond the end.

    False if a weight is not finite.
    """
    per_row = columns // block
    last = len(rows) * per_row - 1
    size = 4 if dtype == F32 else 2
    finite = everywhere()
    for part in range(block // LANES):
        for lane in range(LANES):
            row, inside = divmod(min(first + lane, last), per_row)
            store(work.tile, lane, _widened(rows[row] + (inside * block + part * LANES) * size, dtype))
        store_transposed(work.tile, work.x, part * LANES)
        for i in range(part * LANES, (part + 1) * LANES):
            finite = finite & is_finite(load(work.x, i))
    if any_lane(~finite):
        return False
    if len(work.norms):
        _normalise(rows, dtype, columns, work, first, block)
    if importance is not None:
        _read_importance(importance, work, first, last, block)
    return True


@inner
def _normalise(rows: I64Array, dtype: int, columns: int, work: Work, first: int, block: int) -> None:
    per_row = columns // block
    last = len(rows) * per_row - 1
    divisors = np.empty(LANES, f32)
    for lane in range(LANES):
        row = min(first + lane, last) // per_row
        if work.norms[row] == 0:
            work.norms[row] = row_norm(rows[row], dtype, columns, work.tile)
        divisors[lane] = work.norms[row]
    divisor = load(divisors, 0)
    for i in range(block):
        store(work.x, i, load(work.x, i) / divisor)


@inner
def _read_importance(importance: F32Array, work: Work, first: int, last: int, block: int) -> None:
    per_row = len(importance) // block
    for part in range(block // LANES):
        for lane in range(LANES):
            inside = min(first + lane, last) % per_row
            store(work.tile, lane, load(importance, (inside * block) // LANES + part))
        store_transposed(work.tile, work.importance, part * LANES)


@inner
def sum_of_squares(x: F32Array, base: int, n: int) -> F32s:
    """Of n weights from `base` on."""
    total = lanes(f32(0))
    for i in range(base, base + n):
        total = total + load(x, i) * load(x, i)
    return total


@inner
def weigh_by_importance(work: Work, base: int, n: int, sigma2: F32s) -> F32s:
    """`work.weights` for the sub-block of n weights from `base` on: importance * sqrt(sigma2 + x^2); returns their sum."""
    total = lanes(f32(0))
    for i in range(n):
        value = load(work.x, base + i)
        weight = load(work.importance, base + i) * sqrt(sigma2 + value * value)
        store(work.weights, i, weight)
        total = total + weight
    return total


@inner
def largest_magnitude(x: F32Array, base: int, n: int) -> F32s:
    """Of n numbers from `base` on, the first of the largest magnitude, with its sign."""
    found = lanes(f32(0))
    for i in range(base, base + n):
        found = where(absolute(load(x, i)) > absolute(found), load(x, i), found)
    return found


@inner
def write_blocks(packed: U8Array, odd: Mask, first: int, size: int, out: U8Array, redo: U8Array) -> None:
    """Blocks of `size` bytes into `out` from block `first` on, and a 1 into `redo` where a lane is odd."""
    flags = np.empty(LANES, np.uint8)
    store(flags, 0, where(odd, lanes(i32(1)), lanes(i32(0))))
    for lane in range(min(LANES, len(redo) - first)):
        redo[first + lane] = flags[lane]
        for i in range(size):
            out[(first + lane) * size + i] = packed[i * LANES + lane]
