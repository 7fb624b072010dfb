"""A tensor where it lies: a dtype, a shape and strides over the bytes of a file that is mapped, never read whole."""

import errno
import mmap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError
from bq.runtime.language import say

Array = npt.NDArray[Any]

# numpy has no bfloat16: its bits are carried as uint16 and widened by ggml.
CARRIERS: dict[str, type[np.generic]] = {"bf16": np.uint16, "f16": np.float16, "f32": np.float32}
_NUMPY: dict[str, type[np.generic]] = {**CARRIERS, "i32": np.int32}
# Widths in bytes of every element type a checkpoint may name, so that a wrong one can be reported by name.
ITEM_SIZES = {"bf16": 2, "f16": 2, "f32": 4, "f64": 8, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1}


@dataclass(frozen=True)
class MappedFile:
    """A file mapped read-only into memory; its pages are the system's cache, not this program's memory."""

    path: Path

    @cached_property
    def _mapping(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise BqError(
                say(f"{self.path} cannot be read: {error}.", f"无法读取 {self.path}：{error}。"), _remedy(error)
            ) from None

    @cached_property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The whole file as uint8. Raises BqError if it cannot be mapped."""
        return np.frombuffer(self._mapping, np.uint8)

    def will_need(self, start: int, count: int) -> None:
        """Let the system read these bytes ahead, while the threads still work on earlier ones."""
        if hasattr(mmap, "MADV_WILLNEED") and start < len(self._mapping):
            page = start // mmap.PAGESIZE * mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_WILLNEED, page, min(start + count, len(self._mapping)) - page)


def _remedy(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return say("Allow more open files (ulimit -n).", "请允许打开更多文件（ulimit -n）。")
    return say("Check the file, or download it again.", "请检查该文件，或重新下载。")


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint.

    `shape` and `strides` are in elements, `start` is the byte in the file where element (0, 0, …) lies; the reader
    that made it has checked that every element lies inside the tensor's own storage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    file: MappedFile = field(repr=False)

    @property
    def is_float(self) -> bool:
        return self.dtype in CARRIERS

    def will_need(self, first_row: int, rows: int) -> None:
        """Have these rows read ahead."""
        step = self.strides[0] * ITEM_SIZES[self.dtype]
        self.file.will_need(self.start + first_row * step, rows * step)

    def view(self) -> Array:
        """The tensor as a strided view of the file, in its carrier dtype (see CARRIERS) or int32; `aligned` is for C code.

        A safetensors file may lay a tensor at an odd byte, and then the view is not aligned.
        """
        carrier = np.dtype(_NUMPY[self.dtype])
        span = 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        flat = self.file.bytes[self.start : self.start + span * carrier.itemsize].view(carrier)
        steps = tuple(step * carrier.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)

    def matrix(self) -> Array:
        """The same as rows of its last dimension: a vector is one row."""
        view = self.view()
        return view if view.ndim == 2 else view.reshape(-1, self.shape[-1])

    def rows(self, order: npt.NDArray[np.intp] | slice) -> Array:
        """Some of these rows, in their carrier dtype."""
        return self.matrix()[order]


def aligned(rows: Array) -> Array:
    """`rows` as C code expects them: without gaps and on an even address; copied only if they are not."""
    return rows if rows.flags.c_contiguous and rows.flags.aligned else rows.copy()


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides of a shape, in elements."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))
