"""Wrong GGUF files made from right ones: each fault that converters were found to make, and damage of the disk.

An `Edit` turns the parts of a file into those of a wrong one; `write_wrong` applies some of them to a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bq.runtime import ggml
from bq.runtime.ggml import GgmlType
from tests.support.gguf_writer import ARRAY, BOOL, I32, STRING, U32, Parts, Tensor, array, encoded, take_apart

Edit = Callable[[Parts], Parts]
F32 = NDArray[np.float32]
TYPES = "tokenizer.ggml.token_type"
SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
DUMMY_PREFIX = "bq.tokenizer.add_dummy_prefix"
NORMAL, USER_DEFINED = 1, 4
ROLES = (195, 196)


def write_wrong(source: Path, out: Path, *edits: Edit) -> Path:
    """The file of `source` with some faults."""
    parts = take_apart(source)
    for edit in edits:
        parts = edit(parts)
    out.write_bytes(parts.to_bytes())
    return out


def tensor(parts: Parts, name: str) -> Tensor:
    """The tensor of that name."""
    return next(one for one in parts.tensors if one.name == name)


def with_data(parts: Parts, name: str, data: bytes) -> Parts:
    """Other bytes in a tensor."""
    found = tensor(parts, name)
    assert len(data) == len(found.data)
    return parts.with_tensor(parts.tensors.index(found), replace(found, data=data))


def packed(one: Tensor) -> NDArray[np.uint8]:
    """A tensor's bytes by row."""
    return np.frombuffer(one.data, np.uint8).reshape(one.dims[1] if len(one.dims) > 1 else 1, -1)


def rows(one: Tensor) -> F32:
    """A matrix as float32."""
    return ggml.dequantize(GgmlType(one.kind), packed(one), one.dims[0])


def with_rows(name: str, change: Callable[[F32], NDArray[Any]]) -> Edit:
    """Other weights in a matrix, from its own, in the type that it has."""

    def edit(parts: Parts) -> Parts:
        found = tensor(parts, name)
        kind, changed = GgmlType(found.kind), np.ascontiguousarray(change(rows(found)), np.float32)
        return with_data(parts, name, ggml.quantize(kind, changed).tobytes())

    return edit


def without_norm_head(lm_head: F32) -> Edit:
    """output.weight as the checkpoint has it: what every older converter of a Baichuan 2 writes."""
    return with_rows("output.weight", lambda _: lm_head)


def normalised_head(parts: Parts) -> Parts:
    """Rows of output.weight divided by their norms, as a Baichuan 1 must not have them."""
    return with_rows("output.weight", lambda wide: wide / np.linalg.norm(wide, axis=1, keepdims=True))(parts)


def not_reordered(parts: Parts, only: tuple[str, ...] = ("attn_q", "attn_k")) -> Parts:
    """q and k with the rows of each head in the checkpoint's order."""
    heads = int(np.frombuffer(parts.key("baichuan.attention.head_count").value, "<u4")[0])
    for one in parts.tensors:
        if one.name.split(".")[-2] in only:
            own = packed(one)
            halves = own.reshape(heads, -1, 2, own.shape[1]).swapaxes(1, 2)
            parts = with_data(parts, one.name, halves.tobytes())
    return parts


def swapped(first: str, second: str) -> Edit:
    """Two tensors of one shape and type in each other's place."""

    def edit(parts: Parts) -> Parts:
        one, other = tensor(parts, first), tensor(parts, second)
        return with_data(with_data(parts, first, other.data), second, one.data)

    return edit


def zeroed_layer(block: int) -> Edit:
    """Every matrix of a block is zeros."""

    def edit(parts: Parts) -> Parts:
        for one in parts.tensors:
            if one.name.startswith(f"blk.{block}.") and len(one.dims) == 2:
                parts = with_data(parts, one.name, bytes(len(one.data)))
        return parts

    return edit


def flipped_bit(name: str, bit: int) -> Edit:
    """One bit of a tensor's bytes the other way round."""

    def edit(parts: Parts) -> Parts:
        data = bytearray(tensor(parts, name).data)
        data[bit // 8] ^= 1 << bit % 8
        return with_data(parts, name, bytes(data))

    return edit


def typed(kind: int, *ids: int) -> Edit:
    """Pieces of another type."""

    def edit(parts: Parts) -> Parts:
        types = np.frombuffer(parts.key(TYPES).value[12:], "<i4").copy()
        types[list(ids)] = kind
        return parts.with_key(TYPES, ARRAY, array(I32, types.tolist()))

    return edit


def all_ordinary(parts: Parts) -> Parts:
    """Types as llama.cpp's converter writes them: no piece is user-defined, and the roles are no control pieces."""
    types = np.frombuffer(parts.key(TYPES).value[12:], "<i4").copy()
    types[types == USER_DEFINED] = NORMAL
    types[list(ROLES)] = NORMAL
    return parts.with_key(TYPES, ARRAY, array(I32, types.tolist()))


def flag(key: str, value: bool) -> Edit:
    """A boolean key set."""
    return lambda parts: parts.with_key(key, BOOL, encoded(BOOL, value))


def number(key: str, value: int) -> Edit:
    """A u32 key set."""
    return lambda parts: parts.with_key(key, U32, encoded(U32, value))


def text(key: str, value: str) -> Edit:
    """A string key set."""
    return lambda parts: parts.with_key(key, STRING, encoded(STRING, value))


def without(*keys: str) -> Edit:
    """Keys left out."""
    return lambda parts: parts.without_key(*keys)


def foreign(parts: Parts) -> Parts:
    """Without a word of bq's, as other programs write files."""
    return parts.without_key(*(key.name for key in parts.keys if key.name.startswith("bq.")))


def as_old_converters_did(lm_head: F32 | None = None) -> Edit:
    """All their faults at once: types, prefix, stop, template, names; NormHead left out where `lm_head` is given."""

    def edit(parts: Parts) -> Parts:
        left_out = (
            SPACE_PREFIX,
            "tokenizer.ggml.add_bos_token",
            "tokenizer.ggml.eot_token_id",
            "tokenizer.chat_template",
        )
        parts = all_ordinary(foreign(parts)).without_key(*left_out)
        parts = parts.without_key(*(key.name for key in parts.keys if key.name.startswith("general.sampling.")))
        return without_norm_head(lm_head)(parts) if lm_head is not None else parts

    return edit
