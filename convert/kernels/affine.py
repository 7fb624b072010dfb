"""Q2_K, Q4_K and Q5_K: x ~ scale * q - minimum, q from 0 up. Each sub-block's scale and minimum are found by trying many
steps, and are themselves quantized within the super-block.

Every function is the one of the same purpose in llama.cpp's ggml-quants.c, whose name is given, computed for sixteen
super-blocks. Without an importance matrix it quantizes by the functions with `_ref` in their names, else by those with `_impl`.
"""

import numpy as np

from bq.convert.kernels.blocks import (
    LARGEST_ROUNDED,
    SUPER_BLOCK,
    I64Array,
    Work,
    absolute,
    clamp,
    f32,
    fits_half,
    from_half,
    i32,
    larger,
    make_work,
    nearest_int,
    nowhere,
    put_half,
    read_blocks,
    rounded,
    smaller,
    sum_of_squares,
    to_half,
    weigh_by_importance,
    write_blocks,
)
from bq.convert.kernels.lanes import (
    LANES,
    F32Array,
    F32s,
    I32s,
    Mask,
    U8Array,
    inner,
    kernel,
    lanes,
    load,
    sqrt,
    store,
    to_float,
    where,
)
from bq.convert.kernels.refine import (
    refine_affine,
)
from bq.convert.kernels.scales import (
    quantize_by_largest,
    quantize_by_weight,
)

Q2_K_BYTES, Q4_K_BYTES, Q5_K_BYTES = 84, 144, 176


@inner
def _scale_and_minimum(
    work: Work, base: int, n: int, top: int, first: np.float32, delta: np.float32, steps: int, by_magnitude: bool
) -> Mask:
    """make_qkx2_quants and make_qkx3_quants: scale and minimum of the sub-block of `n` weights from `base` on.

    Tries `steps + 1` step widths from `(top + first) / range` on, each with its least-squares scale and minimum, and keeps the
    best by weighted squares (or magnitudes) of the error. Odd are lanes where it is not known to be what C computes.
    """
    least = most = load(work.x, base)
    sum_w = load(work.weights, 0)
    sum_x = sum_w * least
    for i in range(1, n):
        value, w = load(work.x, base + i), load(work.weights, i)
        least, most = smaller(value, least), larger(value, most)
        sum_w = sum_w + w
        sum_x = sum_x + w * value
    low = smaller(least, lanes(f32(0)))
    is_flat = ~(most > low)
    inverse = lanes(f32(top)) / (most - low)
    scale = lanes(f32(1)) / inverse
    odd = ~_is_roundable(inverse, least - low, most - low)
    _least_squares(work, base, n, top, inverse, low, sum_w, sum_x)
    best = _error(work, base, n, scale, low, by_magnitude)
    for step in range(steps + 1):
        inverse = lanes(f32(f32(first + f32(delta * f32(step))) + f32(top))) / (most - low)
        odd = odd | ~_is_roundable(inverse, least - low, most - low)
        new_scale, new_low, is_solved = _least_squares(work, base, n, top, inverse, low, sum_w, sum_x)
        error = _error(work, base, n, new_scale, new_low, by_magnitude)
        is_better = is_solved & (error < best) & ~is_flat
        best = where(is_better, error, best)
        scale = where(is_better, new_scale, scale)
        low = where(is_better, new_low, low)
    store(work.scales, base // n, where(is_flat, lanes(f32(0)), scale))
    store(work.minima, base // n, -low)
    return (odd | ~(scale > lanes(f32(0)))) & ~is_flat


@inner
def _least_squares(
    work: Work, base: int, n: int, top: int, inverse: F32s, low: F32s, sum_w: F32s, sum_x: F32s
) -> tuple[F32s, F32s, Mask]:
    """`work.q` becomes the nearest levels in steps of 1 / inverse above `low`; returns the scale and the minimum that suit them
    best, and where there are such.
    """
    zero, highest = lanes(f32(0)), lanes(f32(top))
    sum_l = sum_l2 = sum_xl = zero
    for i in range(n):
        value = load(work.x, base + i)
        level = rounded(smaller(larger(inverse * (value - low), zero), highest))
        store(work.q, i, level)
        weighted = load(work.weights, i) * level
        sum_l = sum_l + weighted
        sum_l2 = sum_l2 + weighted * level
        sum_xl = sum_xl + weighted * value
    determinant = sum_w * sum_l2 - sum_l * sum_l
    scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
    new_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
    is_above = new_low > zero
    return where(is_above, sum_xl / sum_l2, scale), where(is_above, zero, new_low), determinant > zero


@inner
def _error(work: Work, base: int, n: int, scale: F32s, low: F32s, by_magnitude: bool) -> F32s:
    """Of the levels in `work.q`, by `work.weights`."""
    error = lanes(f32(0))
    for i in range(n):
        difference = scale * load(work.q, i) + low - load(work.x, base + i)
        error = error + load(work.weights, i) * _cost(difference, by_magnitude)
    return error


@inner
def _cost(difference: F32s, by_magnitude: bool) -> F32s:
    if by_magnitude:
        return absolute(difference)
    return difference * difference


@inner
def _is_roundable(inverse: F32s, least: F32s, most: F32s) -> Mask:
    """Whether `inverse * value` can be rounded for every value between these two."""
    limit = lanes(LARGEST_ROUNDED)
    return (absolute(inverse * least) < limit) & (absolute(inverse * most) < limit)


@inner
def _weigh_by_magnitude(work: Work, base: int, n: int, mean: F32s) -> None:
    """`work.weights` for the sub-block of n weights from `base` on: mean + |x|."""
    for i in range(n):
        store(work.weights, i, mean + absolute(load(work.x, base + i)))


@inner
def _apply_scales(work: Work, effort: int | None, n: int, d: F32s, dmin: F32s, at: int) -> Mask:
    """Bytes `at` to `at + 3` are d and dmin; `work.scales` and `minima` become what a reader of the file will see.

    Odd are lanes where float16 does not hold d or dmin; and, where C's bytes are wanted, those whose scale was rounded to 0:
    there it keeps the search's q, which is not at hand.
    """
    zero, odd = lanes(f32(0)), ~(fits_half(d) & fits_half(dmin))
    put_half(work.packed, at, to_half(d))
    put_half(work.packed, at + 2, to_half(dmin))
    d, dmin = from_half(to_half(d)), from_half(to_half(dmin))
    for j in range(n):
        scale = d * to_float(load(work.scale_q, j))
        if effort is None:
            odd = odd | ((scale == zero) & ~(load(work.scales, j) == zero))
        store(work.scales, j, scale)
        store(work.minima, j, dmin * to_float(load(work.minimum_q, j)))
    return odd


@inner
def _level(work: Work, i: int, j: int, top: int) -> I32s:
    """The q of weight i, in sub-block j; 0 where its scale is 0."""
    scale = load(work.scales, j)
    level = clamp(nearest_int((load(work.x, i) + load(work.minima, j)) / scale), 0, top)
    return where(scale == lanes(f32(0)), lanes(i32(0)), level)


@inner
def _scales_of_32(
    work: Work, importance: F32Array | None, effort: int | None, top: int, first: np.float32, steps: int
) -> Mask:
    """Q4_K's and Q5_K's d, dmin, and eight scales and minima of 6 bits: bytes 0 to 15."""
    odd = nowhere()
    if importance is not None:
        sigma2 = lanes(f32(2)) * sum_of_squares(work.x, 0, SUPER_BLOCK) / lanes(f32(SUPER_BLOCK))
        for j in range(8):
            store(work.sums, j, weigh_by_importance(work, 32 * j, 32, sigma2))
            odd = odd | _scale_and_minimum(work, 32 * j, 32, top, f32(-0.9), f32(0.05), 36, False)
        d, odd_d = quantize_by_weight(work.scales, 8, 63, work.sums, work.scale_q)
        dmin, odd_dmin = quantize_by_weight(work.minima, 8, 63, work.sums, work.minimum_q)
        odd = odd | odd_d | odd_dmin
    else:
        for j in range(8):
            rms = sqrt(sum_of_squares(work.x, 32 * j, 32) / lanes(f32(32)))
            _weigh_by_magnitude(work, 32 * j, 32, rms)
            odd = odd | _scale_and_minimum(work, 32 * j, 32, top, first, f32(0.1), steps, False)
        d = quantize_by_largest(work.scales, 8, 63, work.scale_q)
        dmin = quantize_by_largest(work.minima, 8, 63, work.minimum_q)
    if effort is not None:
        d, dmin = refine_affine(work, 32, top, 63, d, dmin, effort)
    _put_6_bit_pairs(work, 4)
    return odd | _apply_scales(work, effort, 8, d, dmin, 0)


@inner
def _put_6_bit_pairs(work: Work, at: int) -> None:
    """Eight scales and eight minima in 12 bytes, as get_scale_min_k4 reads them."""
    four, six, low = lanes(i32(4)), lanes(i32(6)), lanes(i32(15))
    for j in range(4):
        scale, minimum = load(work.scale_q, j + 4), load(work.minimum_q, j + 4)
        store(work.packed, at + j, load(work.scale_q, j) | ((scale >> four) << six))
        store(work.packed, at + j + 4, load(work.minimum_q, j) | ((minimum >> four) << six))
        store(work.packed, at + j + 8, (scale & low) | ((minimum & low) << four))


@kernel
def q4_k(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_q4_K: d, dmin, 12 bytes of scales, 128 bytes of q; the arguments are those of bq.convert.kernel_calls.Kernel."""
    work = make_work(Q4_K_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        odd = _scales_of_32(work, importance, effort, 15, f32(-1), 20)
        for j in range(0, 8, 2):
            for i in range(32):
                low, high = _level(work, 32 * j + i, j, 15), _level(work, 32 * j + 32 + i, j + 1, 15)
                store(work.packed, 16 + 16 * j + i, low | (high << lanes(i32(4))))
        write_blocks(work.packed, odd, first, Q4_K_BYTES, out, redo)
    return True


@kernel
def q5_k(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_q5_K: as block_q4_K, with 32 bytes of fifth bits before the others."""
    work = make_work(Q5_K_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        odd = _scales_of_32(work, importance, effort, 31, f32(-0.5), 15)
        four, low_bits = lanes(i32(4)), lanes(i32(15))
        for i in range(32):
            fifth = lanes(i32(0))
            for j in range(0, 8, 2):
                low, high = _level(work, 32 * j + i, j, 31), _level(work, 32 * j + 32 + i, j + 1, 31)
                store(work.packed, 48 + 16 * j + i, (low & low_bits) | ((high & low_bits) << four))
                fifth = fifth | ((low >> four) << lanes(i32(j))) | ((high >> four) << lanes(i32(j + 1)))
            store(work.packed, 16 + i, fifth)
        write_blocks(work.packed, odd, first, Q5_K_BYTES, out, redo)
    return True


@inner
def _scales_of_16(work: Work, importance: F32Array | None, effort: int | None) -> Mask:
    """Q2_K's sixteen scales and minima of 4 bits, bytes 0 to 15, and its d and dmin at the end."""
    odd = nowhere()
    if importance is not None:
        sigma2 = sum_of_squares(work.x, 0, SUPER_BLOCK) / lanes(f32(SUPER_BLOCK))
        for j in range(16):
            store(work.sums, j, weigh_by_importance(work, 16 * j, 16, sigma2))
            odd = odd | _scale_and_minimum(work, 16 * j, 16, 3, f32(-0.9), f32(0.05), 36, False)
        d, odd_d = quantize_by_weight(work.scales, 16, 15, work.sums, work.scale_q)
        dmin, odd_dmin = quantize_by_weight(work.minima, 16, 15, work.sums, work.minimum_q)
        odd = odd | odd_d | odd_dmin
    else:
        for j in range(16):
            _weigh_by_magnitude(work, 16 * j, 16, lanes(f32(0)))
            odd = odd | _scale_and_minimum(work, 16 * j, 16, 3, f32(-0.5), f32(0.1), 15, True)
        d = quantize_by_largest(work.scales, 16, 15, work.scale_q)
        dmin = quantize_by_largest(work.minima, 16, 15, work.minimum_q)
    if effort is not None:
        d, dmin = refine_affine(work, 16, 3, 15, d, dmin, effort)
    for j in range(16):
        store(work.packed, j, load(work.scale_q, j) | (load(work.minimum_q, j) << lanes(i32(4))))
    return odd | _apply_scales(work, effort, 16, d, dmin, 80)


@kernel
def q2_k(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_q2_K: 16 bytes of scales, 64 bytes of q, d, dmin."""
    work = make_work(Q2_K_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        odd = _scales_of_16(work, importance, effort)
        for half in range(2):
            for i in range(32):
                byte = lanes(i32(0))
                for part in range(4):
                    at = 128 * half + 32 * part + i
                    byte = byte | (_level(work, at, at // 16, 3) << lanes(i32(2 * part)))
                store(work.packed, 16 + 32 * half + i, byte)
        write_blocks(work.packed, odd, first, Q2_K_BYTES, out, redo)
    return True
