"""The functions that models are made of, from the papers: a few lines each, on plain arrays, float32 unless it says so.

RMSNorm (Zhang and Sennrich 2019), RoPE (Su 2021) with the halves of a head rotated against each other, its stretching by YaRN
(Peng 2023), ALiBi (Press 2022), grouped heads (Ainslie 2023), SwiGLU (Shazeer 2020), experts (Qwen3, arXiv 2505.09388).
"""

import math

import numpy as np
import numpy.typing as npt

from bq.convert.model_config import Scaling

Floats = npt.NDArray[np.float32]
_FAST, _SLOW = (
    32,
    1,
)  # YaRN's beta: turns within the trained context of the pairs that stay, and of those that are stretched


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Each row over the root of its mean square, times a weight for each column."""
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(mean_square + np.float32(eps)) * weight)


def rope(x: Floats, base: float, scaling: Scaling | None = None) -> Floats:
    """Turn the pair (i, i + width/2) of position p by the angle p * base^(-2i/width); x is [tokens, width]."""
    half = x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), frequencies(half, base, scaling))
    size = 0.1 * math.log(scaling.factor) + 1 if scaling is not None and scaling.kind == "yarn" else 1.0
    cos, sin = (size * np.cos(angle)).astype(np.float32), (size * np.sin(angle)).astype(np.float32)
    first, second = x[:, :half], x[:, half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=1)


def frequencies(half: int, base: float, scaling: Scaling | None) -> npt.NDArray[np.float64]:
    """The angle by which each pair turns from one position to the next.

    "linear" slows all of them down; "yarn" those that turn less than once within the trained context, in full, and those up to
    32 times by degrees.
    """
    pair = np.arange(half)
    plain: npt.NDArray[np.float64] = base ** (-pair / half)
    if scaling is None:
        return plain
    if scaling.kind == "linear" or scaling.original is None:
        return plain / scaling.factor
    first, last = (_pair_that_turns(turns, half, base, scaling.original) for turns in (_FAST, _SLOW))
    first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * half - 1)
    slowed = np.clip((pair - first) / max(last - first, 0.001), 0, 1)
    return plain * (1 - slowed) + plain / scaling.factor * slowed


def _pair_that_turns(turns: float, half: int, base: float, context: int) -> float:
    """The number of the pair that makes so many turns within a context."""
    return half * math.log(context / (turns * 2 * math.pi)) / math.log(base)


def alibi_slopes(heads: int) -> list[float]:
    """How much each head minds distance: for 2^n heads 2^(-8i/2^n), i = 1 … 2^n.

    For another count those of the power of two below it, then every second one of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    whole = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]
    return whole + between


def softmax(scores: Floats) -> Floats:
    """Shares that add up to 1 along the last axis."""
    shares: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def silu(x: Floats) -> Floats:
    """x * sigmoid(x); exp may overflow to infinity for a very negative x, which gives the right 0."""
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


def route(scores: Floats, used: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """The experts of each token and their weights, both [tokens, used]: the likeliest by softmax, their shares made to add up to 1."""
    shares = softmax(scores)
    chosen = np.argsort(-shares, axis=1, kind="stable")[:, :used]
    weights = np.take_along_axis(shares, chosen, axis=1)
    return chosen, np.asarray(weights / weights.sum(axis=1, keepdims=True))
