"""What quality is measured by: perplexity, KL divergence from a reference, agreement in the likeliest token.

The definitions are those of llama-perplexity (tools/perplexity/perplexity.cpp of llama.cpp), so that the numbers can be
compared: logits as float32, sums and what is made of them in double precision. Rows are positions, columns pieces.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

# Pieces that the reference finds less likely than e^-16 count for nothing in a divergence: the file of log probabilities
# reaches no further down.
LEAST_LOG_PROB = -16.0
_MOST_EXPONENT = 700  # e^710 is no double any more
_FEWEST = 10  # values of which a standard error is given


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Scores:
    """What was found at each of n positions: -ln of the right token's probability, and beside a reference more.

    `base_nll` is the reference's own; `divergence` in nats; `same_top` whether both find the same token the likeliest.
    """

    nll: F64
    base_nll: F64 | None = None
    divergence: F64 | None = None
    same_top: Flags | None = None

    def __len__(self) -> int:
        return len(self.nll)


def log_sum_exp(logits: Floats) -> F64:
    """ln of the sum of e^logit of each row."""
    top = logits.max(axis=1)
    return np.asarray(top + _log_total(logits - top[:, None]), np.float64)


def _log_total(lowered: Floats) -> F64:
    """The same of rows whose greatest is 0; the exponentials are float32, their sum is not."""
    return np.asarray(np.log(np.exp(lowered).sum(axis=1, dtype=np.float64)), np.float64)


def log_softmax(logits: Floats) -> F64:
    """Log probabilities [n, v] of rows of logits."""
    return logits - log_sum_exp(logits)[:, None]


def negative_log_likelihood(logits: Floats, tokens: Ids) -> F64:
    """-ln of the probability that each row gives its token: [n]."""
    chosen = logits[np.arange(len(tokens)), tokens].astype(np.float64)
    return np.asarray(log_sum_exp(logits) - chosen)


def divergence(base_log_probs: Floats, logits: Floats) -> F64:
    """KL divergence of each row of logits from a reference's log probabilities, both [n, v]: [n], in nats.

    The sum over pieces of p (ln p - ln q), p the reference's; those below LEAST_LOG_PROB are left out.
    """
    counted = base_log_probs > LEAST_LOG_PROB
    weight = np.exp(base_log_probs, where=counted, out=np.zeros_like(base_log_probs))
    lowered = logits - logits.max(axis=1, keepdims=True)  # small where the weight lies: float32 then loses nothing
    difference = np.subtract(base_log_probs, lowered, where=counted, out=np.zeros_like(base_log_probs))
    sum_of_weights = weight.sum(axis=1, dtype=np.float64)
    return np.asarray((weight * difference).sum(axis=1, dtype=np.float64) + sum_of_weights * _log_total(lowered))


def agreement(base_log_probs: Floats, logits: Floats) -> Flags:
    """Whether both find the same piece the likeliest; of equal ones the first counts."""
    return np.asarray(base_log_probs.argmax(axis=1) == logits.argmax(axis=1))


def mean(values: Floats) -> Mean:
    """The mean of some values, with its standard error; of ten or fewer there is none, and 0 stands for it."""
    count = len(values)
    average = float(np.mean(values, dtype=np.float64))
    variance = float(np.mean(np.square(values, dtype=np.float64))) - average * average
    return Mean(average, math.sqrt(variance / (count - 1)) if variance > 0 and count > _FEWEST else 0.0)


def to_perplexity(value: float) -> float:
    """e^value, infinite where a double has no room for it."""
    return math.exp(value) if value < _MOST_EXPONENT else math.inf


def perplexity(nll: F64) -> Mean:
    """e to the mean of what negative_log_likelihood gives."""
    log = mean(nll)
    value = to_perplexity(log.value)
    return Mean(value, value * log.error)


def perplexity_ratio(nll: F64, base_nll: F64) -> Mean:
    """The perplexity over the reference's; the error minds that both were measured on the same tokens."""
    ours, base, count = mean(nll), mean(base_nll), len(nll)
    covariance = 0.0
    if count >= _FEWEST:
        covariance = (float(np.mean(nll * base_nll)) - ours.value * base.value) / (count - 1)
    variance = ours.error**2 + base.error**2 - 2 * covariance
    ratio = to_perplexity(ours.value - base.value)
    return Mean(ratio, ratio * math.sqrt(max(variance, 0.0)))


def share(flags: Flags) -> Mean:
    """The part of the flags that are set."""
    count = len(flags)
    part = float(np.count_nonzero(flags)) / count
    return Mean(part, math.sqrt(part * (1 - part) / (count - 1)) if count > 1 else 0.0)


def quantile(values: Floats, part: float) -> float:
    """The value below which this part of the values lies, between two of them linearly."""
    return float(np.quantile(values.astype(np.float64), part))
