"""What can still be read of a GGUF file that is not whole, or that holds what bq does not know: a download that broke off,
a type of a newer llama.cpp.

bq.runtime.gguf_file refuses such a file, as it must before C code sees it. Here it is only shown: what stands before the
fault is kept, within the same bounds, and nothing after it is guessed.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_ARRAY,
    MAX_KEYS,
    MAX_STRING,
    MAX_TENSORS,
    GgufFile,
    read_gguf,
)

# Value types of GGUF (docs/gguf.md of ggml): struct format and name by number.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_WEIGHTS = 1 << 60


@dataclass(frozen=True)
class TensorLine:
    """A tensor as its file declares it, `shape` as [rows, columns]; the size is None for a type that nobody here knows."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size_bytes: int | None
    start: int

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Remains:
    """A file as far as it can be read. With a `fault`, `file` has no tensors: none of them may be looked into.

    `has_whole_header` tells whether a key or tensor that is not here is not in the file either.
    """

    file: GgufFile
    tensors: tuple[TensorLine, ...]
    fault: BqError | None = None
    has_whole_header: bool = True

    @property
    def expected_bytes(self) -> int:
        """Where the last tensor ends, be it beyond the file's end."""
        return max((one.start + (one.size_bytes or 0) for one in self.tensors), default=0)


def read_remains(path: Path) -> Remains:
    """The file, or what is left of it. Raises BqError for what is no GGUF file of a known version at all."""
    try:
        file = read_gguf(path)
    except BqError as fault:
        found = _remains(path)
        if found is None:
            raise
        file = GgufFile(path, found.metadata, {}, found.size, found.kinds)
        return Remains(file, tuple(found.tensors), fault, found.is_whole)
    lines = (TensorLine(one.name, one.kind.name, one.shape, one.size_bytes, one.start) for one in file.tensors.values())
    return Remains(file, tuple(lines))


def _remains(path: Path) -> "_Header | None":
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(data) if data[: len(MAGIC)] == MAGIC else None
    except (OSError, ValueError, struct.error):  # ValueError: an empty file cannot be mapped
        return None


class _Stop(Exception):
    """Here the file ends, or makes no sense any more."""


class _Header:
    """Metadata and directory up to the first fault. Raises struct.error or ValueError if not even the counts are there."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at = data, len(data), len(MAGIC)
        self.elements = self.characters = 0
        self.metadata: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        self.tensors: list[TensorLine] = []
        self.is_whole = False
        version, tensors, keys = self.unpack("IQQ")
        if version not in _VERSIONS:
            raise ValueError(version)
        try:
            self.read(min(keys, MAX_KEYS), min(tensors, MAX_TENSORS))
            self.is_whole = keys <= MAX_KEYS and tensors <= MAX_TENSORS
        except (_Stop, struct.error, OverflowError):
            return

    def read(self, keys: int, tensors: int) -> None:
        for _ in range(keys):
            key = self.string()
            self.kinds[key], self.metadata[key] = self.value(*self.unpack("I"))
        entries: list[tuple[str, int, tuple[int, ...], int]] = []
        try:
            entries.extend(self.entries(tensors))
        finally:
            self.tensors.extend(self.placed(entries))

    def unpack(self, code: str) -> tuple[Any, ...]:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise struct.error
        self.at += count
        return self.data[self.at - count : self.at]

    def string(self, errors: str = "replace") -> str:
        (length,) = self.unpack("Q")
        self.characters += length
        if self.characters > MAX_STRING:
            raise _Stop
        return self.take(length).decode("utf-8", errors)

    def value(self, kind: int) -> tuple[str, Any]:
        if kind == _STRING:
            return _NAMES[kind], self.string()
        if kind != _ARRAY:
            return self.name_of(kind), self.unpack(_SCALARS[kind])[0]
        element, count = self.unpack("IQ")
        self.elements += count
        if self.elements > MAX_ARRAY:
            raise _Stop
        if element == _STRING:
            return "[str]", [self.string("surrogateescape") for _ in range(count)]
        return f"[{self.name_of(element)}]", list(self.unpack(f"{count}{_SCALARS[element]}"))

    def name_of(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise _Stop
        return _NAMES[kind]

    def entries(self, count: int) -> Iterator[tuple[str, int, tuple[int, ...], int]]:
        for _ in range(count):
            name = self.string()
            (dims,) = self.unpack("I")
            if not 1 <= dims <= 4:
                raise _Stop
            shape = tuple(reversed(self.unpack(f"{dims}Q")))
            kind, offset = self.unpack("IQ")
            if not 0 < math.prod(shape) < _MOST_WEIGHTS:
                raise _Stop
            yield name, kind, shape, offset

    def placed(self, entries: list[tuple[str, int, tuple[int, ...], int]]) -> Iterator[TensorLine]:
        alignment = self.metadata.get("general.alignment")
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            alignment = DEFAULT_ALIGNMENT
        start = -(-self.at // alignment) * alignment
        for name, kind, shape, offset in entries:
            named, size = _type(kind, math.prod(shape))
            yield TensorLine(name, named, shape, size, start + offset)


def _type(number: int, weights: int) -> tuple[str, int | None]:
    """The name of a tensor type, of those too that bq does not run, and the bytes of so many weights."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        return f"type {number}", None
    block, size = GGML_QUANT_SIZES[kind]
    return kind.name, weights // block * size
