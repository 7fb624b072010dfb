"""The zip container as torch's PyTorchStreamWriter lays it out, written front to back without seeking.

Promise: same bytes as torch for the same members (checked against torch 2.13): stored, not compressed; every member's
data starts at a multiple of 64 bytes, by an extra field "FB" filled with "Z"; sizes and CRC follow the data in a data
descriptor; zip64 fields from 4 GiB on; always a zip64 end record.
Sources: pytorch caffe2/serialize/inline_container.cc (getPadding), miniz.c mz_zip_writer_add_mem_ex_v2, PKWARE APPNOTE.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

ALIGNMENT = 64
ZIP64_LIMIT = 0xFFFFFFFF  # a module variable, so that a test can lower it
_FULL = 0xFFFFFFFF  # "see the zip64 field"
_UTF8_NAME = 0x0800
_SIZES_FOLLOW = 0x0008  # in a data descriptor
_LOCAL_HEADER_SIZE = 30


@dataclass(frozen=True)
class _Member:
    name: bytes
    offset: int
    size: int
    crc: int


class ZipWriter:
    """Appends members to an empty file; `close` writes the directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: list[_Member] = []
        self._position = 0

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write one member; `size` must be known before the first chunk, because alignment depends on it."""
        raw_name, offset = name.encode(), self._position
        zip64 = _zip64_field(size, offset)
        extra = zip64 + _padding_field(offset + _LOCAL_HEADER_SIZE + len(raw_name) + 4 + len(zip64))
        lengths = (len(raw_name), len(extra))
        self._write(struct.pack("<4s5H3I2H", b"PK\3\4", 0, _flags(size), 0, 0, 0, 0, 0, 0, *lengths) + raw_name + extra)
        crc, written = 0, 0
        for chunk in chunks:
            self._write(chunk)
            crc, written = zlib.crc32(chunk, crc), written + len(chunk)
        if written != size:
            raise ValueError(f"{name}: {written} bytes written, {size} announced")
        if size:
            self._write(struct.pack("<4sI2Q" if zip64 else "<4s3I", b"PK\7\x08", crc, size, size))
        self._members.append(_Member(raw_name, offset, size, crc))

    def close(self) -> None:
        """Write the central directory, its zip64 end record and locator, and the classic end record."""
        start = self._position
        for member in self._members:
            self._write(_directory_entry(member))
        size, end, count = self._position - start, self._position, len(self._members)
        self._write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x031E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        capped = (min(count, 0xFFFF),) * 2 + (min(size, _FULL), _FULL if start >= ZIP64_LIMIT else start)
        self._write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *capped, 0))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._position += len(data)


def _flags(size: int) -> int:
    """miniz writes no data descriptor for an empty member."""
    return _UTF8_NAME | (_SIZES_FOLLOW if size else 0)


def _zip64_field(size: int, offset: int) -> bytes:
    """Extra field 1: sizes and header offset, each only where 32 bits do not hold it."""
    values = ([size, size] if size >= ZIP64_LIMIT else []) + ([offset] if offset >= ZIP64_LIMIT else [])
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _padding_field(start: int) -> bytes:
    """Extra field "FB" that moves the data, which would begin at `start`, to the next multiple of 64."""
    length = -start % ALIGNMENT
    return struct.pack("<2sH", b"FB", length) + b"Z" * length


def _directory_entry(member: _Member) -> bytes:
    zip64 = _zip64_field(member.size, member.offset)
    size = _FULL if member.size >= ZIP64_LIMIT else member.size
    offset = _FULL if member.offset >= ZIP64_LIMIT else member.offset
    head = struct.pack("<4s6H3I", b"PK\1\2", 0, 0, _flags(member.size), 0, 0, 0, member.crc, size, size)
    return head + struct.pack("<5H2I", len(member.name), len(zip64), 0, 0, 0, 0, offset) + member.name + zip64
