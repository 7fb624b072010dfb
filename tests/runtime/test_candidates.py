"""The few that are looked at hold the greatest after the penalty, or it is said that this is not sure."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.candidates import MOST, Candidates

PENALTY = 1.25  # exact in float32, as 0.8 is not: ties and the order are decided by the rounded values
SHRINK = float(np.float32(1 / PENALTY))


def sorted_out(logits: Sequence[float], seen: set[int], count: int) -> list[tuple[float, int]]:
    """All of them lowered one by one in float32, then sorted."""
    lowered = [
        float(np.float32(value) * np.float32((SHRINK if value > 0 else PENALTY) if token in seen else 1))
        for token, value in enumerate(logits)
    ]
    return sorted(((value, token) for token, value in enumerate(lowered)), key=lambda one: (-one[0], one[1]))[:count]


@settings(max_examples=400)
@given(data=st.data(), size=st.sampled_from([1, 7, 90, 500, 8500, 9973]), count=st.integers(1, MOST))
def test_they_are_what_sorting_all_of_them_gives(data: st.DataObject, size: int, count: int) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    steps = data.draw(st.sampled_from([3, 50, 10**6]))  # few values: many of them equal
    logits = (np.round(random.standard_normal(size) * steps) / steps * 4).astype(np.float32)
    likely = np.argsort(-logits)[: data.draw(st.integers(0, 30))]  # what was said is what is likely
    seen = {*likely.tolist(), *random.integers(0, size, 20).tolist()}
    found = Candidates(size, count, SHRINK, PENALTY).of(logits, seen)
    expected = sorted_out(logits.tolist(), seen, count)
    if found is None:
        least = expected[-1][0]
        beyond = np.sort(logits)[::-1][min(size, count + 8) - 1]
        assert least <= beyond, "it was sure"
    else:
        assert found == expected


def test_so_many_that_were_seen_are_not_guessed_away() -> None:
    logits = np.linspace(10, 0, 5000, dtype=np.float32)
    assert Candidates(5000, 5, SHRINK, PENALTY).of(logits, set(range(40))) is None
    assert Candidates(5000, 5, SHRINK, PENALTY).of(logits, {0, 1, 2}) == sorted_out(logits.tolist(), {0, 1, 2}, 5)


def test_infinities_are_numbers() -> None:
    logits = np.full(300, -math.inf, np.float32)
    logits[[7, 9]] = math.inf, 1.0
    found = Candidates(300, 5, 1.0, 1.0).of(logits, set())
    assert found is not None
    assert found[:2] == [(math.inf, 7), (1.0, 9)]


@pytest.mark.parametrize("size", [300, 9000])
def test_a_nan_is_told(size: int) -> None:
    logits = np.linspace(-5, 5, size, dtype=np.float32)
    logits[size // 3] = math.nan
    found = Candidates(size, 5, SHRINK, PENALTY).of(logits, {1})
    assert found is not None
    assert math.isnan(found[0][0])
