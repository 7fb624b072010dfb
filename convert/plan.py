"""The plan of a conversion: every output tensor with its source rows, row order, fold, type, size and place in the
file, known before the first weight is read. It is a value: it can be printed, tested and compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from bq.convert.adapter.merge import Delta
from bq.convert.checkpoint import Checkpoint
from bq.convert.config import ModelConfig
from bq.convert.gptq import Source, unpacked
from bq.convert.importance import F32Array, Importance, refuse_strange
from bq.convert.layouts.choose import slots_of
from bq.convert.layouts.slot import HEAD, Slot
from bq.convert.mixture import Mixture
from bq.convert.model_config import QWEN2, QWEN3MOE
from bq.convert.tensor_check import check_names, checked
from bq.convert.tensor_types import traits_of
from bq.convert.type_choice import TypeChoice
from bq.convert.type_plan import TypePlan
from bq.runtime.ggml import GgmlType, block_size, row_bytes

ALIGNMENT = 32  # GGUF's default; every tensor starts at a multiple of it


@dataclass(frozen=True)
class Expert:
    """Where a further matrix of a stacked tensor comes from, and what adapters add to it."""

    source: Source
    delta: Delta | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    `shape` is [rows, columns], [columns] for a norm, or [experts, rows, columns]. Its rows are the source's from `first_row`
    on, in `row_order` if there is one (output row -> row counted from `first_row`), then those of `others`; `normalise`
    divides each by its L2 norm. `offset` counts from the start of the file's data section. `wanted` is the type it would
    have if its rows divided, `importance` what the errors of each column weigh, [columns] or [experts, columns].
    """

    name: str
    source: Source
    shape: tuple[int, ...]
    kind: GgmlType
    offset: int
    wanted: GgmlType
    importance: F32Array | None = field(default=None, compare=False, repr=False)
    first_row: int = 0
    head_width: int | None = None  # rotate the rows of each head of this many rows into llama.cpp's order
    normalise: bool = False
    # What adapters add, before the rows are divided by their norms.
    delta: Delta | None = field(default=None, repr=False)
    others: tuple[Expert, ...] = field(default=(), repr=False)  # the experts after the first
    is_matrix: bool = False  # whether it gets the mixture's types; a router is none

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def column_shape(self) -> tuple[int, ...]:
        """[columns], or [experts, columns] where each expert has columns of its own."""
        return *self.shape[:-2], self.shape[-1]

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def weights(self) -> int:
        return self.rows * self.columns

    @property
    def size_bytes(self) -> int:
        return self.rows * row_bytes(self.kind, self.columns)

    @property
    def deltas(self) -> list[Delta]:
        """What adapters add to any of its sources."""
        every = (self.delta, *(one.delta for one in self.others))
        return [one for one in every if one is not None]

    def parts(self, start: int, stop: int) -> Iterator[tuple["PlannedTensor", int, int]]:
        """Rows [start, stop) as those of tensors of one source each, with their own rows' numbers."""
        if not self.others:
            yield self, start, stop
            return
        height = self.shape[1]
        for number in range(start // height, -(-stop // height)):
            first = number * height
            yield self._expert(number), max(start - first, 0), min(stop - first, height)

    def _expert(self, number: int) -> "PlannedTensor":
        one = self.others[number - 1] if number else Expert(self.source, self.delta)
        importance = None if self.importance is None else self.importance[number]
        return replace(self, source=one.source, delta=one.delta, others=(), shape=self.shape[1:], importance=importance)

    def will_need(self, start: int, stop: int) -> None:
        """Have these rows read ahead."""
        for one, first, after in self.parts(start, stop):
            one.source.will_need(one.first_row + first, after - first)


@dataclass(frozen=True)
class Plan:
    """All tensors in the order of the file."""

    tensors: tuple[PlannedTensor, ...]

    @property
    def data_bytes(self) -> int:
        """Size of the data section, padding included."""
        last = self.tensors[-1]
        return last.offset + _padded(last.size_bytes)

    @property
    def matrices(self) -> list[str]:
        """The names of those that are quantized."""
        return [tensor.name for tensor in self.tensors if tensor.is_matrix]

    @cached_property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(tensor.size_bytes for tensor in self.tensors) / self.weights


def make_plan(
    checkpoint: Checkpoint,
    config: ModelConfig,
    mixture: Mixture,
    fold_norm_head: bool,
    type_plan: TypePlan | None = None,
    importance: Importance | None = None,
) -> Plan:
    """Match the checkpoint's tensors with the model's. Raises BqError for one missing, too many, or of another shape; for a
    type that needs an importance matrix and has none; for one that does not fit.
    """
    choice = TypeChoice(mixture, traits_of(config), type_plan, importance)
    sources = weights_of(checkpoint, config)
    slots = slots_of(config, sources, fold_norm_head)
    check_names(checkpoint, set(sources), {source for slot in slots for source in slot.sources})
    tensors = []
    offset = 0
    for slot in slots:
        tensors.append(_planned(checkpoint, sources, choice, slot, offset))
        offset += _padded(tensors[-1].size_bytes)
    plan = Plan(tuple(tensors))
    if type_plan:
        type_plan.refuse_idle(plan.matrices)
    refuse_strange(importance, plan.matrices)
    return plan


def weights_of(checkpoint: Checkpoint, config: ModelConfig) -> Mapping[str, Source]:
    """The tensors that a model is made of: those of a GPTQ release unpacked, without an output that is the embedding."""
    found: dict[str, Source] = {**checkpoint.tensors}
    if config.gptq is not None:
        found = unpacked(checkpoint.tensors, config.gptq)
    if config.is_tied and config.architecture in (QWEN2, QWEN3MOE):
        found.pop(HEAD, None)  # some programs save it a second time
    return found


def _planned(
    checkpoint: Checkpoint, sources: Mapping[str, Source], choice: TypeChoice, slot: Slot, offset: int
) -> PlannedTensor:
    first, *others = (
        Expert(checked(sources[name], slot), checkpoint.adapted.deltas.get(name)) for name in slot.sources
    )
    shape = slot.shape
    is_matrix = len(shape) > 1 and not slot.is_exact
    wanted = kind = GgmlType.F32
    importance = None
    if is_matrix:
        wanted, kind = choice.types(slot.name, shape[-1])
        importance = choice.column_weights(slot.name, (*shape[:-2], shape[-1]), kind)
    return PlannedTensor(
        name=slot.name,
        source=first.source,
        shape=shape,
        kind=kind,
        offset=offset,
        wanted=wanted,
        importance=importance,
        first_row=slot.first_row,
        head_width=slot.head_width,
        normalise=slot.normalise,
        delta=first.delta,
        others=tuple(others),
        is_matrix=is_matrix,
    )


@dataclass(frozen=True)
class Fallback:
    """Matrices whose rows do not divide into the blocks of the type they were to have."""

    part: str  # the name after the block's number, such as ffn_down
    columns: int
    wanted: GgmlType
    given: GgmlType
    tensors: int
    more_bytes: int  # than the wanted type would take


def fallbacks(plan: Plan) -> list[Fallback]:
    """What the plan stores in other types than it should, grouped."""
    groups: dict[tuple[str, int, GgmlType, GgmlType], list[int]] = {}
    for tensor in plan.tensors:
        if tensor.wanted != tensor.kind:
            width, size = block_size(tensor.wanted)
            more = tensor.size_bytes - tensor.weights * size // width
            key = (tensor.name.removesuffix(".weight").split(".")[-1], tensor.columns, tensor.wanted, tensor.kind)
            groups.setdefault(key, []).append(more)
    return [Fallback(*key, len(more), sum(more)) for key, more in groups.items()]


def row_order(tensor: PlannedTensor, start: int, stop: int) -> npt.NDArray[np.intp] | slice:
    """The source rows of output rows [start, stop).

    Where heads are rotated into llama.cpp's order (layouts/baichuan.py says why), output row 2j + k of a head is source row
    k * width/2 + j (llama.cpp's converter, _reverse_hf_permute).
    """
    width = tensor.head_width
    if width is None:
        return slice(tensor.first_row + start, tensor.first_row + stop)
    row = np.arange(start, stop)
    head, inner = row // width, row % width
    return tensor.first_row + head * width + (inner % 2) * (width // 2) + inner // 2


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
