"""Calls the kernels: loads them with a cache of their machine code, and gives to ggml the few blocks that they decline.

Nothing here imports numba before `load_kernels` is called.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.convert.rows import Rows
from bq.runtime import ggml
from bq.runtime.ggml import GgmlType

F32Array = npt.NDArray[np.float32]
U8Array = npt.NDArray[np.uint8]
# (addresses of rows, their type, columns, whether to normalise, importance of the columns or None, rounds of refinement or
# None, packed bytes, flags of blocks to be done by ggml) -> False if a weight is not finite. The arrays are flat, the last two
# are filled.
Kernel = Callable[[npt.NDArray[np.int64], int, int, bool, F32Array | None, int | None, U8Array, U8Array], bool]
_PACKAGE = "bq.convert.kernels"
_MODULES = {
    GgmlType.Q2_K: "affine",
    GgmlType.Q3_K: "symmetric",
    GgmlType.Q4_K: "affine",
    GgmlType.Q5_K: "affine",
    GgmlType.Q6_K: "symmetric",
    GgmlType.IQ4_NL: "nonlinear",
    GgmlType.IQ4_XS: "nonlinear",
}
HAVE_KERNELS = frozenset(_MODULES)


@dataclass(frozen=True)
class Loaded:
    """Kernels that are ready to run, and how long that took; `compiled` if their machine code was not in the cache."""

    kernels: Mapping[GgmlType, Kernel]
    seconds: float
    compiled: bool


def is_installed() -> bool:
    """Whether numba is, which the kernels need."""
    return find_spec("numba") is not None


def load_kernels(kinds: Iterable[GgmlType], with_importance: bool = False, effort: int | None = None) -> Loaded:
    """The kernels of these types, compiled for this processor or taken from the cache, for one way to call them.

    What cannot be read from the cache is compiled, what cannot be kept there is used all the same. Raises whatever numba raises
    where it does not work.
    """
    from numba import config

    begun = time.perf_counter()
    kernels: dict[GgmlType, Kernel] = {}
    compiled = False
    # Each module's kernels learn when it is imported where their machine code is kept.
    before, config.CACHE_DIR = config.CACHE_DIR, str(_usable_folder())
    try:
        for kind in sorted(kinds):
            kernels[kind] = getattr(import_module(f"{_PACKAGE}.{_MODULES[kind]}"), kind.name.lower())
            compiled |= _make_ready(kernels[kind], kind, with_importance, effort)
    finally:
        config.CACHE_DIR = before
    return Loaded(kernels, time.perf_counter() - begun, compiled)


def cache_folder() -> Path:
    """Where machine code is kept: a folder for each state of the sources, since numba looks at one file of several."""
    from platformdirs import user_cache_path

    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "kernels").glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    root = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache_path("bq"))
    return root / "kernels" / digest.hexdigest()[:16]


@cache
def _usable_folder() -> Path:
    """The cache's folder, or one that ends with this process if it cannot be written: numba would fall back to the folder of
    the sources, and take what earlier sources left there.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(_temporary().name)


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="bq-kernels-")


def _make_ready(kernel: Kernel, kind: GgmlType, with_importance: bool, effort: int | None) -> bool:
    """Call a kernel once; whether it had to be compiled. numba passes on what a damaged cache or a full disk raise."""
    width = ggml.block_size(kind)[0]
    importance = np.ones(width, np.float32) if with_importance else None
    kept = kernel._cache  # type: ignore[attr-defined]
    misses = sum(kernel.stats.cache_misses.values())  # type: ignore[attr-defined]
    rows = rows_in_memory(np.zeros((1, width), np.float32))
    for make_up in (kept.flush, kept.disable):
        try:
            _call(kernel, kind, rows, importance, effort)
            break
        except Exception:
            with suppress(OSError):
                make_up()
    else:
        _call(kernel, kind, rows, importance, effort)
        return True
    return sum(kernel.stats.cache_misses.values()) > misses  # type: ignore[attr-defined]


def rows_in_memory(wide: F32Array) -> Rows:
    """A float32 array [n, columns] as rows."""
    addresses = wide.ctypes.data + np.arange(len(wide), dtype=np.int64) * wide.strides[0]
    return Rows(addresses, GgmlType.F32, wide.shape[1], False, wide)


def quantize(
    kernel: Kernel,
    kind: GgmlType,
    rows: Rows,
    importance: F32Array | None,
    widen: Callable[[], F32Array],
    effort: int | None = None,
) -> U8Array | None:
    """Packed bytes [n, row_bytes] of rows, without `effort` as ggml makes them; None if a weight is not finite.

    `importance` is [columns], `effort` the rounds of refinement. `widen` gives the same rows in float32, for blocks that the
    kernel leaves to ggml.
    """
    if importance is not None and (importance.shape != (rows.columns,) or importance.dtype != np.float32):
        raise ValueError(f"an importance of {importance.shape} {importance.dtype} for {rows.columns} columns")
    found = _call(kernel, kind, rows, importance, effort)
    if found is None:
        return None
    packed, redo = found
    if redo.any():
        _redo(kind, packed, np.flatnonzero(redo), importance, widen())
    return packed.reshape(len(rows.addresses), -1)


def _call(
    kernel: Kernel, kind: GgmlType, rows: Rows, importance: F32Array | None, effort: int | None
) -> tuple[U8Array, U8Array] | None:
    width, size = ggml.block_size(kind)
    blocks = len(rows.addresses) * rows.columns // width
    packed, redo = np.empty(blocks * size, np.uint8), np.empty(blocks, np.uint8)
    is_finite = kernel(rows.addresses, int(rows.dtype), rows.columns, rows.normalise, importance, effort, packed, redo)
    return (packed, redo) if is_finite else None


def _redo(
    kind: GgmlType, packed: U8Array, numbers: npt.NDArray[np.intp], importance: F32Array | None, wide: F32Array
) -> None:
    width, size = ggml.block_size(kind)
    blocks, target = wide.reshape(-1, width), packed.reshape(-1, size)
    if importance is None:
        target[numbers] = ggml.quantize(kind, np.ascontiguousarray(blocks[numbers]))
        return
    by_column = importance.reshape(-1, width)
    for number in numbers:
        target[number] = ggml.quantize(kind, blocks[number : number + 1], by_column[number % len(by_column)])
