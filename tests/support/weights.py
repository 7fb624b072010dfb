"""Random weights for the Baichuan layouts, produced row by row, the same for every reader of the same seed.

Promise: every value depends on the seed and the tensor's name only, not on the chunks it is made in, and no tensor is
ever whole in memory while it is written. The scales keep the logits lively: attention scores of about 1.5 so that
positions matter, norm weights between 0.4 and 1.6, lm_head rows with norms from 1/4 to 4 so that NormHead matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal
from zlib import crc32

import numpy as np

from tests.support.stored import F32, DType, Storage, Stored, encode, rounded

Kind = Literal["matrix", "head", "unit_head", "norm", "inv_freq", "taps"]
_CHUNK_VALUES = 1 << 20


@dataclass(frozen=True)
class Weight:
    """A tensor that is defined, not held; `scale` is the standard deviation times sqrt(columns)."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "matrix"
    scale: float = 1.0


def as_stored(weight: Weight, dtype: DType, seed: int) -> Stored:
    """The tensor as it goes to a file; inv_freq is float32 in every checkpoint."""
    kept: DType = "f32" if weight.kind == "inv_freq" else dtype

    def chunks() -> Iterator[bytes]:
        for rows in _rows(weight, seed):
            yield encode(rows, kept)

    return Stored(weight.name, weight.shape, Storage(kept, prod(weight.shape), chunks))


def values(weight: Weight, dtype: DType, seed: int) -> F32:
    """The same tensor in memory, with the rounding of its dtype."""
    whole = np.concatenate(list(_rows(weight, seed))).reshape(weight.shape)
    return whole if weight.kind == "inv_freq" else rounded(whole, dtype)


def _rows(weight: Weight, seed: int) -> Iterator[F32]:
    rng = np.random.default_rng((seed, crc32(weight.name.encode())))
    if weight.kind == "inv_freq":
        # As transformers' LlamaRotaryEmbedding computes the buffer: base 10000, head_dim / 2 values.
        yield (10000.0 ** -(np.arange(weight.shape[0]) / weight.shape[0])).astype(np.float32)
    elif weight.kind == "norm":
        yield rng.uniform(0.4, 1.6, weight.shape[0]).astype(np.float32)
    elif weight.kind == "taps":  # of a convolution, whatever the shape
        yield rng.uniform(0.2, 0.8, weight.shape).astype(np.float32)
    else:
        yield from _matrix_rows(weight, rng)


def _matrix_rows(weight: Weight, rng: np.random.Generator) -> Iterator[F32]:
    rows, columns = weight.shape
    factor = np.full(rows, weight.scale / np.sqrt(columns), np.float32)
    if weight.kind == "head":
        factor *= np.exp2(rng.uniform(-2, 2, rows)).astype(np.float32)
    step = max(1, _CHUNK_VALUES // columns)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = rng.standard_normal((stop - start, columns), np.float32) * factor[start:stop, None]
        if weight.kind == "unit_head":
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield block
