"""`--effort high`: better scales for the same format, after the search that llama.cpp does too.

llama.cpp chooses each sub-block's scale (and minimum) as if it could be any number, and rounds it afterwards to steps of the
super-block's largest. Here the two are chosen together, by turns: for given steps, each sub-block takes the scale
whose weights then lie nearest, among those around the present one; for given scales and levels, the steps are the
least-squares ones. The state with the smallest error is kept.

The error is the sum of squares, times the columns' importance if that is known.
"""

import numpy as np

from bq.convert.kernels.blocks import (
    SUPER_BLOCK,
    I32Array,
    Work,
    absolute,
    clamp,
    f32,
    from_half,
    i32,
    larger,
    reciprocal,
    rounded,
    smaller,
    to_half,
)
from bq.convert.kernels.lanes import (
    F32s,
    I32s,
    Mask,
    inner,
    lanes,
    load,
    store,
    to_float,
    where,
)
from bq.convert.kernels.values import (
    nearest_value,
)

_NEIGHBOURS, _FAR = 1, 2  # how far to look from the present scale: of a pair, of a scale alone


@inner
def as_stored(x: F32s) -> F32s:
    """Rounded to float16, as the file will hold it."""
    return from_half(to_half(x))


@inner
def refine_affine(work: Work, n: int, top: int, top_scale: int, d: F32s, dmin: F32s, rounds: int) -> tuple[F32s, F32s]:
    """Better d, dmin, `work.scale_q` and `work.minimum_q` for x ~ d * scale_q * q - dmin * minimum_q, q from 0 to `top`.

    Sub-blocks have n weights, scale_q and minimum_q go to `top_scale`. Returns d and dmin.
    """
    sub_blocks = SUPER_BLOCK // n
    kept_scales, kept_minima = np.empty(16 * 16, i32), np.empty(16 * 16, i32)
    d, dmin = as_stored(d), as_stored(dmin)
    best_d, best_dmin, best = d, dmin, lanes(f32(np.inf))
    for j in range(sub_blocks):
        store(kept_scales, j, load(work.scale_q, j))
        store(kept_minima, j, load(work.minimum_q, j))
    for _ in range(rounds + 1):
        total = lanes(f32(0))
        for j in range(sub_blocks):
            total = total + _best_pair(work, j, n, top, top_scale, d, dmin)
        is_better = total < best
        best = where(is_better, total, best)
        best_d, best_dmin = where(is_better, d, best_d), where(is_better, dmin, best_dmin)
        for j in range(sub_blocks):
            store(kept_scales, j, _chosen(is_better, work.scale_q, kept_scales, j))
            store(kept_minima, j, _chosen(is_better, work.minimum_q, kept_minima, j))
        new_d, new_dmin = _least_squares(work, n, top, d, dmin)
        is_sound = (new_d > lanes(f32(0))) & (new_dmin >= lanes(f32(0)))
        d = where(is_sound, as_stored(new_d), d)
        dmin = where(is_sound, as_stored(new_dmin), dmin)
    for j in range(sub_blocks):
        store(work.scale_q, j, load(kept_scales, j))
        store(work.minimum_q, j, load(kept_minima, j))
    return best_d, best_dmin


@inner
def _least_squares(work: Work, n: int, top: int, d: F32s, dmin: F32s) -> tuple[F32s, F32s]:
    """The d and dmin that suit the present scales, minima and levels best: x ~ d * u - dmin * v."""
    uu = uv = vv = ux = vx = lanes(f32(0))
    for j in range(SUPER_BLOCK // n):
        scale_q, v = to_float(load(work.scale_q, j)), to_float(load(work.minimum_q, j))
        inverse = reciprocal(d * scale_q)
        for i in range(n * j, n * j + n):
            value, w = load(work.x, i), load(work.importance, i)
            u = scale_q * _level(value + dmin * v, inverse, top)
            uu, uv, vv = uu + w * u * u, uv + w * u * v, vv + w * v * v
            ux, vx = ux + w * u * value, vx + w * v * value
    determinant = uu * vv - uv * uv
    both = determinant > lanes(f32(1e-6)) * uu * vv  # else no minimum is there, or it is one with the scale
    new_d = where(both, (ux * vv - vx * uv) / determinant, (ux + dmin * uv) / uu)
    return new_d, where(both, (ux * uv - vx * uu) / determinant, dmin)


@inner
def _chosen(condition: Mask, yes: I32Array, no: I32Array, j: int) -> I32s:
    return where(condition, load(yes, j), load(no, j))


@inner
def _level(value: F32s, inverse: F32s, top: int) -> F32s:
    return rounded(smaller(larger(value * inverse, lanes(f32(0))), lanes(f32(top))))


@inner
def _best_pair(work: Work, j: int, n: int, top: int, top_scale: int, d: F32s, dmin: F32s) -> F32s:
    """The best scale_q and minimum_q of sub-block j among the present ones and their neighbours; returns its error."""
    scale_q, minimum_q = load(work.scale_q, j), load(work.minimum_q, j)
    best, best_scale, best_minimum = lanes(f32(np.inf)), scale_q, minimum_q
    for up in range(-_NEIGHBOURS, _NEIGHBOURS + 1):
        trial_scale = clamp(scale_q + lanes(i32(up)), 0, top_scale)
        scale = d * to_float(trial_scale)
        inverse = reciprocal(scale)
        for side in range(-_NEIGHBOURS, _NEIGHBOURS + 1):
            trial_minimum = clamp(minimum_q + lanes(i32(side)), 0, top_scale)
            minimum = dmin * to_float(trial_minimum)
            error = lanes(f32(0))
            for i in range(n * j, n * j + n):
                moved = load(work.x, i) + minimum
                difference = scale * _level(moved, inverse, top) - moved
                error = error + load(work.importance, i) * difference * difference
            is_better = error < best
            best = where(is_better, error, best)
            best_scale = where(is_better, trial_scale, best_scale)
            best_minimum = where(is_better, trial_minimum, best_minimum)
    store(work.scale_q, j, best_scale)
    store(work.minimum_q, j, best_minimum)
    return best


@inner
def refine_symmetric(work: Work, n: int, top: int, low_scale: int, high_scale: int, d: F32s, rounds: int) -> F32s:
    """Better d and `work.scale_q` for x ~ d * scale_q * q, q from -top to top - 1, or of VALUES if `top` is 0.

    Sub-blocks have n weights, scale_q goes from `low_scale` to `high_scale`. Returns d.
    """
    sub_blocks = SUPER_BLOCK // n
    kept = np.empty(16 * 16, i32)
    d = as_stored(d)
    best_d, best = d, lanes(f32(np.inf))
    for j in range(sub_blocks):
        store(kept, j, load(work.scale_q, j))
    for _ in range(rounds + 1):
        total = uu = ux = lanes(f32(0))
        for j in range(sub_blocks):
            total = total + _best_scale(work, j, n, top, low_scale, high_scale, d)
            scale_q = to_float(load(work.scale_q, j))
            inverse = reciprocal(d * scale_q)
            for i in range(n * j, n * j + n):
                value, w = load(work.x, i), load(work.importance, i)
                u = scale_q * _signed_level(value, inverse, top)
                uu, ux = uu + w * u * u, ux + w * u * value
        is_better = total < best
        best = where(is_better, total, best)
        best_d = where(is_better, d, best_d)
        for j in range(sub_blocks):
            store(kept, j, _chosen(is_better, work.scale_q, kept, j))
        new_d = ux / uu
        d = where(absolute(new_d) > lanes(f32(0)), as_stored(new_d), d)
    for j in range(sub_blocks):
        store(work.scale_q, j, load(kept, j))
    return best_d


@inner
def _signed_level(value: F32s, inverse: F32s, top: int) -> F32s:
    if top == 0:
        return nearest_value(value * inverse)
    return rounded(smaller(larger(value * inverse, lanes(f32(-top))), lanes(f32(top - 1))))


@inner
def _best_scale(work: Work, j: int, n: int, top: int, low_scale: int, high_scale: int, d: F32s) -> F32s:
    """The best scale_q of sub-block j among the present one and its neighbours; returns its error."""
    present = load(work.scale_q, j)
    best, best_scale = lanes(f32(np.inf)), present
    for step in range(-_FAR, _FAR + 1):
        trial = clamp(present + lanes(i32(step)), low_scale, high_scale)
        scale = d * to_float(trial)
        inverse = reciprocal(scale)
        error = lanes(f32(0))
        for i in range(n * j, n * j + n):
            value = load(work.x, i)
            difference = scale * _signed_level(value, inverse, top) - value
            error = error + load(work.importance, i) * difference * difference
        is_better = error < best
        best = where(is_better, error, best)
        best_scale = where(is_better, trial, best_scale)
    store(work.scale_q, j, best_scale)
    return best


@inner
def refine_values(work: Work, n: int, scale: F32s, rounds: int) -> F32s:
    """A better scale for n weights that become one of VALUES each."""
    scale = as_stored(scale)
    best_scale, best = scale, lanes(f32(np.inf))
    for _ in range(rounds + 1):
        error = qq = qx = lanes(f32(0))
        inverse = reciprocal(scale)
        for i in range(n):
            value, w = load(work.x, i), load(work.importance, i)
            q = nearest_value(value * inverse)
            difference = scale * q - value
            error = error + w * difference * difference
            qq, qx = qq + w * q * q, qx + w * q * value
        is_better = error < best
        best = where(is_better, error, best)
        best_scale = where(is_better, scale, best_scale)
        new_scale = qx / qq
        scale = where(absolute(new_scale) > lanes(f32(0)), as_stored(new_scale), scale)
    return best_scale
