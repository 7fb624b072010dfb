"""Packs matrices as GPTQ releases have them, and unpacks one element at a time, both from the definition of the format.

Promise: nothing of bq is used. Source: GPTQModel's documentation of `qweight`, `qzeros`, `scales` and `g_idx`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_NAMES = {"int32": "I32", "float16": "F16", "float32": "F32", "uint16": "BF16"}


@dataclass(frozen=True)
class Packing:
    """How to pack. `group` -1 is one group for all inputs; `is_v1` stores zero points less one."""

    bits: int = 4
    group: int = 32
    symmetric: bool = True
    act_order: bool = False
    is_v1: bool = True
    has_g_idx: bool = True

    def config(self) -> dict[str, Any]:
        """quantization_config."""
        return {
            "bits": self.bits,
            "group_size": self.group,
            "sym": self.symmetric,
            "desc_act": self.act_order,
            "lm_head": False,
            "quant_method": "gptq",
            **({} if self.is_v1 else {"checkpoint_format": "gptq_v2"}),
        }


@dataclass(frozen=True)
class Packed:
    """The parts of one matrix as they lie in a file."""

    qweight: Array
    qzeros: Array
    scales: Array
    g_idx: Array


def pack(shape: tuple[int, ...], packing: Packing, seed: int) -> Packed:
    """A random matrix [outputs, inputs]: codes, zero points and scales, set bit by bit into int32 words."""
    rng, (outputs, inputs) = np.random.default_rng(seed), shape
    groups = 1 if packing.group == -1 else -(-inputs // packing.group)
    most, offset = (1 << packing.bits) - 1, int(packing.is_v1)
    codes = rng.integers(0, most + 1, (inputs, outputs))
    zeros = rng.integers(1, most + 1, (groups, outputs))
    if packing.symmetric:
        zeros[:] = (most + 1) // 2
    g_idx = np.arange(inputs) // (inputs if packing.group == -1 else packing.group)
    if packing.act_order:
        rng.shuffle(g_idx)
    scales = rng.uniform(0.002, 0.03, (groups, outputs)).astype(np.float16)
    return Packed(
        _words(codes, packing.bits), _words((zeros - offset).T, packing.bits).T, scales, g_idx.astype(np.int32)
    )


def _words(codes: Array, bits: int) -> Array:
    """Codes [n, columns] -> int32 words [n * bits / 32, columns], the first code in the lowest bits."""
    per_word = 32 // bits
    words = np.zeros((len(codes) // per_word, codes.shape[1]), np.uint32)
    for i, row in enumerate(codes):
        words[i // per_word] |= row.astype(np.uint32) << np.uint32(i % per_word * bits)
    return words.view(np.int32)


def element(packed: Packed, packing: Packing, output: int, column: int) -> float:
    """The weight of one input `column` for one output, as the format defines it."""
    per_word, mask = 32 // packing.bits, (1 << packing.bits) - 1
    group = (
        int(packed.g_idx[column]) if packing.has_g_idx else column // (packing.group if packing.group > 0 else 1 << 30)
    )
    word = int(packed.qweight[column // per_word, output]) & 0xFFFFFFFF
    code = word >> (column % per_word * packing.bits) & mask
    word = int(packed.qzeros[group, output // per_word]) & 0xFFFFFFFF
    zero = (word >> (output % per_word * packing.bits) & mask) + int(packing.is_v1)
    return float(packed.scales[group, output]) * (code - zero)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """A safetensors file of numpy arrays; uint16 stands for bfloat16."""
    header: dict[str, Any] = {}
    position = 0
    for name, one in arrays.items():
        header[name] = {
            "dtype": _NAMES[str(one.dtype)],
            "shape": list(one.shape),
            "data_offsets": [position, position + one.nbytes],
        }
        position += one.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(np.ascontiguousarray(one).tobytes() for one in arrays.values())
