"""Finds the tensors of a safetensors file where they lie, after checking every claim of its header.

The format is an 8-byte length, a JSON header and the data; the rules checked here are those of the format's
specification: a bounded header, no name twice, offsets that cover the data exactly and agree with dtype and shape.
"""

import json
import math
from pathlib import Path
from typing import Any

from bq.convert.source import ITEM_SIZES, MappedFile, SourceTensor, contiguous_strides
from bq.runtime.errors import BqError
from bq.runtime.language import say

# The reference implementation allows 100 MB, which as Python objects would fill the memory; a 13B release has 40 KB.
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
_DTYPES = {
    "BF16": "bf16",
    "F16": "f16",
    "F32": "f32",
    "F64": "f64",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}


class _Bad(Exception):
    """A rule of the format is broken; the text says which."""


def read_safetensors_file(path: Path) -> dict[str, SourceTensor]:
    """The tensors of a safetensors file by name, in the order of their data. Raises BqError if a rule is broken."""
    file = MappedFile(path)
    size = path.stat().st_size
    try:
        header, data_start = _read_header(path, size)
        return _tensors(header, data_start, size, file)
    except (_Bad, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BqError(
            say(
                f"{path.name} is no whole safetensors file ({size:,} bytes): {error}.",
                f"{path.name} 不是完整的 safetensors 文件（{size:,} 字节）：{error}。",
            ),
            say("Download it again.", "请重新下载该文件。"),
        ) from None


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > MAX_HEADER_BYTES or 8 + length > size:
            raise _Bad(say(f"its header claims {length:,} bytes", f"文件头声称有 {length:,} 字节"))
        text = stream.read(length).decode("utf-8")
    header = json.loads(text, object_pairs_hook=_unique)
    if not text.startswith("{") or not isinstance(header, dict):
        raise _Bad(say("its header is no object", "文件头不是对象"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _Bad(say("its __metadata__ holds something other than texts", "其 __metadata__ 含有非文本的值"))
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Bad(say("a name stands twice in its header", "文件头中有重复的名称"))
    return found


def _checked(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, and the bytes from begin to end of the data, of one entry of the header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _Bad(
            say(
                f"{name} is not described by dtype, shape and data_offsets",
                f"{name} 的描述不是 dtype、shape 与 data_offsets",
            )
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise _Bad(say(f"{name} is described by something other than counts", f"{name} 的描述不是非负整数"))
    if entry["dtype"] not in _DTYPES:
        raise _Bad(say(f"{name} has the unknown dtype {entry['dtype']}", f"{name} 的 dtype {entry['dtype']} 未知"))
    return _DTYPES[entry["dtype"]], tuple(shape), offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and len(values) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in values)


def _tensors(header: dict[str, Any], data_start: int, size: int, file: MappedFile) -> dict[str, SourceTensor]:
    tensors = {}
    position = 0
    entries = [(name, *_checked(name, entry)) for name, entry in header.items()]
    for name, dtype, shape, begin, end in sorted(entries, key=lambda entry: (entry[3:], entry[0])):
        if begin != position or end - begin != math.prod(shape) * ITEM_SIZES[dtype]:
            raise _Bad(say(f"the offsets of {name} {list(shape)} do not fit", f"{name} {list(shape)} 的偏移量不符"))
        tensors[name] = SourceTensor(name, dtype, shape, contiguous_strides(shape), data_start + begin, file)
        position = end
    if data_start + position != size:
        raise _Bad(
            say(f"its tensors end at byte {data_start + position:,}", f"张量结束于第 {data_start + position:,} 字节")
        )
    return tensors
