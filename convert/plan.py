"""The plan of a conversion: every output tensor with its source rows, row order, fold, type, size and place in the
file, known before the first weight is read. It is a value: it can be printed, tested and compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import ModelConfig
from bq.convert.importance import F32Array, Importance, refuse_strange
from bq.convert.mixture import Mixture
from bq.convert.source import SourceTensor
from bq.convert.type_choice import TypeChoice
from bq.convert.type_plan import TypePlan
from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType, block_size, row_bytes
from bq.runtime.language import say

# What bitsandbytes, Baichuan's own int8 and GPTQ or AWQ call the parts of a quantized matrix.
_REPACKED = (".weight.data", ".quant_state", ".absmax", ".SCB", ".weight_scale", ".qweight")
ALIGNMENT = 32  # GGUF's default; every tensor starts at a multiple of it


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the output.

    `shape` is [rows, columns], or [columns] for a norm. Its rows are the source's from `first_row` on, in `row_order` if
    there is one (output row -> row counted from `first_row`); `normalise` divides each by its L2 norm. `offset` counts
    from the start of the file's data section. `wanted` is the type it would have if its rows divided, `importance` what the
    errors of each column weigh.
    """

    name: str
    source: SourceTensor
    shape: tuple[int, ...]
    kind: GgmlType
    offset: int
    wanted: GgmlType
    importance: F32Array | None = field(default=None, compare=False, repr=False)
    first_row: int = 0
    head_width: int | None = None  # rotate the rows of each head of this many rows into llama.cpp's order
    normalise: bool = False

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def weights(self) -> int:
        return self.rows * self.columns

    @property
    def size_bytes(self) -> int:
        return self.rows * row_bytes(self.kind, self.columns)


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
        return [tensor.name for tensor in self.tensors if len(tensor.shape) == 2]

    @cached_property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(tensor.size_bytes for tensor in self.tensors) / self.weights


@dataclass(frozen=True)
class _Slot:
    """Where one output tensor comes from; `expected` is the whole source tensor's shape."""

    name: str
    source: str
    expected: tuple[int, ...]
    first_row: int = 0
    rows: int | None = None
    rotate: bool = False
    normalise: bool = False


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
    choice = TypeChoice(mixture, type_plan, importance)
    slots = list(_slots(checkpoint, config, fold_norm_head))
    _check_names(checkpoint, {slot.source for slot in slots})
    tensors = []
    offset = 0
    for slot in slots:
        tensors.append(_planned(checkpoint, config, choice, slot, offset))
        offset += _padded(tensors[-1].size_bytes)
    plan = Plan(tuple(tensors))
    if type_plan:
        type_plan.refuse_idle(plan.matrices)
    refuse_strange(importance, plan.matrices)
    return plan


def _planned(
    checkpoint: Checkpoint, config: ModelConfig, choice: TypeChoice, slot: _Slot, offset: int
) -> PlannedTensor:
    source = _checked(checkpoint.tensors[slot.source], slot)
    shape = source.shape if slot.rows is None else (slot.rows, *source.shape[1:])
    wanted = kind = GgmlType.F32
    importance = None
    if len(shape) == 2:
        wanted, kind = choice.types(slot.name, shape[-1], config.blocks)
        importance = choice.column_weights(slot.name, shape[-1], kind)
    return PlannedTensor(
        slot.name,
        source,
        shape,
        kind,
        offset,
        wanted,
        importance,
        slot.first_row,
        config.head_width if slot.rotate else None,
        slot.normalise,
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

    The releases rotate (RoPE) element i of a head with i + width/2, llama.cpp's Baichuan graph with its neighbour: output
    row 2j + k of a head is source row k * width/2 + j (llama.cpp's converter, _reverse_hf_permute). It reorders the 13B
    likewise, where ALiBi makes the order of a head's rows immaterial, and so do we, for tools that expect its layout.
    """
    width = tensor.head_width
    if width is None:
        return slice(tensor.first_row + start, tensor.first_row + stop)
    row = np.arange(start, stop)
    head, inner = row // width, row % width
    return tensor.first_row + head * width + (inner % 2) * (width // 2) + inner // 2


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _slots(checkpoint: Checkpoint, config: ModelConfig, fold: bool) -> Iterator[_Slot]:
    """Every output tensor in llama.cpp's order: those outside the blocks, then by block and name."""
    hidden, vocab, ffn = config.hidden, config.vocab, config.ffn
    head = "lm_head.weight"
    if head not in checkpoint.tensors and checkpoint.config.get("tie_word_embeddings") is True:
        head = "model.embed_tokens.weight"
    yield _Slot("output.weight", head, (vocab, hidden), normalise=fold)
    yield _Slot("output_norm.weight", "model.norm.weight", (hidden,))
    yield _Slot("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden))
    for block in range(config.blocks):
        ours, theirs = f"blk.{block}.", f"model.layers.{block}."
        q, k, v = _attention(checkpoint, theirs + "self_attn.", hidden)
        yield _Slot(ours + "attn_k.weight", *k, rotate=True)
        yield _Slot(ours + "attn_norm.weight", theirs + "input_layernorm.weight", (hidden,))
        yield _Slot(ours + "attn_output.weight", theirs + "self_attn.o_proj.weight", (hidden, hidden))
        yield _Slot(ours + "attn_q.weight", *q, rotate=True)
        yield _Slot(ours + "attn_v.weight", *v)
        yield _Slot(ours + "ffn_down.weight", theirs + "mlp.down_proj.weight", (hidden, ffn))
        yield _Slot(ours + "ffn_gate.weight", theirs + "mlp.gate_proj.weight", (ffn, hidden))
        yield _Slot(ours + "ffn_norm.weight", theirs + "post_attention_layernorm.weight", (hidden,))
        yield _Slot(ours + "ffn_up.weight", theirs + "mlp.up_proj.weight", (ffn, hidden))


_Part = tuple[str, tuple[int, ...], int, int | None]


def _attention(checkpoint: Checkpoint, prefix: str, hidden: int) -> tuple[_Part, _Part, _Part]:
    """Source, shape, first row and rows of q, k and v: thirds of W_pack, or tensors of their own (Llama layout)."""
    packed = prefix + "W_pack.weight"
    parts: list[_Part]
    if packed in checkpoint.tensors or prefix + "q_proj.weight" not in checkpoint.tensors:
        parts = [(packed, (3 * hidden, hidden), third * hidden, hidden) for third in range(3)]
    else:
        parts = [(f"{prefix}{name}_proj.weight", (hidden, hidden), 0, None) for name in "qkv"]
    return parts[0], parts[1], parts[2]


def _check_names(checkpoint: Checkpoint, wanted: set[str]) -> None:
    found = set(checkpoint.tensors)
    if repacked := sorted(name for name in found if name.endswith(_REPACKED)):
        raise BqError(
            say(
                f"This is a 4-bit or int8 repack: it holds {repacked[0]}.",
                f"这是 4 位或 int8 量化的重打包版本：含有 {repacked[0]}。",
            ),
            say("Use the bf16 release.", "请使用 bf16 的原版发布。"),
        )
    for names, en, zh in (
        (wanted - found, "{} tensors are missing, the first is {}.", "缺少 {} 个张量，第一个是 {}。"),
        (
            found - wanted,
            "{} tensors are too many for this config, the first is {}.",
            "比 config 多出 {} 个张量，第一个是 {}。",
        ),
    ):
        if names:
            raise BqError(
                say(en, zh).format(len(names), min(names)),
                say(
                    f"Expected {len(wanted)} and found {len(found)} in {len(checkpoint.files)} file(s); take weights and "
                    "config.json from the same release, and download missing shards.",
                    f"应有 {len(wanted)} 个，在 {len(checkpoint.files)} 个文件中找到 {len(found)} 个；请使用同一发布中的权重与 "
                    "config.json，并下载缺失的分片。",
                ),
            )


def _checked(source: SourceTensor, slot: _Slot) -> SourceTensor:
    if source.shape != slot.expected:
        raise BqError(
            say(
                f"{source.name} in {source.file.path.name} has the shape {list(source.shape)}, by config.json it should be "
                f"{list(slot.expected)}.",
                f"{source.file.path.name} 中 {source.name} 的形状为 {list(source.shape)}，按 config.json 应为 {list(slot.expected)}。",
            ),
            say("Take weights and config.json from the same release.", "请使用同一发布中的权重与 config.json。"),
        )
    if not source.is_float:
        raise BqError(
            say(
                f"{source.name} in {source.file.path.name} is {source.dtype}, expected bf16, f16 or f32: a quantized repack.",
                f"{source.file.path.name} 中 {source.name} 为 {source.dtype}，应为 bf16、f16 或 f32：这是量化后的重打包版本。",
            ),
            say("Use the bf16 release.", "请使用 bf16 的原版发布。"),
        )
    return source
