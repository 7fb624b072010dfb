"""Tensors as they lie in a checkpoint: a view on a storage whose bytes are produced only when they are written.

Promise: no function here needs more memory than one chunk, so that a 15 GB checkpoint can be written on a laptop.
bfloat16 rounds to nearest even, as torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

DType = Literal["bf16", "f16", "f32"]
F32 = NDArray[np.float32]

ITEM_SIZE: dict[DType, int] = {"bf16": 2, "f16": 2, "f32": 4}
_CHUNK_VALUES = 1 << 20


def encode(values: NDArray[Any], dtype: DType) -> bytes:
    """Little-endian bytes of `values` (finite or infinite, no NaN) in `dtype`."""
    f32 = np.ascontiguousarray(values, dtype="<f4")
    if dtype == "f32":
        return f32.tobytes()
    if dtype == "f16":
        return f32.astype("<f2").tobytes()
    bits: NDArray[np.uint32] = f32.view("<u4")
    # Round to nearest even: add 0x7FFF, and one more where the last kept bit is odd.
    odd = np.bitwise_and(np.right_shift(bits, np.uint32(16)), np.uint32(1))
    high: NDArray[np.uint16] = np.right_shift(bits + odd + np.uint32(0x7FFF), np.uint32(16)).astype("<u2")
    return high.tobytes()


def decode(data: bytes, dtype: DType) -> F32:
    """The inverse of `encode`, exact, as a flat float32 array."""
    if dtype == "bf16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if dtype == "f16" else "<f4").astype(np.float32)


def rounded(values: NDArray[Any], dtype: DType) -> F32:
    """`values` after a stay in `dtype`, as float32 of the same shape."""
    return decode(encode(values, dtype), dtype).reshape(np.shape(values))


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements; like torch, a dimension of size 0 counts as 1."""
    return tuple(prod(max(size, 1) for size in shape[i + 1 :]) for i in range(len(shape)))


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of elements in a file. Two tensors share it when they hold the same object."""

    dtype: DType
    numel: int
    chunks: Callable[[], Iterable[bytes]]

    @property
    def size_bytes(self) -> int:
        return self.numel * ITEM_SIZE[self.dtype]


@dataclass(frozen=True, eq=False)
class Stored:
    """A named view on a storage; `offset` and `strides` count elements, `strides=None` means row-major."""

    name: str
    shape: tuple[int, ...]
    storage: Storage
    offset: int = 0
    strides: tuple[int, ...] | None = None

    @property
    def dtype(self) -> DType:
        return self.storage.dtype

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def fills_its_storage(self) -> bool:
        """True for a row-major tensor that covers its storage from end to end."""
        row_major = self.strides is None or self.strides == contiguous_strides(self.shape)
        return row_major and self.offset == 0 and self.numel == self.storage.numel


def storage_of(values: NDArray[Any], dtype: DType = "f32") -> Storage:
    """A storage with the elements of `values` in row-major order, encoded piece by piece."""
    flat = np.ascontiguousarray(values).reshape(-1)

    def chunks() -> Iterator[bytes]:
        for start in range(0, flat.size, _CHUNK_VALUES):
            yield encode(flat[start : start + _CHUNK_VALUES], dtype)

    return Storage(dtype, int(flat.size), chunks)


def stored(name: str, values: NDArray[Any], dtype: DType = "f32") -> Stored:
    """An array in memory as a tensor of its own storage."""
    return Stored(name, tuple(np.shape(values)), storage_of(values, dtype))
