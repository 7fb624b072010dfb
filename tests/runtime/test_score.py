"""The definitions of quality, against the formulas of the literature computed one value at a time in double precision."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bq.runtime.evaluation import score

LOGITS = arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32))
VALUES = st.lists(st.floats(0, 20), min_size=11, max_size=60)


def probabilities(row: npt.NDArray[np.float32]) -> list[float]:
    weights = [math.exp(float(logit)) for logit in row]
    return [weight / math.fsum(weights) for weight in weights]


@given(LOGITS)
def test_log_softmax_is_the_logarithm_of_the_shares(logits: npt.NDArray[np.float32]) -> None:
    expected = [[math.log(share) for share in probabilities(row)] for row in logits]
    assert score.log_softmax(logits) == pytest.approx(np.array(expected), abs=1e-5)


@given(LOGITS, st.lists(st.integers(0, 6), min_size=3, max_size=3))
def test_the_likelihood_is_that_of_the_right_token(logits: npt.NDArray[np.float32], tokens: Sequence[int]) -> None:
    expected = [-math.log(probabilities(row)[token]) for row, token in zip(logits, tokens, strict=True)]
    found = score.negative_log_likelihood(logits, np.array(tokens, np.int32))
    assert found == pytest.approx(np.array(expected), abs=1e-5)


@given(LOGITS, LOGITS)
def test_the_divergence_is_that_of_kullback_and_leibler(
    base: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> None:
    found = score.divergence(score.log_softmax(base), other)
    for ours, first, second in zip(found, base, other, strict=True):
        pairs = zip(probabilities(first), probabilities(second), strict=True)
        assert ours == pytest.approx(math.fsum(p * math.log(p / q) for p, q in pairs if p > math.exp(-16)), abs=1e-4)


def test_what_the_reference_finds_less_likely_than_the_file_can_say_counts_for_nothing() -> None:
    base = np.array([[0.0, -15.99, -16.01]])
    other = np.array([[0.0, -5.0, 100.0]], np.float32)
    log_q = other[0].astype(np.float64) - 100
    expected = 1 * (0 - log_q[0]) + math.exp(-15.99) * (-15.99 - log_q[1])
    assert score.divergence(base, other)[0] == pytest.approx(expected, rel=1e-6)


def test_what_is_left_out_is_left_out_of_both_sides() -> None:
    left_out = 400_000  # pieces of e^-16.5 each: 3 % of the whole
    likely = math.log1p(-left_out * math.exp(-16.5))
    base = np.array([[likely] + [-16.5] * left_out])
    expected = math.exp(likely) * (likely + math.log(1 + left_out))  # the other finds all equally likely
    assert score.divergence(base, np.full(base.shape, 3, np.float32))[0] == pytest.approx(expected, rel=1e-5)


def test_minus_infinity_is_a_probability_of_nothing() -> None:
    base = np.array([[math.log(0.5), math.log(0.5), -math.inf]])
    assert score.divergence(base, np.zeros((1, 3), np.float32))[0] == pytest.approx(math.log(1.5))


def test_of_equally_likely_pieces_the_first_counts() -> None:
    base = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0]], np.float32)
    other = np.array([[3.0, 2.0, 1.0], [1.0, 5.0, 5.0], [1.0, 4.0, 5.0]], np.float32)
    assert score.agreement(base, other).tolist() == [True, True, False]


@given(VALUES)
def test_a_mean_has_the_standard_error_of_its_values(values: list[float]) -> None:
    found = score.mean(np.array(values))
    average = math.fsum(values) / len(values)
    variance = math.fsum((value - average) ** 2 for value in values) / len(values)
    assert found.value == pytest.approx(average)
    assert found.error == pytest.approx(math.sqrt(variance / (len(values) - 1)), abs=1e-6)


def test_a_mean_of_few_values_claims_no_error() -> None:
    assert score.mean(np.arange(10.0)) == score.Mean(4.5, 0.0)
    assert score.mean(np.arange(11.0)).error > 0


@given(VALUES)
def test_perplexity_is_the_exponential_of_the_mean(values: list[float]) -> None:
    found, log = score.perplexity(np.array(values)), score.mean(np.array(values))
    assert found.value == pytest.approx(math.exp(log.value))
    assert found.error == pytest.approx(found.value * log.error)


def test_the_ratio_minds_that_both_were_measured_on_the_same_tokens() -> None:
    random = np.random.default_rng(5)
    base = random.exponential(2, 400)
    ours = base + random.normal(0.1, 0.02, 400)
    found = score.perplexity_ratio(ours, base)
    differences = score.mean(ours - base)  # the error of paired values is that of their differences
    assert found.value == pytest.approx(math.exp(differences.value))
    assert found.error == pytest.approx(found.value * differences.error, rel=1e-3)
    assert found.error < 0.1 * score.perplexity(ours).error / score.perplexity(base).value


def test_a_file_beside_itself_has_the_ratio_one_without_error() -> None:
    nll = np.random.default_rng(6).exponential(2, 100)
    assert score.perplexity_ratio(nll, nll.copy()) == score.Mean(1.0, pytest.approx(0, abs=1e-7))


def test_a_share_has_the_error_of_a_binomial() -> None:
    flags = np.array([True] * 80 + [False] * 20)
    assert score.share(flags) == score.Mean(0.8, pytest.approx(math.sqrt(0.8 * 0.2 / 99)))


def test_a_quantile_lies_between_two_values() -> None:
    values = np.arange(101.0)[::-1]
    assert score.quantile(values, 0.99) == pytest.approx(99.0)
    assert score.quantile(values[:100], 0.5) == pytest.approx(50.5)


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert score.to_perplexity(1e6) == math.inf
