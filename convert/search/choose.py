"""Chooses one option for each group so that the harm is least within a size: the multiple-choice knapsack problem.

Harms add up: measured divergences are small, and what one group does to the output hardly depends on the others. Solved by dynamic
programming over sizes (Kellerer, Pferschy and Pisinger, Knapsack Problems, 2004, section 11.5); rounding sizes up to a step of the
limit keeps every choice within it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_STEPS = 1 << 14


@dataclass(frozen=True)
class Cost:
    """What an option takes in bytes, and how much it hurts: nats per token."""

    size_bytes: int
    harm: float


def choose(groups: Sequence[Sequence[Cost]], limit_bytes: int) -> tuple[int, ...] | None:
    """The number of the option of each group, the sum of sizes at most `limit_bytes`; None if not even the smallest fit."""
    least = [min(cost.size_bytes for cost in costs) for costs in groups]
    if sum(least) > limit_bytes:
        return None
    room = limit_bytes - sum(least)
    step = max(1, -(-room // _STEPS))
    best = np.zeros(room // step + 1)
    taken: list[npt.NDArray[np.int16]] = []
    for costs, base in zip(groups, least, strict=True):
        best, choice = _with_group(best, costs, base, step)
        taken.append(choice)
    numbers = _trace_back(groups, least, taken, step)
    return _filled_up(groups, numbers, limit_bytes)


def _with_group(
    best: npt.NDArray[np.float64], costs: Sequence[Cost], base: int, step: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int16]]:
    """The least harm for each room, this group included, and which of its options gives it."""
    found = np.full(len(best), np.inf)
    choice = np.zeros(len(best), np.int16)
    for number, cost in enumerate(costs):
        shift = -(-(cost.size_bytes - base) // step)
        if shift < len(best):
            harm = np.full(len(best), np.inf)
            harm[shift:] = best[: len(best) - shift] + cost.harm
            better = harm < found
            found[better], choice[better] = harm[better], number
    return found, choice


def _trace_back(
    groups: Sequence[Sequence[Cost]], least: Sequence[int], taken: Sequence[npt.NDArray[np.int16]], step: int
) -> list[int]:
    at = len(taken[0]) - 1 if taken else 0
    numbers = []
    for costs, base, choice in zip(reversed(groups), reversed(least), reversed(taken), strict=True):
        number = int(choice[at])
        numbers.append(number)
        at -= -(-(costs[number].size_bytes - base) // step)
    return numbers[::-1]


def _filled_up(groups: Sequence[Sequence[Cost]], numbers: list[int], limit_bytes: int) -> tuple[int, ...]:
    """Spend what the rounding left over, the best gain per byte first."""
    while True:
        left = limit_bytes - sum(costs[number].size_bytes for costs, number in zip(groups, numbers, strict=True))
        gains = [
            ((now.harm - cost.harm) / max(1, cost.size_bytes - now.size_bytes), group, number)
            for group, costs in enumerate(groups)
            for number, cost in enumerate(costs)
            for now in [costs[numbers[group]]]
            if cost.harm < now.harm and cost.size_bytes - now.size_bytes <= left
        ]
        if not gains:
            return tuple(numbers)
        _, group, number = max(gains)
        numbers[group] = number
