"""The groups of matrices that a search gives types to, and which types each may have.

Matrices of one kind in neighbouring blocks suffer alike, so they share a type: measuring each of a model's 226 matrices in each
format would take days. llama.cpp's own mixtures draw the same lines: by kind, and the first and last eighth of the blocks apart.
The experts of a block are one tensor, which a file gives one type however often each of them is used: what is measured is what
they do together, each as often as the text needs it. Their router is never quantized, and in no group.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType, block_size, row_bytes
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.language import say
from bq.runtime.tensor_parts import is_matrix, rows_of

T = GgmlType
# Every one has a kernel, so that measuring is not spent on quantizing; the others can be asked for.
FORMATS = (T.Q2_K, T.Q3_K, T.IQ4_XS, T.Q4_K, T.Q5_K, T.Q6_K, T.Q8_0)
# What stands in for a 256-wide type where rows do not divide, the nearest in size above it.
_NARROW = {
    **dict.fromkeys((T.Q2_K, T.Q3_K, T.IQ3_S, T.IQ3_XXS, T.IQ4_XS, T.Q4_K), T.IQ4_NL),
    **dict.fromkeys((T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ1_S, T.IQ1_M), T.IQ4_NL),
    T.Q5_K: T.Q5_0,
    T.Q6_K: T.Q8_0,
}
# Types that llama.cpp makes only with an importance matrix (tensor_requires_imatrix in llama-quant.cpp); ggml ends the process
# for some of them without one.
NEED_IMPORTANCE = frozenset((T.IQ3_XXS, T.IQ2_XXS, T.IQ2_XS, T.IQ2_S, T.IQ1_S, T.IQ1_M))


@dataclass(frozen=True)
class Option:
    """A type that a group may have; `size_bytes` of all its matrices."""

    kind: GgmlType
    size_bytes: int


@dataclass(frozen=True)
class Group:
    """Matrices that share a type: `name` as it is shown and kept with a measurement, such as "attn_v 0-3"."""

    name: str
    tensors: tuple[str, ...]
    weights: int
    options: tuple[Option, ...]  # from the smallest to the largest


def groups_of(
    file: GgufFile, formats: Sequence[GgmlType] = FORMATS, important: Container[str] = ()
) -> tuple[Group, ...]:
    """The groups of a checked file's matrices. Raises UsageError for formats of which none fits.

    `important` are the matrices that an importance matrix has an entry for; only they can have formats that need one.
    """
    blocks = file.shape_count("block_count")
    by_name: dict[str, list[TensorEntry]] = {}
    for entry in file.tensors.values():
        if is_matrix(entry):
            by_name.setdefault(_group_name(entry.name, blocks), []).append(entry)
    return tuple(_group(name, entries, formats, important) for name, entries in by_name.items())


def matrices_outside(file: GgufFile, groups: Iterable[Group]) -> int:
    """The bytes of a file of these groups that no choice changes: header, norms, routers, padding (an upper bound)."""
    grouped = {name for group in groups for name in group.tensors}
    start = min(entry.start for entry in file.tensors.values())
    others = sum(entry.size_bytes for entry in file.tensors.values() if entry.name not in grouped)
    return start + others + 32 * len(file.tensors)


def exact_weights(file: GgufFile) -> int:
    """The weights of the norms and routers, which are F32 in every file."""
    return sum(prod(entry.shape) for entry in file.tensors.values() if not is_matrix(entry))


def zones(blocks: int) -> tuple[range, ...]:
    """The first eighth of the blocks, the two halves between, the last eighth."""
    edge, middle = blocks // 8, blocks // 2
    return range(edge), range(edge, middle), range(middle, blocks - edge), range(blocks - edge, blocks)


def _group_name(tensor: str, blocks: int) -> str:
    if not tensor.startswith("blk."):
        return tensor.removesuffix(".weight")
    _, number, part, _ = tensor.split(".")
    zone = next(zone for zone in zones(blocks) if int(number) in zone)
    return f"{part} {zone.start}-{zone.stop - 1}"


def _group(name: str, entries: Sequence[TensorEntry], formats: Sequence[GgmlType], important: Container[str]) -> Group:
    columns = entries[0].shape[-1]
    rows = sum(rows_of(entry) for entry in entries)
    is_important = all(entry.name in important for entry in entries)
    usable = [kind for kind in formats if is_important or kind not in NEED_IMPORTANCE]
    kinds = dict.fromkeys(_fitting(usable, columns))
    if not kinds:
        raise UsageError(
            say(
                f"No format given fits rows of {columns} ({name}).", f"给出的格式都不适合宽 {columns} 的行（{name}）。"
            ),
            say("Add Q8_0 or F16 to --formats.", "请在 --formats 中加入 Q8_0 或 F16。"),
        )
    options = sorted((Option(kind, rows * row_bytes(kind, columns)) for kind in kinds), key=lambda one: one.size_bytes)
    return Group(name, tuple(entry.name for entry in entries), rows * columns, tuple(options))


def _fitting(formats: Iterable[GgmlType], columns: int) -> Iterator[GgmlType]:
    for kind in formats:
        found = kind if columns % block_size(kind)[0] == 0 else _NARROW.get(kind, T.F16)
        yield found if columns % block_size(found)[0] == 0 else T.F16
