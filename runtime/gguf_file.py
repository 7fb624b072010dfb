"""Reads a GGUF file's header in Python, with every claim checked, before C code sees the file.

llama.cpp ends the process on a bad file; this reader raises one clear error instead. It reads metadata and the
directory of tensors (GGUF version 2 and 3, docs/gguf.md of ggml), never the weights.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.language import say

MAGIC = b"GGUF"
# MAX_ARRAY holds for all arrays of a file together: as Python objects their elements take many times their bytes.
MAX_KEYS, MAX_TENSORS, MAX_ARRAY, MAX_STRING, MAX_NAME = 4096, 65536, 1 << 24, 1 << 26, 64
DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY, _BOOL = 8, 9, 7
# GGUF value types by number: struct format and size.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


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
    """A checked GGUF file: metadata by key, tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorEntry]
    size_bytes: int

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

    @cached_property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The whole file, mapped."""
        with self.path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


class _Bad(Exception):
    """A claim of the file does not hold; the text says which."""


def read_gguf(path: Path) -> GgufFile:
    """Read and check the header of `path`. Raises BqError naming what is wrong."""
    try:
        size = path.stat().st_size  # before it is opened: a named pipe would wait there for a writer
        if size < 24:
            raise _Bad(say(f"it has only {size} bytes", f"只有 {size} 字节"))
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                return _Reader(mapped, size).read(path)
            finally:
                mapped.close()
    except FileNotFoundError:
        raise BqError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say(
                "Give the path of a GGUF file; `bq convert` makes one.",
                "请给出 GGUF 文件的路径；可用 `bq convert` 生成。",
            ),
        ) from None
    except OSError as error:
        raise BqError(say(f"{path} cannot be read: {error}.", f"无法读取 {path}：{error}。")) from None
    except (_Bad, struct.error, ValueError, OverflowError) as error:
        raise BqError(
            say(f"{path.name} is no whole GGUF file: {error}.", f"{path.name} 不是完整的 GGUF 文件：{error}。"),
            say(
                "Convert it again with `bq convert`, or download it again.", "请用 `bq convert` 重新转换，或重新下载。"
            ),
        ) from None


class _Reader:
    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.at = 0
        self.elements = 0

    def read(self, path: Path) -> GgufFile:
        if self.take(4) != MAGIC:
            raise _Bad(say("it does not begin with GGUF", "开头不是 GGUF"))
        version = self.scalar("I")
        if version not in (2, 3):
            raise _Bad(say(f"its version is {version}, known are 2 and 3", f"版本为 {version}，只支持 2 和 3"))
        tensor_count, key_count = self.scalar("Q"), self.scalar("Q")
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            raise _Bad(
                say(
                    f"it claims {tensor_count} tensors and {key_count} keys",
                    f"声称有 {tensor_count} 个张量和 {key_count} 个键",
                )
            )
        metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self.string()
            if key in metadata:
                raise _Bad(say(f"the key {key} stands twice", f"键 {key} 重复"))
            metadata[key] = self.value(self.scalar("I"))
        entries = [self.entry() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            raise _Bad(say(f"its alignment is {alignment}", f"对齐值为 {alignment}"))
        data_start = -(-self.at // alignment) * alignment
        return GgufFile(path, metadata, self.placed(entries, data_start, alignment), self.size)

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise _Bad(
                say(
                    f"it ends at byte {self.size:,} in the middle of its header",
                    f"文件在第 {self.size:,} 字节处中断，文件头不完整",
                )
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        length = self.scalar("Q")
        if length > MAX_STRING:
            raise _Bad(say(f"it claims a string of {length:,} bytes", f"声称有 {length:,} 字节的字符串"))
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise _Bad(say(f"it holds the unknown value type {kind}", f"含有未知的值类型 {kind}"))
        return bool(self.scalar("B")) if kind == _BOOL else self.scalar(_SCALARS[kind])

    def array(self) -> Any:
        kind, count = self.scalar("I"), self.scalar("Q")
        self.elements += count
        if self.elements > MAX_ARRAY:
            raise _Bad(say(f"it claims an array of {count:,}", f"声称有 {count:,} 个元素的数组"))
        if kind == _STRING:
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise _Bad(say(f"it holds an array of type {kind}", f"含有类型为 {kind} 的数组"))
        code = "B" if kind == _BOOL else _SCALARS[kind]
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def entry(self) -> tuple[str, GgmlType, tuple[int, ...], int]:
        name = self.string()
        dims = self.scalar("I")
        if len(name) >= MAX_NAME or not 1 <= dims <= 4:
            raise _Bad(say(f"the tensor {name[:80]!r} has {dims} dimensions", f"张量 {name[:80]!r} 有 {dims} 维"))
        sizes = [self.scalar("Q") for _ in range(dims)]
        kind, offset = self.scalar("I"), self.scalar("Q")
        if kind not in GgmlType.__members__.values():
            raise _Bad(say(f"{name} has type {kind}, which bq does not know", f"{name} 的类型 {kind} 不被支持"))
        if any(not 0 < n < 1 << 40 for n in sizes) or math.prod(sizes) >= 1 << 60:
            raise _Bad(say(f"{name} has the shape {sizes}", f"{name} 的形状为 {sizes}"))
        return name, GgmlType(kind), tuple(reversed(sizes)), offset

    def placed(
        self, entries: list[tuple[str, GgmlType, tuple[int, ...], int]], data_start: int, alignment: int
    ) -> dict[str, TensorEntry]:
        """Entries with their bytes, each inside the file, aligned, and none over another."""
        tensors: dict[str, TensorEntry] = {}
        end = 0
        for name, kind, shape, offset in sorted(entries, key=lambda entry: entry[3]):
            weights, block_bytes = block_size(kind)
            size = math.prod(shape) // weights * block_bytes
            if name in tensors or shape[-1] % weights:
                raise _Bad(say(f"{name} stands twice or has broken rows", f"{name} 重复或行宽不合"))
            if offset < end or offset % alignment or data_start + offset + size > self.size:
                raise _Bad(
                    say(
                        f"{name} should lie at bytes {data_start + offset:,} to {data_start + offset + size:,} of "
                        f"{self.size:,}",
                        f"{name} 应位于第 {data_start + offset:,} 至 {data_start + offset + size:,} 字节，"
                        f"而文件只有 {self.size:,} 字节",
                    )
                )
            tensors[name] = TensorEntry(name, kind, shape, data_start + offset, size)
            end = offset + size
        return tensors
