"""Q3_K and Q6_K: x ~ scale * q, q of both signs, without a minimum.

Every function is the one of the same purpose in llama.cpp's ggml-quants.c, whose name is given, computed for sixteen
super-blocks. Q3_K without an importance matrix searches by coordinate descent (make_q3_quants), the others try step widths.
"""

from bq.convert.kernels.blocks import (
    ALL_ZERO,
    SUPER_BLOCK,
    I64Array,
    Work,
    absolute,
    at_most,
    clamp,
    f32,
    fits_half,
    from_half,
    i32,
    larger,
    largest_magnitude,
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
    any_lane,
    inner,
    kernel,
    lanes,
    load,
    store,
    to_float,
    where,
)
from bq.convert.kernels.refine import (
    refine_symmetric,
)

Q3_K_BYTES, Q6_K_BYTES = 110, 210


@inner
def _search_scale(x: F32Array, base: int, n: int, top: int, weights: F32Array) -> tuple[F32s, F32s]:
    """make_qx_quants: the scale for q from -top to top - 1, and the inverse step by which q is rounded.

    Both are 0 where all numbers are. `weights` belong to the n numbers from `base` on. Numbers so large that a level is NaN here
    and something else in C make the scale NaN or 0 too, and then the block is odd.
    """
    zero, low, high = lanes(f32(0)), lanes(f32(-top)), lanes(f32(top - 1))
    most = largest_magnitude(x, base, n)
    inverse = lanes(f32(-top)) / most
    scale = best = zero
    for step in range(-10, 10):  # the first stands for 0, and is kept whatever it gives
        if step == 0:
            continue
        candidate = inverse if step == -10 else lanes(-f32(f32(top) + f32(f32(0.1) * f32(step)))) / most
        sum_xl = sum_l2 = zero
        for i in range(n):
            value, w = load(x, base + i), load(weights, i)
            level = rounded(smaller(larger(candidate * value, low), high))
            sum_xl = sum_xl + w * value * level
            sum_l2 = sum_l2 + w * level * level
        if step == -10:
            scale = where(sum_l2 == zero, zero, sum_xl / sum_l2)
            best = scale * sum_xl
        else:
            is_better = (sum_l2 > zero) & (sum_xl * sum_xl > best * sum_l2)
            scale = where(is_better, sum_xl / sum_l2, scale)
            best = where(is_better, scale * sum_xl, best)
            inverse = where(is_better, candidate, inverse)
    is_zero = absolute(most) < lanes(ALL_ZERO)
    return where(is_zero, zero, scale), where(is_zero, zero, inverse)


@inner
def _scale_by_descent(work: Work, base: int, n: int, top: int) -> F32s:
    """make_q3_quants: the scale for q from -top to top - 1, weighing by x^2; 0 where all numbers are."""
    x, q, zero = work.x, work.scale_q, lanes(f32(0))
    most = largest_magnitude(x, base, n)
    inverse = lanes(f32(-top)) / most
    sum_xl = sum_l2 = zero
    for i in range(n):
        value = load(x, base + i)
        w = value * value
        level = clamp(nearest_int(inverse * value), -top, top - 1)
        store(q, i, level)
        sum_xl = sum_xl + w * value * to_float(level)
        sum_l2 = sum_l2 + w * to_float(level) * to_float(level)
    for _ in range(5):
        is_changed = nowhere()
        for i in range(n):
            value, old = load(x, base + i), to_float(load(q, i))
            w = value * value
            rest_xl = sum_xl - w * value * old
            rest_l2 = sum_l2 - w * old * old
            level = clamp(nearest_int(value * rest_l2 / rest_xl), -top, top - 1)
            new_xl = rest_xl + w * value * to_float(level)
            new_l2 = rest_l2 + w * to_float(level) * to_float(level)
            is_better = (
                (rest_xl > zero)
                & ~(level == load(q, i))
                & (new_l2 > zero)
                & (new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2)
            )
            store(q, i, where(is_better, level, load(q, i)))
            sum_xl = where(is_better, new_xl, sum_xl)
            sum_l2 = where(is_better, new_l2, sum_l2)
            is_changed = is_changed | is_better
        if not any_lane(is_changed):
            break
    is_zero = absolute(most) < lanes(ALL_ZERO)
    return where((sum_l2 > zero) & ~is_zero, sum_xl / sum_l2, zero)


@inner
def _apply_scales(work: Work, effort: int | None, d: F32s, is_cleared: Mask, at: int) -> Mask:
    """d becomes bytes `at` and `at + 1`, `work.scales` what a reader of the file will see.

    Odd are lanes where float16 does not hold d; and, where C's bytes are wanted, those whose scale was rounded to 0: there it
    keeps the search's q, which is not at hand, unless it clears the whole block.
    """
    zero = lanes(f32(0))
    odd = ~fits_half(d)
    put_half(work.packed, at, to_half(d))
    d = from_half(to_half(d))
    for j in range(16):
        scale = d * to_float(load(work.scale_q, j))
        if effort is None:
            is_zero = absolute(largest_magnitude(work.x, 16 * j, 16)) < lanes(ALL_ZERO)
            odd = odd | ((scale == zero) & ~is_zero & ~is_cleared)
        store(work.scales, j, scale)
    return odd


@inner
def _level(work: Work, i: int, top: int) -> I32s:
    """The q of weight i, from 0 up; 0 where its scale is 0."""
    scale = load(work.scales, i // 16)
    level = clamp(nearest_int(load(work.x, i) / scale), -top, top - 1) + lanes(i32(top))
    return where(scale == lanes(f32(0)), lanes(i32(0)), level)


@inner
def _scales_of_q6_k(work: Work, importance: F32Array | None, effort: int | None) -> Mask:
    """Sixteen scales of 8 bits and d, bytes 192 to 209."""
    for j in range(16):
        for i in range(16):
            if importance is not None:
                store(work.weights, i, load(work.importance, 16 * j + i))
            else:
                store(work.weights, i, load(work.x, 16 * j + i) * load(work.x, 16 * j + i))
        scale, _ = _search_scale(work.x, 16 * j, 16, 32, work.weights)
        store(work.scales, j, scale)
    most = largest_magnitude(work.scales, 0, 16)
    is_empty = absolute(most) < lanes(ALL_ZERO)
    inverse = lanes(f32(-128)) / most
    for j in range(16):
        level = at_most(nearest_int(inverse * load(work.scales, j)), 127)
        store(work.scale_q, j, where(is_empty, lanes(i32(0)), level))
    d = where(is_empty, lanes(f32(0)), lanes(f32(1)) / inverse)
    if effort is not None:
        d = refine_symmetric(work, 16, 32, -128, 127, d, effort)
    for j in range(16):
        store(work.packed, 192 + j, load(work.scale_q, j))
    return _apply_scales(work, effort, d, is_empty, 208)


@kernel
def q6_k(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_q6_K: 128 bytes of lower and 64 of upper bits, 16 scales, d; the arguments are those of bq.convert.kernel_calls.Kernel."""
    work = make_work(Q6_K_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        odd = _scales_of_q6_k(work, importance, effort)
        four, low = lanes(i32(4)), lanes(i32(15))
        for half in range(2):
            for i in range(32):
                at = 128 * half + i
                a, b = _level(work, at, 32), _level(work, at + 32, 32)
                c, d = _level(work, at + 64, 32), _level(work, at + 96, 32)
                store(work.packed, 64 * half + i, (a & low) | ((c & low) << four))
                store(work.packed, 64 * half + 32 + i, (b & low) | ((d & low) << four))
                upper = (a >> four) | ((b >> four) << lanes(i32(2)))
                upper = upper | ((c >> four) << four) | ((d >> four) << lanes(i32(6)))
                store(work.packed, 128 + 32 * half + i, upper)
        write_blocks(work.packed, odd, first, Q6_K_BYTES, out, redo)
    return True


@inner
def _scales_of_q3_k(work: Work, importance: F32Array | None, effort: int | None) -> Mask:
    """Sixteen scales of 6 bits and d, bytes 96 to 109."""
    if importance is not None:
        sigma2 = lanes(f32(2)) * sum_of_squares(work.x, 0, SUPER_BLOCK) / lanes(f32(SUPER_BLOCK))
        for j in range(16):
            store(work.sums, j, weigh_by_importance(work, 16 * j, 16, sigma2))
            scale, _ = _search_scale(work.x, 16 * j, 16, 4, work.weights)
            store(work.scales, j, scale)
        d, inverse = _search_scale(work.scales, 0, 16, 32, work.sums)
        is_empty = inverse == lanes(f32(0))
    else:
        for j in range(16):
            store(work.scales, j, _scale_by_descent(work, 16 * j, 16, 4))
        most = largest_magnitude(work.scales, 0, 16)
        inverse = lanes(f32(-32)) / most
        d = lanes(f32(1)) / inverse
        is_empty = most == lanes(f32(0))
    for j in range(16):
        level = clamp(nearest_int(inverse * load(work.scales, j)), -32, 31)
        store(work.scale_q, j, where(is_empty, lanes(i32(-32)), level))
    d = where(is_empty, lanes(f32(0)), d)
    if effort is not None:
        d = refine_symmetric(work, 16, 4, -32, 31, d, effort)
    _put_6_bits(work, 96)
    return _apply_scales(work, effort, d, nowhere(), 108)


@inner
def _put_6_bits(work: Work, at: int) -> None:
    """Sixteen numbers from -32 to 31 in 12 bytes: lower bits in pairs, then upper bits in fours."""
    four, low = lanes(i32(4)), lanes(i32(15))
    for j in range(16):
        store(work.minimum_q, j, load(work.scale_q, j) + lanes(i32(32)))
    for j in range(8):
        store(work.packed, at + j, (load(work.minimum_q, j) & low) | ((load(work.minimum_q, j + 8) & low) << four))
    for j in range(4):
        upper = load(work.minimum_q, j) >> four
        for part in range(1, 4):
            upper = upper | ((load(work.minimum_q, j + 4 * part) >> four) << lanes(i32(2 * part)))
        store(work.packed, at + 8 + j, upper)


@kernel
def q3_k(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_q3_K: 32 bytes of third bits, 64 bytes of the others, 12 bytes of scales, d."""
    work = make_work(Q3_K_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        odd = _scales_of_q3_k(work, importance, effort)
        two, low = lanes(i32(2)), lanes(i32(3))
        for i in range(32):
            third = lanes(i32(0))
            for half in range(2):
                byte = lanes(i32(0))
                for part in range(4):
                    level = _level(work, 128 * half + 32 * part + i, 4)
                    byte = byte | ((level & low) << lanes(i32(2 * part)))
                    third = third | ((level >> two) << lanes(i32(4 * half + part)))
                store(work.packed, 32 + 32 * half + i, byte)
            store(work.packed, i, third)
        write_blocks(work.packed, odd, first, Q3_K_BYTES, out, redo)
    return True
