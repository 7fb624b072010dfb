"""What a search comes to: the types that hurt least within a size, and what llama.cpp's mixtures would do beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bq.convert.mixture import MIXTURES, Mixture
from bq.convert.search.choose import Cost, choose
from bq.convert.search.groups import Group, Option, exact_weights, matrices_outside
from bq.convert.tensor_types import Traits, tensor_type, traits_of_file
from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType, row_bytes
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.tensor_parts import is_expert, rows_of

Harms = Mapping[tuple[str, GgmlType], float]  # group and type -> measured divergence in nats per token


@dataclass(frozen=True)
class Choice:
    """The type of one group, and what it was measured to do."""

    group: Group
    option: Option
    harm: float


@dataclass(frozen=True)
class Found:
    """The types for a size. `size_bytes` is that of the whole file; norms and routers have `exact_weights` of 32 bits."""

    choices: tuple[Choice, ...]
    size_bytes: int
    exact_weights: int

    @property
    def harm(self) -> float:
        """The sum of what was measured of each group, in nats per token.

        Of a mixture of experts it is more than what they do together, as a rule: where one group's error has sent a token to
        other experts, the next one's does so for the second time.
        """
        return sum(choice.harm for choice in self.choices)

    @property
    def has_experts(self) -> bool:
        """Whether it is a mixture of experts."""
        return any(is_expert(name) for choice in self.choices for name in choice.group.tensors)

    @property
    def weights(self) -> int:
        """Of all groups."""
        return sum(choice.group.weights for choice in self.choices)

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors, as `bq convert` counts them."""
        size = sum(choice.option.size_bytes for choice in self.choices) + 4 * self.exact_weights
        return 8 * size / (self.weights + self.exact_weights)

    @property
    def types(self) -> dict[str, GgmlType]:
        """Tensor name to type."""
        return {name: choice.option.kind for choice in self.choices for name in choice.group.tensors}


@dataclass(frozen=True)
class Rival:
    """A mixture of llama.cpp's: its size, and what the measurements say of it, None where it has types that were not measured."""

    mixture: Mixture
    size_bytes: int
    harm: float | None


def find(file: GgufFile, groups: Sequence[Group], harms: Harms, limit_bytes: int) -> Found:
    """The best types for a file of at most `limit_bytes`. Raises UsageError if even the smallest types need more."""
    outside = matrices_outside(file, groups)
    costs = [[Cost(option.size_bytes, harms[group.name, option.kind]) for option in group.options] for group in groups]
    numbers = choose(costs, limit_bytes - outside)
    if numbers is None:
        least = outside + sum(min(option.size_bytes for option in group.options) for group in groups)
        raise UsageError(
            say(
                f"The smallest of these formats makes {least / 1e9:.2f} GB, and the limit is {limit_bytes / 1e9:.2f} GB.",
                f"这些格式中最小的组合为 {least / 1e9:.2f} GB，而上限是 {limit_bytes / 1e9:.2f} GB。",
            ),
            say("Give a larger --size, or smaller --formats.", "请给出更大的 --size，或更小的 --formats。"),
        )
    chosen = [
        Choice(group, group.options[number], cost[number].harm)
        for group, number, cost in zip(groups, numbers, costs, strict=True)
    ]
    size = outside + sum(choice.option.size_bytes for choice in chosen)
    return Found(tuple(chosen), size, exact_weights(file))


def rivals(file: GgufFile, groups: Sequence[Group], harms: Harms) -> list[Rival]:
    """llama.cpp's mixtures for this model, by size; those that need an importance matrix are left out."""
    found = [_rival(file, groups, harms, mixture) for mixture in MIXTURES.values() if not mixture.needs_importance]
    return sorted(found, key=lambda rival: rival.size_bytes)


def _rival(file: GgufFile, groups: Sequence[Group], harms: Harms, mixture: Mixture) -> Rival:
    traits = traits_of_file(file)
    size, harm = matrices_outside(file, groups), 0.0
    is_known = True
    for group in groups:
        for kind, weights, matrix_bytes in _types(file, group, mixture, traits):
            size += matrix_bytes
            is_known &= (group.name, kind) in harms
            harm += harms.get((group.name, kind), 0.0) * weights / group.weights
    return Rival(mixture, size, harm if is_known else None)


def _types(file: GgufFile, group: Group, mixture: Mixture, traits: Traits) -> Iterator[tuple[GgmlType, int, int]]:
    """Type, weights and bytes of each matrix of a group in a mixture."""
    for name in group.tensors:
        rows, columns = rows_of(file.tensors[name]), file.tensors[name].shape[-1]
        kind = tensor_type(mixture, name, columns, traits)
        yield kind, rows * columns, rows * row_bytes(kind, columns)
