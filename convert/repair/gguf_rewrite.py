"""A GGUF file written again with other keys and other bytes for some tensors; all the rest is copied as it stands.

Values that are kept are taken as bytes, so what bq does not understand survives. The result is of version 3, has the
file's own alignment, and its tensors stand in their old order. Source of the layout: docs/gguf.md of ggml.
"""

import mmap
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bq.convert.write import Sink
from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType, block_size
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.gguf_header import DEFAULT_ALIGNMENT, MAGIC
from bq.runtime.language import say

STRING, ARRAY = 8, 9
COPY_BYTES = 8 << 20
_VERSION = 3
# GGUF value types by number, in struct's letters.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

Chunks = Iterable["bytes | memoryview"]


def raw_keys(file: GgufFile) -> dict[str, bytes]:
    """Key -> its name, type and value as they stand in the file."""
    with file.path.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return {key: data[start:end] for key, (start, end) in file.places.items()}


def encoded(key: str, kind: int, value: Any, item: int | None = None) -> bytes:
    """Name, type and value of a key as bytes; `item` is the type of an array's elements."""
    if kind != ARRAY or item is None:
        return _text(key) + _U32.pack(kind) + _payload(kind, [value])
    return _text(key) + _U32.pack(kind) + _U32.pack(item) + _U64.pack(len(value)) + _payload(item, value)


def _payload(kind: int, values: list[Any]) -> bytes:
    if kind == STRING:
        return b"".join(_text(value) for value in values)
    return struct.pack(f"<{len(values)}{_SCALARS[kind]}", *values)


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return _U64.pack(len(data)) + data


@dataclass(frozen=True)
class Rewrite:
    """What the new file is made of: the old one, all keys as bytes in their order, and tensors that change their type."""

    source: GgufFile
    keys: Mapping[str, bytes]
    kinds: Mapping[str, GgmlType] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The size of the new file."""
        return len(self.header()) + sum(self._padded(self.bytes_of(one)) for one in self.source.tensors.values())

    def bytes_of(self, entry: TensorEntry) -> int:
        """The size of a tensor in the new file."""
        weights, size = block_size(self.kind_of(entry))
        old_weights, old_size = block_size(entry.kind)
        return entry.size_bytes // old_size * old_weights // weights * size

    def kind_of(self, entry: TensorEntry) -> GgmlType:
        """The type of a tensor in the new file."""
        return self.kinds.get(entry.name, entry.kind)

    def header(self) -> bytes:
        """Everything that stands before the data, padding included."""
        tensors = self.source.tensors.values()
        parts: list[bytes] = [MAGIC, _U32.pack(_VERSION), _U64.pack(len(tensors)), _U64.pack(len(self.keys))]
        parts += self.keys.values()
        offset = 0
        for entry in tensors:
            dims = struct.pack(f"<I{len(entry.shape)}Q", len(entry.shape), *reversed(entry.shape))
            parts.append(_text(entry.name) + dims + struct.pack("<IQ", self.kind_of(entry), offset))
            offset += self._padded(self.bytes_of(entry))
        head = b"".join(parts)
        return head.ljust(self._padded(len(head)), b"\0")

    def padding_after(self, entry: TensorEntry) -> bytes:
        """The zeros between a tensor and the next."""
        size = self.bytes_of(entry)
        return bytes(self._padded(size) - size)

    def _padded(self, size: int) -> int:
        alignment: int = self.source.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        return -(-size // alignment) * alignment


def write_rewrite(
    rewrite: Rewrite, out: Sink, made: Mapping[str, Chunks], report: Callable[[TensorEntry, int], None]
) -> int:
    """Write the file; `made` has the bytes of the tensors that are not copied. Returns the CRC-32 of all that was written.

    `report` hears of each tensor and the bytes written of it, as they are.
    """
    head = rewrite.header()
    out.write(head)
    checksum = zlib.crc32(head)
    with rewrite.source.path.open("rb", buffering=0) as source:
        for entry in rewrite.source.tensors.values():
            for chunk in made.get(entry.name) or _copied(source, entry):
                out.write(chunk)
                checksum = zlib.crc32(chunk, checksum)
                report(entry, memoryview(chunk).nbytes)
            gap = rewrite.padding_after(entry)
            out.write(gap)
            checksum = zlib.crc32(gap, checksum)
    return checksum


def _copied(source: Any, entry: TensorEntry) -> Iterator[memoryview]:
    """A tensor's bytes; read, not mapped, or the whole model would count as this program's memory."""
    buffer = memoryview(bytearray(min(COPY_BYTES, entry.size_bytes)))
    left = entry.size_bytes
    source.seek(entry.start)
    while left:
        count = source.readinto(buffer[: min(left, len(buffer))])
        if not count:
            raise changed_meanwhile(Path(source.name))
        left -= count
        yield buffer[:count]


def stamp_of(path: Path) -> tuple[int, int, int]:
    """What tells a file from one that was changed or put in its place."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def changed_meanwhile(path: Path) -> BqError:
    """The error of a file that no longer is what the plan was made from."""
    return BqError(
        say(f"{path} was changed while it was being repaired.", f"{path} 在修复期间被改动。"),
        say("Wait until its download or copy is done, then try again.", "请等下载或复制完成后重试。"),
    )


def checksum_of(path: Path) -> int:
    """The CRC-32 of a file as the disk gives it back."""
    checksum, buffer = 0, memoryview(bytearray(COPY_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            checksum = zlib.crc32(buffer[:count], checksum)
    return checksum
