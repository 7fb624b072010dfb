"""ggml's row functions through ctypes: widen, quantize, validate.

They live in libggml-base, which llama-cpp-python installs beside libllama but does not bind. ctypes releases the
interpreter lock during each call, so Python threads use all cores.
"""

import ctypes
import importlib.util
import sys
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.openmp import limit_spins


class GgmlType(IntEnum):
    """Tensor types by ggml's own numbers (`enum ggml_type` in ggml.h), those a Baichuan file can hold."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16  # this one and the others below 3 bits: only in files from elsewhere
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35


_FLOATS = {GgmlType.F32: np.float32, GgmlType.F16: np.float16, GgmlType.BF16: np.uint16}  # bfloat16 as its bits


def library_folder() -> Path:
    """The folder that holds libggml-base and libllama. Raises BqError if llama-cpp-python is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise BqError(
            say("llama-cpp-python is not installed.", "没有安装 llama-cpp-python。"),
            say(
                "Run `make demo`, or `pip install llama-cpp-python`.",
                "请运行 `make demo` 或 `pip install llama-cpp-python`。",
            ),
        )
    return Path(spec.submodule_search_locations[0]) / "lib"


def open_library(name: str) -> ctypes.CDLL:
    """One of llama.cpp's libraries, "ggml-base" or "ggml". Raises BqError if it cannot be loaded."""
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    path = library_folder() / f"{'' if sys.platform == 'win32' else 'lib'}{name}{suffix}"
    limit_spins()
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BqError(
            say(
                f"llama.cpp's library {path.name} cannot be loaded: {error}.",
                f"无法加载 llama.cpp 的库 {path.name}：{error}。",
            ),
            say("Install llama-cpp-python 0.3.36 or newer again.", "请重新安装 llama-cpp-python 0.3.36 或更新的版本。"),
        ) from None


@cache
def _ggml() -> ctypes.CDLL:
    lib = open_library("ggml-base")
    size, pointer, kind = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    lib.ggml_quantize_chunk.argtypes = [kind, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer]
    lib.ggml_quantize_chunk.restype = size
    lib.ggml_quantize_init.argtypes = [kind]
    lib.ggml_quantize_init.restype = None
    lib.ggml_blck_size.argtypes = [kind]
    lib.ggml_blck_size.restype = ctypes.c_int64
    lib.ggml_type_size.argtypes = [kind]
    lib.ggml_type_size.restype = size
    lib.ggml_validate_row_data.argtypes = [kind, pointer, size]
    lib.ggml_validate_row_data.restype = ctypes.c_bool
    for name in ("ggml_bf16_to_fp32_row", "ggml_fp16_to_fp32_row"):
        getattr(lib, name).argtypes = [pointer, pointer, ctypes.c_int64]
        getattr(lib, name).restype = None
    return lib


@cache
def block_size(kind: GgmlType) -> tuple[int, int]:
    """(weights per block, bytes per block) of a type."""
    return int(_ggml().ggml_blck_size(kind)), int(_ggml().ggml_type_size(kind))


def row_bytes(kind: GgmlType, columns: int) -> int:
    """Bytes of one row of `columns` weights; `columns` must be a multiple of the block."""
    weights, size = block_size(kind)
    if columns % weights:
        raise ValueError(f"{columns} columns are no multiple of {weights}")
    return columns // weights * size


def prepare(kind: GgmlType) -> None:
    """Build the search tables of a type once, before threads need them (they are kept for the process)."""
    _ggml().ggml_quantize_init(kind)


def widen(source: npt.NDArray[np.generic], target: npt.NDArray[np.float32]) -> None:
    """Copy `source` (float32, float16, or uint16 holding bfloat16) to `target` of the same count, in float32.

    ggml's bfloat16 rows widen an order of magnitude faster than numpy's shifts.
    """
    if source.dtype == np.float32:
        np.copyto(target.reshape(source.shape), source)
        return
    function = _ggml().ggml_fp16_to_fp32_row if source.dtype == np.float16 else _ggml().ggml_bf16_to_fp32_row
    function(source.ctypes.data, target.ctypes.data, source.size)


def dequantize(kind: GgmlType, packed: npt.NDArray[np.uint8], columns: int) -> npt.NDArray[np.float32]:
    """Packed rows [n, row_bytes] of any type -> [n, columns] float32."""
    wide = np.empty((len(packed), columns), np.float32)
    if packed.shape != (len(packed), row_bytes(kind, columns)):
        raise ValueError(f"{packed.shape} bytes are no rows of {columns} weights of {kind.name}")
    source = np.ascontiguousarray(packed)
    if kind in _FLOATS:
        widen(source.view(_FLOATS[kind]), wide)
        return wide
    # The names of ggml-quants.h: dequantize_row_q4_K, dequantize_row_iq4_nl.
    function = getattr(_ggml(), f"dequantize_row_{kind.name.lower().replace('_k', '_K')}")
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64], None
    function(source.ctypes.data, wide.ctypes.data, wide.size)
    return wide


def quantize(
    kind: GgmlType, rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """`rows` [n, columns] float32, contiguous -> the packed bytes [n, row_bytes] as llama.cpp itself would make them.

    `importance` [columns] is what each column's errors weigh (a row of an importance matrix).
    """
    n, columns = rows.shape
    if importance is not None and importance.shape != (columns,):
        raise ValueError(f"an importance of {importance.shape} for {columns} columns")
    packed = np.empty((n, row_bytes(kind, columns)), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    written = _ggml().ggml_quantize_chunk(kind, rows.ctypes.data, packed.ctypes.data, 0, n, columns, weights)
    if written != packed.nbytes:
        raise RuntimeError(f"ggml wrote {written} bytes where {packed.nbytes} were expected")
    return packed


def is_valid(kind: GgmlType, data: npt.NDArray[np.uint8]) -> bool:
    """Whether whole rows of a type hold only finite values (ggml reports the first bad block on stderr)."""
    return bool(_ggml().ggml_validate_row_data(kind, data.ctypes.data, data.nbytes))
