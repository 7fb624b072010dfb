"""A GGUF file whose header holds what it claims: metadata by key, and each tensor with the place of its bytes, never the weights.

What a Baichuan model needs of them is the business of bq.runtime.structure. Who only wants to look at a file, not to run it,
takes `read_header` of bq.runtime.gguf_header.
"""

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.gguf_header import SHOWN, BadClaim, Claim, Header, not_whole, read_header
from bq.runtime.language import say


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the file declares it; `shape` is [rows, columns] (numpy's order), `start` a byte of the file."""

    name: str
    kind: GgmlType
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """A checked GGUF file: metadata by key, tensors by name.

    `kinds` has the type of each value as llama.cpp calls it, "u32" or "str", and "[f32]" for an array of them. Strings in
    arrays keep bytes that are no UTF-8 as surrogates: two pieces that differ stay different. `places` has the first byte of
    each key and the one after its value, for copying them as they are.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorEntry]
    size_bytes: int
    kinds: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def text(self, key: str, default: str = "") -> str:
        """A string value, or `default` if it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else default

    def number(self, key: str, default: float) -> float:
        """A finite number, or `default` if it is missing or of another type."""
        value = self.metadata.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return default
        return value if math.isfinite(value) else default

    def count(self, key: str, default: int = 0) -> int:
        """A whole number, or `default` if it is missing or of another type."""
        return int(self.number(key, default))

    def flag(self, key: str, default: bool) -> bool:
        """A boolean value, or `default` if it is missing or of another type."""
        value = self.metadata.get(key)
        return value if isinstance(value, bool) else default

    @property
    def architecture(self) -> str:
        """What the file says it is, by which llama.cpp chooses the graph: "baichuan", "qwen2"."""
        return self.text("general.architecture")

    def shape_count(self, name: str, default: int = 0) -> int:
        """A whole number of the model's shape, "block_count", whose key begins with the architecture."""
        return self.count(f"{self.architecture}.{name}", default)

    def shape_number(self, name: str, default: float) -> float:
        """The same for any finite number."""
        return self.number(f"{self.architecture}.{name}", default)

    @cached_property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The whole file, mapped."""
        with self.path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of `path`. Raises BqError naming what is wrong."""
    header = read_header(path)
    if header.fault is not None:
        raise header.fault
    return place_tensors(header)


def place_tensors(header: Header) -> GgufFile:
    """The file of a header without fault, its tensors checked. Raises BqError naming the first that cannot be there."""
    try:
        tensors = _placed(header)
    except BadClaim as error:
        raise not_whole(header.path, error) from None
    return GgufFile(header.path, header.metadata, tensors, header.size_bytes, header.kinds, header.places)


def _placed(header: Header) -> dict[str, TensorEntry]:
    """Tensors with their bytes: one behind the other in the order of the directory, as llama.cpp wants them."""
    alignment, data_start = header.alignment, header.data_start
    if alignment is None or data_start is None:
        shown = repr(header.metadata["general.alignment"])[:SHOWN]
        raise BadClaim(say(f"its alignment is {shown}", f"对齐值为 {shown}"))
    tensors: dict[str, TensorEntry] = {}
    expected = 0
    for claim in header.claims:
        entry = _entry(claim, data_start)
        if claim.name in tensors:
            raise BadClaim(say(f"{claim.name} stands twice", f"{claim.name} 重复"))
        if claim.offset != expected:
            start, end = f"{entry.start:,}", f"{data_start + expected:,}"
            raise BadClaim(
                say(
                    f"{claim.name} lies at byte {start}, and the tensor before it ends at {end}",
                    f"{claim.name} 位于第 {start} 字节，而前一个张量结束于第 {end} 字节",
                )
            )
        end_byte = entry.start + entry.size_bytes
        if end_byte > header.size_bytes:
            raise BadClaim(
                say(
                    f"{claim.name} should lie at bytes {entry.start:,} to {end_byte:,} of {header.size_bytes:,}",
                    f"{claim.name} 应位于第 {entry.start:,} 至 {end_byte:,} 字节，而文件只有 {header.size_bytes:,} 字节",
                )
            )
        tensors[claim.name] = entry
        expected = -(-(claim.offset + entry.size_bytes) // alignment) * alignment
    return tensors


def _entry(claim: Claim, data_start: int) -> TensorEntry:
    name, kind = claim.name, claim.kind
    if kind not in GgmlType.__members__.values():
        raise BadClaim(say(f"{name} has type {kind}, which bq does not know", f"{name} 的类型 {kind} 不被支持"))
    weights, block_bytes = block_size(GgmlType(kind))
    if claim.shape[-1] % weights:
        raise BadClaim(
            say(
                f"{name} has rows of {claim.shape[-1]:,} weights, no whole blocks of {GgmlType(kind).name}",
                f"{name} 每行 {claim.shape[-1]:,} 个权重，不是 {GgmlType(kind).name} 的整数块",
            )
        )
    size = math.prod(claim.shape) // weights * block_bytes
    return TensorEntry(name, GgmlType(kind), claim.shape, data_start + claim.offset, size)
