"""Reads a GGUF file's header (version 2 and 3, docs/gguf.md of ggml) in Python, as far as it is sound, before C code sees the file.

llama.cpp ends the process on a bad file; here every claim that costs memory is checked before it is believed. What the header
says of tensors is only read: where their bytes lie is judged by bq.runtime.gguf_file, which is for files that are used.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

MAGIC = b"GGUF"
# MAX_ARRAY and MAX_STRING (bytes) hold for all arrays and all strings of a file together: as Python objects they take
# many times their bytes.
MAX_KEYS, MAX_TENSORS, MAX_ARRAY, MAX_STRING, MAX_NAME = 4096, 65536, 1 << 24, 1 << 26, 64
DEFAULT_ALIGNMENT = 32  # also the least: llama.cpp ends the process where a mapped tensor has less (ggml-impl.h)
_STRING, _ARRAY, _BOOL = 8, 9, 7
# GGUF value types by number: struct format, and name as llama.cpp gives it (docs/gguf.md of ggml, gguf.cpp).
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_KIND_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
_HEADER_BYTES = 24  # magic, version, two counts
SHOWN = 64  # characters of a name from the file in a message
# What else is found under the name of a model, by its first bytes.
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive, as a PyTorch checkpoint is", "zip 压缩包（PyTorch 检查点即如此）"),
    (b"\x80\x02", "a pickle, as an old PyTorch checkpoint is", "pickle 文件（旧的 PyTorch 检查点即如此）"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Git LFS 指针，而非文件本身"),
    (b"<!DOCTYPE", "a web page", "网页"),
    (b"<html", "a web page", "网页"),
    (b"tjgg", "a model of llama.cpp from before GGUF", "GGUF 之前的 llama.cpp 模型"),
    (b"fmgg", "a model of llama.cpp from before GGUF", "GGUF 之前的 llama.cpp 模型"),
    (b"lmgg", "a model of llama.cpp from before GGUF", "GGUF 之前的 llama.cpp 模型"),
    (b"\x1f\x8b", "a gzip archive", "gzip 压缩包"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "7-Zip 压缩包"),
    (b"\0\0\0\0\0\0\0\0", "only zeros at its beginning, as an unfinished download is", "开头全是零（下载未完成）"),
)


@dataclass(frozen=True)
class Claim:
    """A tensor as the directory has it: the number of its type, and its offset in the data, may be any."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Header:
    """The header of a file up to its first `fault`; only bq.runtime.gguf_file checks what it claims of tensors.

    `end_byte` is where reading ended: behind the directory if there is no fault.
    """

    path: Path
    size_bytes: int
    metadata: dict[str, Any]
    kinds: Mapping[str, str]
    places: Mapping[str, tuple[int, int]]
    claims: tuple[Claim, ...]
    end_byte: int
    fault: BqError | None

    @property
    def alignment(self) -> int | None:
        """The file's own or the usual one; None for one that llama.cpp does not take."""
        value = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if self.kinds.get("general.alignment", "u32") != "u32" or value & (value - 1):
            return None
        return int(value) if DEFAULT_ALIGNMENT <= value <= 1 << 16 else None

    @property
    def data_start(self) -> int | None:
        """The first byte of the data, None where the header does not tell."""
        alignment = self.alignment
        return None if self.fault or alignment is None else -(-self.end_byte // alignment) * alignment


class BadClaim(Exception):
    """A claim of the file does not hold; the text says which."""


FAULTS = (BadClaim, struct.error, ValueError, OverflowError)


def read_header(path: Path) -> Header:
    """As much of the header as is sound. Raises BqError for what cannot be read or is no GGUF file of a known version."""
    try:
        size = path.stat().st_size  # before it is opened: a named pipe would wait there for a writer
        if size == 0:
            raise BadClaim(say("it is empty", "它是空的"))
        with path.open("rb") as file:
            _refuse_other(file.read(_HEADER_BYTES))
            if size < _HEADER_BYTES:
                raise BadClaim(say(f"it has only {size} bytes", f"只有 {size} 字节"))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            try:
                return _Reader(mapped, size).read(path)
            finally:
                mapped.close()
    except FileNotFoundError:
        raise UsageError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say(
                "Give the path of a GGUF file; `bq convert` makes one.",
                "请给出 GGUF 文件的路径；可用 `bq convert` 生成。",
            ),
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except FAULTS as error:
        raise not_whole(path, error) from None


def not_whole(path: Path, error: Exception) -> BqError:
    return BqError(
        say(f"{path.name} is no whole GGUF file: {error}.", f"{path.name} 不是完整的 GGUF 文件：{error}。"),
        say("Convert it again with `bq convert`, or download it again.", "请用 `bq convert` 重新转换，或重新下载。"),
    )


def _refuse_other(head: bytes) -> None:
    if head.startswith(MAGIC):
        return
    kinds = [(en, zh) for magic, en, zh in _OTHER_FILES if head.startswith(magic)]
    if head[8:9] == b"{":
        kinds.append(("a safetensors file", "safetensors 文件"))
    elif head[:1] == b"{":
        kinds.append(("JSON, as an error of a download is", "JSON（下载出错时即如此）"))
    if kinds:
        raise BadClaim(say(f"it is {kinds[0][0]}", f"它是{kinds[0][1]}"))
    raise BadClaim(say("it does not begin with GGUF", "开头不是 GGUF"))


class _Reader:
    """Reads one thing after the other; where it meets a fault, what it has read stays."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self.data = data
        self.size = size
        self.at = 0
        self.elements = self.text_bytes = 0
        self.metadata: dict[str, Any] = {}
        self.kinds: dict[str, str] = {}
        self.places: dict[str, tuple[int, int]] = {}
        self.claims: list[Claim] = []

    def read(self, path: Path) -> Header:
        self.take(len(MAGIC))
        self.version()
        fault = None
        try:
            self.keys_and_claims()
        except FAULTS as error:
            fault = not_whole(path, error)
        return Header(path, self.size, self.metadata, self.kinds, self.places, tuple(self.claims), self.at, fault)

    def version(self) -> None:
        version = self.scalar("I")
        if version & 0xFFFF == 0 and version:
            raise BadClaim(say("it was made for big-endian machines", "它是为大端序机器生成的"))
        if version not in (2, 3):
            raise BadClaim(say(f"its version is {version}, known are 2 and 3", f"版本为 {version}，只支持 2 和 3"))

    def keys_and_claims(self) -> None:
        tensor_count, key_count = self.scalar("Q"), self.scalar("Q")
        if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
            raise BadClaim(
                say(
                    f"it claims {tensor_count} tensors and {key_count} keys",
                    f"声称有 {tensor_count} 个张量和 {key_count} 个键",
                )
            )
        for _ in range(key_count):
            self.key()
        for _ in range(tensor_count):
            self.claims.append(self.claim())

    def key(self) -> None:
        start, key = self.at, self.string()
        if key in self.metadata or not key or "\0" in key:  # C compares keys up to a NUL
            shown = repr(key[:SHOWN])
            raise BadClaim(say(f"the key {shown} stands twice or is none", f"键 {shown} 重复或无效"))
        self.kinds[key], self.metadata[key] = self.value(self.scalar("I"))
        self.places[key] = start, self.at

    def take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise BadClaim(
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
        self.count_text(length)
        return self.take(length).decode("utf-8", "replace")

    def count_text(self, length: int) -> None:
        self.text_bytes += length
        if self.text_bytes > MAX_STRING:
            raise BadClaim(
                say(f"it claims {self.text_bytes:,} bytes of text", f"声称有 {self.text_bytes:,} 字节的文本")
            )

    def value(self, kind: int) -> tuple[str, Any]:
        """The name of the type, and the value."""
        if kind == _ARRAY:
            return self.array()
        if kind == _STRING:
            return _KIND_NAMES[kind], self.string()
        if kind not in _SCALARS:
            raise BadClaim(say(f"it holds the unknown value type {kind}", f"含有未知的值类型 {kind}"))
        return _KIND_NAMES[kind], bool(self.scalar("B")) if kind == _BOOL else self.scalar(_SCALARS[kind])

    def array(self) -> tuple[str, Any]:
        kind, count = self.scalar("I"), self.scalar("Q")
        self.elements += count
        if self.elements > MAX_ARRAY:
            raise BadClaim(say(f"it claims an array of {count:,}", f"声称有 {count:,} 个元素的数组"))
        if kind == _STRING:
            return f"[{_KIND_NAMES[kind]}]", self.strings(count)
        if kind not in _SCALARS:
            raise BadClaim(say(f"it holds an array of type {kind}", f"含有类型为 {kind} 的数组"))
        code = "B" if kind == _BOOL else _SCALARS[kind]
        values = list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
        return f"[{_KIND_NAMES[kind]}]", values

    def strings(self, count: int) -> list[str]:
        """An array of strings. A vocabulary has a hundred thousand, so the loop is bare."""
        found: list[str] = []
        data, at, length_at = self.data, self.at, struct.Struct("<Q").unpack_from
        last = min(self.size, at + 8 * count + MAX_STRING)
        for _ in range(count):
            end = at + 8 + length_at(data, at)[0] if at + 8 <= last else last + 1
            if end > last:
                break
            found.append(data[at + 8 : end].decode("utf-8", "surrogateescape"))
            at = end
        self.count_text(at - self.at - 8 * len(found))
        self.at = at
        if len(found) < count:
            raise BadClaim(say("its strings reach beyond its end", "其字符串超出文件末尾"))
        return found

    def claim(self) -> Claim:
        name = self.string()
        dims = self.scalar("I")
        if not 0 < len(name.encode()) < MAX_NAME or "\0" in name or not 1 <= dims <= 4:
            shown = repr(name[:SHOWN])
            raise BadClaim(say(f"the tensor {shown} has {dims} dimensions", f"张量 {shown} 有 {dims} 维"))
        sizes = [self.scalar("Q") for _ in range(dims)]
        kind, offset = self.scalar("I"), self.scalar("Q")
        if any(not 0 < n < 1 << 40 for n in sizes) or math.prod(sizes) >= 1 << 60:
            raise BadClaim(say(f"{name} has the shape {sizes}", f"{name} 的形状为 {sizes}"))
        return Claim(name, kind, tuple(reversed(sizes)), offset)
