"""The scales or minima of a super-block in steps of a common one: by the largest, or with an importance matrix by search.

Every function is the one of the same purpose in llama.cpp's ggml-quants.c, computed for sixteen super-blocks.
"""

from bq.convert.kernels.blocks import (
    ALL_ZERO,
    LARGEST_ROUNDED,
    I32Array,
    at_most,
    everywhere,
    f32,
    i32,
    larger,
    nearest_int,
    nowhere,
)
from bq.convert.kernels.lanes import (
    F32Array,
    F32s,
    Mask,
    inner,
    lanes,
    load,
    store,
    to_float,
    where,
)


@inner
def quantize_by_weight(x: F32Array, n: int, top: int, weights: F32Array, q: I32Array) -> tuple[F32s, Mask]:
    """make_qp_quants: x ~ scale * q for n numbers from 0 up, by search and then by rounds of coordinate descent.

    Returns the scale, and the lanes where it is not known to be what C computes.
    """
    zero = lanes(f32(0))
    most = zero
    for i in range(n):
        most = larger(most, load(x, i))
    inverse = _best_inverse(x, n, top, weights, most)
    sum_xl = sum_l2 = zero
    for i in range(n):
        value, w = load(x, i), load(weights, i)
        level = at_most(nearest_int(inverse * value), top)
        store(q, i, level)
        sum_xl = sum_xl + w * value * to_float(level)
        sum_l2 = sum_l2 + w * to_float(level) * to_float(level)
    sum_xl, sum_l2, odd = _descend(x, n, top, weights, q, sum_xl, sum_l2)
    is_zero = most < lanes(ALL_ZERO)
    for i in range(n):
        store(q, i, where(is_zero, lanes(i32(0)), load(q, i)))
    return where((sum_l2 > zero) & ~is_zero, sum_xl / sum_l2, zero), odd & ~is_zero


@inner
def _best_inverse(x: F32Array, n: int, top: int, weights: F32Array, most: F32s) -> F32s:
    """Of nine step widths around the one that makes the largest number `top`, that of the smallest error."""
    inverse = lanes(f32(top)) / most
    best = _rounding_error(x, n, top, weights, inverse)
    for step in range(-4, 5):
        if step == 0:
            continue
        candidate = lanes(f32(f32(f32(0.1) * f32(step)) + f32(top))) / most
        error = _rounding_error(x, n, top, weights, candidate)
        is_better = error < best
        best = where(is_better, error, best)
        inverse = where(is_better, candidate, inverse)
    return inverse


@inner
def _rounding_error(x: F32Array, n: int, top: int, weights: F32Array, inverse: F32s) -> F32s:
    scale = lanes(f32(1)) / inverse
    error = lanes(f32(0))
    for i in range(n):
        difference = load(x, i) - scale * to_float(at_most(nearest_int(inverse * load(x, i)), top))
        error = error + load(weights, i) * difference * difference
    return error


@inner
def _descend(
    x: F32Array, n: int, top: int, weights: F32Array, q: I32Array, sum_xl: F32s, sum_l2: F32s
) -> tuple[F32s, F32s, Mask]:
    """Up to five rounds in which each q takes the value that suits all others best; the two sums then, and odd lanes."""
    zero = lanes(f32(0))
    is_going_on, odd = everywhere(), nowhere()
    for _ in range(5):
        is_changed = nowhere()
        for i in range(n):
            value, w, old = load(x, i), load(weights, i), to_float(load(q, i))
            rest_xl = sum_xl - w * value * old
            rest_l2 = sum_l2 - w * old * old
            exact = value * rest_l2 / rest_xl
            level = at_most(nearest_int(exact), top)
            new_xl = rest_xl + w * value * to_float(level)
            new_l2 = rest_l2 + w * to_float(level) * to_float(level)
            is_tried = (rest_xl > zero) & (rest_l2 > zero) & is_going_on
            odd = odd | (is_tried & ~(exact < lanes(LARGEST_ROUNDED)))
            is_better = is_tried & ~(level == load(q, i)) & (new_xl * new_xl * sum_l2 > sum_xl * sum_xl * new_l2)
            store(q, i, where(is_better, level, load(q, i)))
            sum_xl = where(is_better, new_xl, sum_xl)
            sum_l2 = where(is_better, new_l2, sum_l2)
            is_changed = is_changed | is_better
        is_going_on = is_changed
    return sum_xl, sum_l2, odd


@inner
def quantize_by_largest(x: F32Array, n: int, top: int, q: I32Array) -> F32s:
    """The n scales or minima of a super-block in steps of the largest one's `top`-th part, which is returned."""
    zero = lanes(f32(0))
    most = zero
    for j in range(n):
        most = larger(load(x, j), most)
    inverse = where(most > zero, lanes(f32(top)) / most, zero)
    for j in range(n):
        store(q, j, at_most(nearest_int(inverse * load(x, j)), top))
    return most / lanes(f32(top))
