"""Whole files that llama.cpp's own quantizer makes from our F32 file, to be compared with ours byte for byte.

The type of a matrix depends on its block and its row width, its bytes on each row alone: so a few rows of some blocks are random
and all others zero, which no search takes long for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bq.convert.convert import Conversion, convert, prepare
from bq.convert.header import write_header
from bq.convert.quantizer import GGML, Quantizer
from bq.convert.write import Target, write_tensors
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library
from tests.support.families import Family, Shape, write_checkpoint
from tests.support.stored import F32, Stored, stored
from tests.support.weights import Weight, values

LIVE_BLOCKS = {0, 6, 17, 31, 39}  # the first and the last, and two between, of which one may have more bits
_INT, _STRING = 0, 3  # enum llama_model_kv_override_type


@dataclass(frozen=True)
class Widths:
    """Hidden and FFN width; 256-wide types need multiples of 256, 32-wide ones of 32, and 48 is neither."""

    name: str
    hidden: int
    heads: int
    ffn: int


BOTH = Widths("both-256", 256, 4, 256)  # as the 7B releases: 4096 and 11,008
FFN_NOT = Widths("ffn-not-256", 256, 4, 32)  # as the 13B releases: 5120 and 13,696
SMALL = (
    Widths("hidden-not-256", 64, 4, 256),
    Widths("none-256", 64, 4, 32),
    Widths("ffn-not-32", 64, 4, 16),
    Widths("none-32", 48, 4, 16),
)
# What takes the place of a type depends on that type and the width alone, the types on the blocks alone: each width and each family
# meets every mixture, but not each width in each family.
CASES: tuple[tuple[Family, Widths], ...] = (
    ("b1-7b", BOTH),
    ("b2-13b", FFN_NOT),
    *zip(("b2-13b", "b1-7b", "b2-13b", "b2-7b"), SMALL, strict=True),
)


def write_sparse(folder: Path, family: Family, widths: Widths) -> Path:
    """The folder of a checkpoint of these widths, with its F32 conversion in it as f32.gguf."""
    write_checkpoint(
        folder, Shape(family, hidden=widths.hidden, heads=widths.heads, ffn=widths.ffn), edit=_with_few_rows
    )
    convert(prepare(folder, "F32"), folder / "f32.gguf", threads=2)
    return folder


def write_files(conversions: Sequence[Conversion], folder: Path, quantizer: Quantizer = GGML) -> list[Path]:
    """The whole file of each, from one read of their checkpoint; `convert` reads it back as well, which takes longer."""
    paths = [folder / f"{conversion.mixture_name}.gguf" for conversion in conversions]
    with ExitStack() as stack:
        outs = [stack.enter_context(write_header(*pair, quantizer)) for pair in zip(conversions, paths, strict=True)]
        targets = [Target(*pair, quantizer) for pair in zip((one.plan for one in conversions), outs, strict=True)]
        write_tensors(targets, 2, lambda _: None)
    return paths


def _with_few_rows(tensors: list[Stored]) -> list[Stored]:
    return [one if len(one.shape) == 1 else stored(one.name, _few_rows(one), "bf16") for one in tensors]


def _few_rows(one: Stored) -> F32:
    """Rows at the beginning, in the middle and at the end of each of W_pack's thirds, or of another matrix."""
    found = np.zeros(one.shape, np.float32)
    _, kind, number, *_ = [*one.name.split("."), ""]
    if kind == "layers" and int(number) not in LIVE_BLOCKS:
        return found
    parts = 3 if "W_pack" in one.name else 1
    height = one.shape[0] // parts
    for first in range(0, one.shape[0], height):
        live = [first, first + height // 2 + 1, first + height - 1]
        found[live] = values(Weight(f"{one.name}.{first}", (3, one.shape[1])), "bf16", seed=1)
    return found


@dataclass(frozen=True)
class Wish:
    """What `llama_model_quantize` is told beside the file type: importance by tensor, keys to set, types by regular expression."""

    importance: Mapping[str, F32] = field(default_factory=dict)
    keys: Sequence[tuple[str, str | int]] = ()
    types: Mapping[str, int] = field(default_factory=dict)


def quantize_as_wished(source: Path, out: Path, file_type: int, wish: Wish, threads: int = 2) -> int:
    """Call `llama_model_quantize`; 0 if it made the file."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, threads
    kept: list[Any] = []
    if wish.importance:
        params.imatrix = _array(
            lib.llama_model_imatrix_data, kept, [_weights(lib, *one) for one in wish.importance.items()]
        )
    if wish.keys:
        params.kv_overrides = _array(lib.llama_model_kv_override, kept, [_key(lib, *one) for one in wish.keys])
    if wish.types:
        types = [lib.llama_model_tensor_override(name.encode(), kind) for name, kind in wish.types.items()]
        params.tt_overrides = _array(lib.llama_model_tensor_override, kept, types)
    return int(lib.llama_model_quantize(str(source).encode(), str(out).encode(), params))


def _array(kind: Any, kept: list[Any], items: list[Any]) -> Any:
    """A C array that ends with an empty item, kept alive by the caller."""
    array = (kind * (len(items) + 1))(*items)
    kept.append((array, items))
    return ctypes.cast(array, ctypes.POINTER(kind))


def _weights(lib: Any, name: str, weights: F32) -> Any:
    return lib.llama_model_imatrix_data(
        name.encode(), weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), weights.size
    )


def _key(lib: Any, key: str, value: str | int) -> Any:
    one = lib.llama_model_kv_override(tag=_INT if isinstance(value, int) else _STRING, key=key.encode())
    if isinstance(value, int):
        one.value.val_i64 = value
    else:
        one.value.val_str = value.encode()
    return one


def first_difference(ours: Path, theirs: Path, name: str) -> str:
    """Where two files of `name` part, for the message of a test."""
    left, right = read_gguf(ours), read_gguf(theirs)
    for key in {**left.metadata, **right.metadata}:
        if left.metadata.get(key) != right.metadata.get(key):
            return f"{name}: metadata {key} is {left.metadata.get(key)!r}, llama.cpp's {right.metadata.get(key)!r}"
    for tensor, one in left.tensors.items():
        other = right.tensors.get(tensor)
        if other is None or (one.kind, one.shape) != (other.kind, other.shape):
            return f"{name}: {tensor} is {one}, llama.cpp's is {other}"
        if (left.bytes[one.start :][: one.size_bytes] != right.bytes[other.start :][: one.size_bytes]).any():
            return f"{name}: the bytes of {tensor} ({one.kind.name}) differ"
    return f"{name}: the order or the padding differs"
