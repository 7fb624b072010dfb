"""GGUF files taken apart and put together again, sound or not: every field of the format can be set to any bytes.

Taking apart is gguf-py's work, putting together ours, for gguf-py refuses to write what is wrong. Source of the layout:
docs/gguf.md of ggml.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import GGUFReader

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def text(value: str | bytes) -> bytes:
    """A string as the format has it."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def encoded(kind: int, value: Any) -> bytes:
    """A value of a scalar type or a string."""
    return text(value) if kind == STRING else struct.pack("<" + SCALARS[kind], value)


def array(kind: int, values: Sequence[Any], count: int | None = None) -> bytes:
    """An array, which may claim another count."""
    head = struct.pack("<IQ", kind, len(values) if count is None else count)
    return head + b"".join(encoded(kind, value) for value in values)


@dataclass(frozen=True)
class Key:
    """A key with its value as bytes; that of an array begins with the element type and the count."""

    name: str
    kind: int
    value: bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file's order of dimensions, [columns, rows]; without an offset it follows the one before it."""

    name: str
    dims: tuple[int, ...]
    kind: int
    data: bytes
    offset: int | None = None
    claimed_dims: int | None = None


@dataclass(frozen=True)
class Parts:
    """All that a file is made of."""

    keys: tuple[Key, ...]
    tensors: tuple[Tensor, ...]
    magic: bytes = b"GGUF"
    version: int = 3
    counts: tuple[int, int] | None = None  # tensors, keys
    alignment: int = 32

    def key(self, name: str) -> Key:
        """The key of that name."""
        return next(key for key in self.keys if key.name == name)

    def with_key(self, name: str, kind: int, value: bytes) -> Parts:
        """The key set, in its place if it is there."""
        new = Key(name, kind, value)
        if all(key.name != name for key in self.keys):
            return replace(self, keys=(*self.keys, new))
        return replace(self, keys=tuple(new if key.name == name else key for key in self.keys))

    def without_key(self, *names: str) -> Parts:
        """The keys left out."""
        return replace(self, keys=tuple(key for key in self.keys if key.name not in names))

    def with_tensor(self, index: int, *tensors: Tensor) -> Parts:
        """One tensor replaced by any number of others."""
        return replace(self, tensors=(*self.tensors[:index], *tensors, *self.tensors[index + 1 :]))

    def header(self) -> bytes:
        """Everything before the padding and the data."""
        tensor_count, key_count = self.counts or (len(self.tensors), len(self.keys))
        keys = b"".join(text(key.name) + struct.pack("<I", key.kind) + key.value for key in self.keys)
        head = self.magic + struct.pack("<IQQ", self.version, tensor_count, key_count) + keys
        at, entries = 0, []
        for one in self.tensors:
            dims = struct.pack(f"<I{len(one.dims)}Q", one.claimed_dims or len(one.dims), *one.dims)
            entries.append(
                text(one.name) + dims + struct.pack("<IQ", one.kind, at if one.offset is None else one.offset)
            )
            at += self._padded(len(one.data))
        return head + b"".join(entries)

    def to_bytes(self) -> bytes:
        """The whole file."""
        head = self.header()
        data = b"".join(one.data.ljust(self._padded(len(one.data)), b"\0") for one in self.tensors)
        return head.ljust(self._padded(len(head)), b"\0") + data

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


def take_apart(path: Path) -> Parts:
    """The parts of a sound file; `to_bytes` of them is the same file."""
    reader = GGUFReader(path)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    keys = [Key(one.name, int(one.types[0]), b"".join(part.tobytes() for part in one.parts[3:])) for one in fields]
    tensors = [
        Tensor(one.name, tuple(map(int, one.shape)), int(one.tensor_type), one.data.tobytes()) for one in reader.tensors
    ]
    return Parts(tuple(keys), tuple(tensors), version=int(reader.fields["GGUF.version"].parts[0][0]))
