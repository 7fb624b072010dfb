"""IQ4_NL and IQ4_XS: x ~ scale * v, v one of sixteen values that lie denser around zero.

The search is quantize_row_iq4_nl_impl of llama.cpp's ggml-quants.c, computed for sixteen blocks.
"""

from bq.convert.kernels.blocks import (
    ALL_ZERO,
    SUPER_BLOCK,
    I64Array,
    Work,
    absolute,
    clamp,
    f32,
    fits_half,
    i32,
    largest_magnitude,
    make_work,
    nearest_int,
    put_half,
    read_blocks,
    reciprocal,
    sum_of_squares,
    to_half,
    weigh_by_importance,
    write_blocks,
)
from bq.convert.kernels.lanes import (
    LANES,
    F32Array,
    F32s,
    U8Array,
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
    refine_values,
)
from bq.convert.kernels.values import (
    LOWEST,
    nearest_index,
    nearest_value,
)

IQ4_NL_BYTES, IQ4_XS_BYTES = 18, 136
BLOCK = 32
_TRIES = 7


@inner
def _search_scale(work: Work, base: int) -> F32s:
    """The scale of the block of 32 from `base` on, by `work.weights`; 0 where all weights are."""
    zero = lanes(f32(0))
    most = largest_magnitude(work.x, base, BLOCK)
    scale = best = zero
    for step in range(-_TRIES - 1, _TRIES + 1):  # before all tries the plain step is taken, and kept whatever it gives
        inverse = lanes(f32(1)) / (-most / lanes(LOWEST)) if step < -_TRIES else lanes(f32(step) + LOWEST) / most
        sum_xq = sum_q2 = zero
        for i in range(BLOCK):
            value, w = load(work.x, base + i), load(work.weights, i)
            q = nearest_value(inverse * value)
            weighted = w * q
            sum_xq = sum_xq + weighted * value
            sum_q2 = sum_q2 + weighted * q
        if step < -_TRIES:
            scale = where(sum_q2 > zero, sum_xq / sum_q2, zero)
            best = scale * sum_xq
        else:
            is_better = (sum_q2 > zero) & (sum_xq * sum_xq > best * sum_q2)
            scale = where(is_better, sum_xq / sum_q2, scale)
            best = where(is_better, scale * sum_xq, best)
    return where(absolute(most) < lanes(ALL_ZERO), zero, scale)


@inner
def _weigh(work: Work, importance: F32Array | None, base: int, sigma2: F32s) -> None:
    """`work.weights` for the block of 32 from `base` on."""
    if importance is not None:
        weigh_by_importance(work, base, BLOCK, sigma2)
    else:
        for i in range(BLOCK):
            store(work.weights, i, load(work.x, base + i) * load(work.x, base + i))


@inner
def _put_block(work: Work, base: int, inverse: F32s, at: int) -> None:
    """The q of 32 weights in 16 bytes: the first half in the lower bits, the second in the upper ones."""
    for i in range(16):
        low = nearest_index(inverse * load(work.x, base + i))
        high = nearest_index(inverse * load(work.x, base + 16 + i))
        store(work.packed, at + i, low | (high << lanes(i32(4))))


@kernel
def iq4_nl(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_iq4_nl: d, 16 bytes of q for 32 weights; the arguments are those of bq.convert.kernel_calls.Kernel."""
    work = make_work(IQ4_NL_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, BLOCK):
            return False
        sigma2 = sum_of_squares(work.x, 0, BLOCK) * lanes(f32(2 / BLOCK))
        _weigh(work, importance, 0, sigma2)
        scale = _search_scale(work, 0)
        if effort is not None:
            scale = refine_values(work, BLOCK, scale, effort)
        put_half(work.packed, 0, to_half(scale))
        _put_block(work, 0, reciprocal(scale), 2)
        write_blocks(work.packed, ~fits_half(scale), first, IQ4_NL_BYTES, out, redo)
    return True


@kernel
def iq4_xs(
    rows: I64Array,
    dtype: int,
    columns: int,
    normalise: bool,
    importance: F32Array | None,
    effort: int | None,
    out: U8Array,
    redo: U8Array,
) -> bool:
    """block_iq4_xs: d, 2 bytes of upper and 4 of lower bits of eight scales, 128 bytes of q."""
    work = make_work(IQ4_XS_BYTES, len(rows) if normalise else 0)
    for first in range(0, len(redo), LANES):
        if not read_blocks(rows, dtype, columns, importance, work, first, SUPER_BLOCK):
            return False
        sigma2 = sum_of_squares(work.x, 0, SUPER_BLOCK) * lanes(f32(2 / SUPER_BLOCK))
        for j in range(8):
            _weigh(work, importance, BLOCK * j, sigma2)
            store(work.scales, j, _search_scale(work, BLOCK * j))
        d = -largest_magnitude(work.scales, 0, 8) / lanes(f32(32))
        _round_scales(work, d)
        if effort is not None:
            d = refine_symmetric(work, BLOCK, 0, -32, 31, d, effort)
        _put_scales(work, d)
        for j in range(8):
            _put_block(work, BLOCK * j, reciprocal(load(work.scales, j)), 8 + 16 * j)
        write_blocks(work.packed, ~fits_half(d), first, IQ4_XS_BYTES, out, redo)
    return True


@inner
def _round_scales(work: Work, d: F32s) -> None:
    """The eight scales in steps of d."""
    inverse = reciprocal(d)
    for j in range(8):
        store(work.scale_q, j, clamp(nearest_int(inverse * load(work.scales, j)), -32, 31))


@inner
def _put_scales(work: Work, d: F32s) -> None:
    """d and the eight scales, bytes 0 to 7; `work.scales` become these multiples of d."""
    upper = lanes(i32(0))
    four, low = lanes(i32(4)), lanes(i32(15))
    for j in range(8):
        store(work.scales, j, d * to_float(load(work.scale_q, j)))
        upper = upper | (((load(work.scale_q, j) + lanes(i32(32))) >> four) << lanes(i32(2 * j)))
    put_half(work.packed, 0, to_half(d))
    put_half(work.packed, 2, upper)
    for j in range(0, 8, 2):
        a, b = load(work.scale_q, j) + lanes(i32(32)), load(work.scale_q, j + 1) + lanes(i32(32))
        store(work.packed, 4 + j // 2, (a & low) | ((b & low) << four))
