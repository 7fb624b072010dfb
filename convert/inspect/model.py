"""What a GGUF file of a model holds, for looking at: who it is, where it came from, its shape, vocabulary, tensors and faults.

Only the header is read, and some rows of output.weight where the file is whole. A file of another architecture, or one that
broke off, shows what it has.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert.inspect.gguf_remains import Remains, TensorLine, read_remains
from bq.convert.inspect.vocabulary import VocabularyReport, vocabulary_of_file
from bq.convert.model_config import POSITIONS
from bq.convert.named_release import name_file
from bq.runtime.adapters import merged_adapters
from bq.runtime.errors import BqError
from bq.runtime.evaluation.figures import Figures, read_figures
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file, file_warnings, generation_of
from bq.runtime.language import say
from bq.runtime.releases import KV_BYTES_PER_ELEMENT, Release, find_release
from bq.runtime.structure import ARCHITECTURE, ARCHITECTURES, check_structure
from bq.runtime.structure_shape import expert_width

UNKNOWN_MIXTURE = "?"  # as bq.runtime.known has it
DEFAULT_ROPE_BASE = 10000.0  # llama.cpp's where the file gives none
# Where a file says it comes from; the first part of the names alone.
_ORIGIN = re.compile(
    r"general\.(author|organization|quantized_by|description|url|repo_url|doi|uuid|source\..+|base_model\..+|license\.link|version)"
    r"|quantize\.imatrix\..+|bq\..+"
)
_SHOWN_ELSEWHERE = re.compile(
    r"bq\.(version|quantizer|effort|norm_head(\.reason.*)?|generation|variant(\.reason.*)?|mixture|adapters|role\..+|tokenizer\..+|max_new_tokens)"
)
_BLOCK_PART = re.compile(r"blk\.\d+\.(.+)")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the model, 0 where they are not given. `position` is "rope", "alibi", "none", or "" where it cannot be told."""

    hidden: int
    blocks: int
    heads: int  # the most of a block, as kv_heads
    head_width: int
    kv_heads: int
    ffn: int
    context: int
    position: str
    rope_base: float | None
    experts: int = 0  # `ffn` is the width of one then
    experts_used: int = 0  # by each token

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of every block in f16."""
        return 2 * self.blocks * self.kv_heads * self.head_width * KV_BYTES_PER_ELEMENT


@dataclass(frozen=True)
class Origin:
    """Who made the file. All are empty but `details`, further keys that say where it comes from, if it was not bq."""

    bq_version: str
    quantizer: str
    effort: str
    norm_head: str
    norm_head_reason: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Entry:
    """One key of the metadata with its type as llama.cpp names it, and its value."""

    key: str
    type: str
    value: Any


@dataclass(frozen=True)
class Group:
    """Tensors that have something in common; `share` is of all bytes."""

    name: str
    types: tuple[str, ...]
    tensors: int
    weights: int
    size_bytes: int
    share: float


@dataclass(frozen=True)
class ModelReport:
    """A file of a model. `problems` are why bq cannot run it, `warnings` what is known to be wrong with it.

    Where the header is not whole, what is missing here may have stood behind the fault.
    """

    path: Path
    size_bytes: int
    architecture: str
    name: str
    generation: int | None
    variant: str
    variant_reason: str
    release: str | None
    licence: str
    mixture: str
    adapters: tuple[str, ...]  # that were merged into it
    origin: Origin
    shape: ModelShape
    vocabulary: VocabularyReport | None
    metadata: tuple[Entry, ...]
    tensors: tuple[TensorLine, ...]
    figures: tuple[Figures, ...]
    warnings: tuple[str, ...]
    problems: tuple[BqError, ...]
    has_whole_header: bool

    @property
    def weights(self) -> int:
        return sum(one.weights for one in self.tensors)

    @property
    def bits_per_weight(self) -> float | None:
        """Over the tensors whose size is known."""
        known = [one for one in self.tensors if one.size_bytes is not None]
        weights = sum(one.weights for one in known)
        return 8 * sum(one.size_bytes or 0 for one in known) / weights if weights else None

    def by_type(self) -> tuple[Group, ...]:
        """The tensors of each type, the largest share first."""
        return _groups((one.kind, one) for one in self.tensors)

    def by_part(self) -> tuple[Group, ...]:
        """The tensors of each kind of matrix (attn_q, ffn_down), the largest share first."""
        return _groups((part_of(one.name), one) for one in self.tensors)


def part_of(name: str) -> str:
    """The kind of matrix: the name without the number of the block."""
    inner = _BLOCK_PART.fullmatch(name)
    return (inner[1] if inner else name).removesuffix(".weight")


def inspect_model(path: Path) -> ModelReport:
    """Look at a GGUF file. Raises BqError for what is none at all."""
    return describe_model(read_remains(path))


def describe_model(remains: Remains) -> ModelReport:
    """The report of a file that was read already."""
    file = remains.file
    architecture = file.text("general.architecture")
    is_ours = architecture in ARCHITECTURES
    known, generation = describe_file(file), generation_of(file) if architecture == ARCHITECTURE else None
    shape = _shape(file, architecture)
    named = name_file(file, generation) if generation else None
    release = named.release if named else _release(file, shape) if is_ours else None
    return ModelReport(
        path=file.path,
        size_bytes=file.size_bytes,
        architecture=architecture,
        name=known.name,
        generation=generation,
        variant=known.variant if is_ours else "",
        variant_reason=_reason(file, "bq.variant.reason"),
        release=release.name if release else None,
        licence=file.text("general.license.name")
        or file.text("general.license")
        or (release.licence if release else ""),
        mixture="" if known.mixture == UNKNOWN_MIXTURE else known.mixture,
        adapters=merged_adapters(file),
        origin=_origin(file),
        shape=shape,
        vocabulary=vocabulary_of_file(file),
        metadata=tuple(Entry(key, file.kinds[key], value) for key, value in file.metadata.items()),
        tensors=remains.tensors,
        figures=read_figures(file.path),
        warnings=file_warnings(file) if is_ours and remains.has_whole_header else (),
        problems=tuple(_problems(remains)),
        has_whole_header=remains.has_whole_header,
    )


def _release(file: GgufFile, shape: ModelShape) -> Release | None:
    """The release that a Baichuan-M2 or M3 calls itself, if it has its shape."""
    found = find_release(file.text("general.name"))
    layout = found.layout if found else None
    return found if layout and (layout.hidden, layout.blocks) == (shape.hidden, shape.blocks) else None


def _problems(remains: Remains) -> Iterator[BqError]:
    file = remains.file
    if remains.fault is None and not file.tensors:
        yield BqError(say(f"{file.path.name} holds no weights.", f"{file.path.name} 中没有权重。"))
    elif remains.fault is None:
        try:
            check_structure(file)
        except BqError as error:
            yield error
    if remains.fault is None:
        return
    yield remains.fault
    there, expected = file.size_bytes, remains.expected_bytes
    if there < expected:
        yield BqError(
            say(
                f"{there / expected:.0%} of it is there: {there:,} of {expected:,} bytes.",
                f"只有其中的 {there / expected:.0%}：{there:,} / {expected:,} 字节。",
            )
        )


def _shape(file: GgufFile, architecture: str) -> ModelShape:
    def count(key: str, default: int = 0) -> int:
        name = f"{architecture}.{key}"
        each = file.metadata.get(name)
        if isinstance(each, list):  # of each block, as a Baichuan-M1 has it
            return max((one for one in each if isinstance(one, int) and not isinstance(one, bool)), default=0)
        return max(0, file.count(name, default))

    hidden, blocks, heads = count("embedding_length"), count("block_count"), count("attention.head_count")
    position = _position(file, architecture, blocks)
    base = file.number(f"{architecture}.rope.freq_base", DEFAULT_ROPE_BASE) if position == "rope" else None
    return ModelShape(
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        head_width=count("attention.key_length", hidden // heads if heads else 0),
        kv_heads=count("attention.head_count_kv", heads),
        ffn=expert_width(file) if count("expert_count") else count("feed_forward_length"),
        context=count("context_length"),
        position=position,
        rope_base=base,
        experts=count("expert_count"),
        experts_used=count("expert_used_count"),
    )


def _position(file: GgufFile, architecture: str, blocks: int) -> str:
    if architecture == ARCHITECTURE:
        return POSITIONS.get(blocks, "none")
    keys = (f"{architecture}.rope.dimension_count", f"{architecture}.rope.freq_base")
    return "rope" if any(key in file.metadata for key in keys) else ""


def _origin(file: GgufFile) -> Origin:
    details = (
        (key, str(value))
        for key, value in file.metadata.items()
        if _ORIGIN.fullmatch(key) and not _SHOWN_ELSEWHERE.fullmatch(key) and not isinstance(value, list)
    )
    return Origin(
        file.text("bq.version"),
        file.text("bq.quantizer"),
        file.text("bq.effort", "normal" if file.text("bq.version") else ""),
        file.text("bq.norm_head"),
        _reason(file, "bq.norm_head.reason"),
        tuple(details),
    )


def _reason(file: GgufFile, key: str) -> str:
    """As it was recorded, in the language in use if the file has it in that."""
    return say(file.text(key), file.text(f"{key}.zh") or file.text(key))


def _groups(named: Iterable[tuple[str, TensorLine]]) -> tuple[Group, ...]:
    members: dict[str, list[TensorLine]] = {}
    for name, tensor in named:
        members.setdefault(name, []).append(tensor)
    sizes = {name: sum(one.size_bytes or 0 for one in found) for name, found in members.items()}
    total = max(1, sum(sizes.values()))
    groups = (
        Group(
            name,
            tuple(dict.fromkeys(one.kind for one in found)),
            len(found),
            sum(one.weights for one in found),
            sizes[name],
            sizes[name] / total,
        )
        for name, found in members.items()
    )
    return tuple(sorted(groups, key=lambda group: -group.size_bytes))
