"""Writes safetensors files without the safetensors library.

Promise: eight bytes of header length, a JSON header padded with spaces to a multiple of eight, then the data without
holes, tensors of wide element types first and by name among equals, as the Rust library orders them; streaming.
Source: the format section of the safetensors README, `prepare` in tensor.rs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.support.stored import ITEM_SIZE, DType, Stored

_DTYPE_NAME: dict[DType, str] = {"bf16": "BF16", "f16": "F16", "f32": "F32"}


def write_safetensors(path: Path, tensors: Iterable[Stored]) -> None:
    """Write one file. A tensor must fill its storage: the format knows no views."""
    ordered = sorted(tensors, key=lambda t: (-ITEM_SIZE[t.dtype], t.name))
    for tensor in ordered:
        if not tensor.fills_its_storage:
            raise ValueError(f"{tensor.name}: safetensors holds no views, offsets or strides")
    header = _header(ordered)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for tensor in ordered:
            file.writelines(tensor.storage.chunks())


def _header(tensors: Sequence[Stored]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.storage.size_bytes
        entries[tensor.name] = {
            "dtype": _DTYPE_NAME[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)
