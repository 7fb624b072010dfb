"""Weights of every kind that a quantizer meets or must survive, as float32 rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tests.support.stored import F32

Make = Callable[[np.random.Generator, tuple[int, int]], F32]


def bf16_rounded(values: F32) -> F32:
    """Cut to the bits that bfloat16 keeps."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _gaussian(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.standard_normal(shape, np.float32)


def _heavy_tailed(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.standard_t(1.5, shape).astype(np.float32)


def _sparse(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return np.where(rng.random(shape) < 0.05, rng.standard_normal(shape), 0).astype(np.float32)


def _constant(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return np.broadcast_to(rng.standard_normal((shape[0], 1), np.float32), shape).copy()


def _one_outlier(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    rows = rng.standard_normal(shape, np.float32) * np.float32(1e-3)
    rows[np.arange(shape[0]), rng.integers(0, shape[1], shape[0])] = 1e3
    return rows


def _denormal(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    return rng.standard_normal(shape, np.float32) * np.float32(1e-41)


def _tiny(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Around GROUP_MAX_EPS, 1e-15, each row in a size of its own."""
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(-20, -10, (shape[0], 1))).astype(np.float32)


def _huge(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Scales beyond float16, up to sums of squares beyond float32."""
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(3, 30, (shape[0], 1))).astype(np.float32)


def _many_sizes(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Every weight in a size of its own: scales of sub-blocks that round to 0 beside others."""
    return (rng.standard_normal(shape) * 10.0 ** rng.uniform(-8, 2, shape)).astype(np.float32)


def _one_sign(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    sign = np.where(rng.random((shape[0], 1)) < 0.5, -1, 1)
    return (sign * (1 + 0.001 * rng.random(shape))).astype(np.float32)


def _few_values(rng: np.random.Generator, shape: tuple[int, int]) -> F32:
    """Small integers: ties of every kind."""
    return rng.integers(-4, 5, shape).astype(np.float32)


WEIGHTS: Mapping[str, Make] = {
    "gaussian": _gaussian,
    "heavy-tailed": _heavy_tailed,
    "sparse": _sparse,
    "constant": _constant,
    "all-zero": lambda rng, shape: np.zeros(shape, np.float32),
    "minus-zero": lambda rng, shape: np.full(shape, -0.0, np.float32),
    "one-outlier": _one_outlier,
    "denormal": _denormal,
    "tiny": _tiny,
    "huge": _huge,
    "many-sizes": _many_sizes,
    "one-sign": _one_sign,
    "few-values": _few_values,
    "bf16-rounded": lambda rng, shape: bf16_rounded(_gaussian(rng, shape)),
}

IMPORTANCE: Mapping[str, Callable[[np.random.Generator, int], F32 | None]] = {
    "none": lambda rng, columns: None,
    "even": lambda rng, columns: np.ones(columns, np.float32),
    "lively": lambda rng, columns: np.exp(3 * rng.standard_normal(columns)).astype(np.float32),
    "gaps": lambda rng, columns: np.where(rng.random(columns) < 0.3, 0, rng.random(columns)).astype(np.float32),
}
