"""What llama.cpp's evaluation callback is given, a pointer to a node of the graph, read as the matrix product that it may be.

The pointer leads to a struct ggml_tensor (ggml.h) that llama.cpp does not promise to keep as it is. So its layout is compared
with what libggml-base's own functions say of tensors made for that; another layout is refused before any pointer is followed.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType, open_library
from bq.runtime.language import say

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
_POINTER = ctypes.c_void_p
_I32 = 26  # enum ggml_type: a type of numbers, not of weights
_COLUMNS, _OUTPUTS, _ROWS = 4, 6, 5  # of the tensors made for the comparison
_CONTEXT_BYTES = 1 << 16  # room for their descriptions
_PRODUCT, _INDIRECT = b"MUL_MAT", b"MUL_MAT_ID"  # what ggml_op_desc calls them
_EXPERTS, _USED = 3, 2  # of the tensors made for the second


class _Tensor(ctypes.Structure):
    """struct ggml_tensor; ne and nb are elements and bytes per step of each dimension, the innermost first."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", _POINTER),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", _POINTER * 10),
        ("view_src", _POINTER),
        ("view_offs", ctypes.c_size_t),
        ("data", _POINTER),
        ("name", ctypes.c_char * 64),
    ]


class _InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", _POINTER), ("no_alloc", ctypes.c_bool)]


# Result and arguments of what is called (ggml.h, ggml-alloc.h, ggml-backend.h).
_FUNCTIONS = {
    "ggml_init": (_POINTER, [_InitParams]),
    "ggml_free": (None, [_POINTER]),
    "ggml_new_tensor_2d": (_POINTER, [_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]),
    "ggml_new_tensor_3d": (_POINTER, [_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64]),
    "ggml_mul_mat": (_POINTER, [_POINTER, _POINTER, _POINTER]),
    "ggml_mul_mat_id": (_POINTER, [_POINTER, _POINTER, _POINTER, _POINTER]),
    "ggml_set_name": (_POINTER, [_POINTER, ctypes.c_char_p]),
    "ggml_get_name": (_POINTER, [_POINTER]),
    "ggml_get_data": (_POINTER, [_POINTER]),
    "ggml_op_desc": (ctypes.c_char_p, [_POINTER]),
    "ggml_nbytes": (ctypes.c_size_t, [_POINTER]),
    "ggml_nelements": (ctypes.c_int64, [_POINTER]),
    "ggml_element_size": (ctypes.c_size_t, [_POINTER]),
    "ggml_backend_cpu_buffer_type": (_POINTER, []),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, [_POINTER, _POINTER]),
    "ggml_backend_buffer_free": (None, [_POINTER]),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, [_POINTER]),
    "ggml_backend_tensor_get": (None, [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_size_t]),
}


@dataclass(frozen=True)
class Product:
    """A product of a named matrix with `input`, a pointer for `rows_of`.

    Of the matrices of experts, `experts` points to those that each token goes through, for `ids_of`; 0 for one matrix.
    """

    matrix: str
    input: int
    experts: int = 0


def product(node: int) -> Product | None:
    """The node as a product, None if it computes something else."""
    tensor = _Tensor.from_address(node)
    if tensor.op not in (_product_number(), _indirect_number()):
        return None
    name = ctypes.string_at(_base().ggml_get_name(tensor.src[0])).decode("utf-8", "replace")
    experts = tensor.src[2] if tensor.op == _indirect_number() else 0
    return Product(_plain(name), tensor.src[1], experts)


def rows_of(pointer: int) -> Rows:
    """The values of a tensor of the graph, [n, columns], from whatever device; they hold until the callback returns."""
    values = _values(pointer, GgmlType.F32, np.float32)
    rows: Rows = values.reshape(-1, values.shape[-1])
    return rows


def expert_rows_of(pointer: int) -> Rows:
    """What experts are multiplied with, [tokens, experts of a token, columns]; 1 in the middle where all have the same."""
    rows: Rows = _values(pointer, GgmlType.F32, np.float32)[0]
    return rows


def ids_of(pointer: int) -> Ids:
    """The experts of each token, [tokens, experts of a token]."""
    ids: Ids = _values(pointer, _I32, np.int32)[0, 0]
    return ids


def _values(pointer: int, kind: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A tensor of four dimensions, the outermost first."""
    tensor = _Tensor.from_address(pointer)
    if tensor.type != kind or not tensor.data or not tensor.buffer:
        raise _unexpected(say(f"an input is no {dtype.__name__}", f"输入不是 {dtype.__name__}"))
    shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
    values: npt.NDArray[Any] = np.ndarray(shape, dtype, _host_bytes(pointer, tensor), 0, strides)
    return values


def _host_bytes(pointer: int, tensor: _Tensor) -> memoryview:
    base, size = _base(), _base().ggml_nbytes(pointer)
    if base.ggml_backend_buffer_is_host(tensor.buffer):
        return memoryview((ctypes.c_char * size).from_address(tensor.data))
    data = (ctypes.c_char * size)()
    base.ggml_backend_tensor_get(pointer, data, 0, size)
    return memoryview(data)


def _plain(name: str) -> str:
    """A matrix's name without what llama.cpp adds to that of a copy on another device: CUDA0#blk.0.attn_k.weight#0."""
    return name.split("#")[1] if "#" in name else name


@cache
def _product_number() -> int:
    """The number of the operation in this llama.cpp. Raises BqError if its tensors are not laid out as here."""
    with _example() as (buffer, matrix, values, result):
        known = _compared(buffer, matrix, values, result)
        wrong = [what for what, (found, expected) in known.items() if found != expected]
        if wrong:
            raise _unexpected(", ".join(wrong))
        return int(_Tensor.from_address(result).op)


def check_layout() -> None:
    """Raises BqError for a llama.cpp whose tensors are laid out otherwise."""
    _product_number()
    _indirect_number()


@cache
def _indirect_number() -> int:
    """The number of the product with the matrices of experts. Raises BqError if its inputs are not where they are looked for."""
    base = _base()
    context = base.ggml_init(_InitParams(_CONTEXT_BYTES, None, True))
    try:
        matrices = base.ggml_new_tensor_3d(context, GgmlType.F16, _COLUMNS, _OUTPUTS, _EXPERTS)
        values = base.ggml_new_tensor_3d(context, GgmlType.F32, _COLUMNS, _USED, _ROWS)
        ids = base.ggml_new_tensor_2d(context, _I32, _USED, _ROWS)
        result = base.ggml_mul_mat_id(context, matrices, values, ids)
        found = _Tensor.from_address(result)
        sources = [*found.src][:4]
        if base.ggml_op_desc(result) != _INDIRECT or sources != [matrices, values, ids, None]:
            raise _unexpected("MUL_MAT_ID")
        if _Tensor.from_address(ids).type != _I32:
            raise _unexpected("I32")
        return int(found.op)
    finally:
        base.ggml_free(context)


def _compared(buffer: int, matrix: int, values: int, result: int) -> dict[str, tuple[object, object]]:
    """Each field that is read, as the struct has it and as it must be."""
    base = _base()
    first, second, third = (_Tensor.from_address(one) for one in (matrix, values, result))
    return {
        "type": ([first.type, second.type], [GgmlType.F16, GgmlType.F32]),
        "buffer": ([first.buffer, second.buffer, third.buffer], [buffer] * 3),
        "ne": (
            [*first.ne, *second.ne, *third.ne],
            [_COLUMNS, _OUTPUTS, 1, 1, _COLUMNS, _ROWS, 1, 1, _OUTPUTS, _ROWS, 1, 1],
        ),
        "nb": ([*second.nb], [base.ggml_element_size(values), 16, base.ggml_nbytes(values), base.ggml_nbytes(values)]),
        "count": (second.ne[0] * second.ne[1], base.ggml_nelements(values)),
        "op": ([second.op, third.op > 0, base.ggml_op_desc(result)], [0, True, _PRODUCT]),
        "src": ([*third.src], [matrix, values, *[None] * 8]),
        "view": ([third.view_src, third.view_offs], [None, 0]),
        "data": ([first.data, second.data], [base.ggml_get_data(one) for one in (matrix, values)]),
        "name": (matrix + _Tensor.name.offset, base.ggml_get_name(matrix)),
    }


@contextmanager
def _example() -> Iterator[tuple[int, int, int, int]]:
    """A buffer with a matrix, what it is multiplied with, and the result, none of which has values."""
    base = _base()
    context = base.ggml_init(_InitParams(_CONTEXT_BYTES, None, True))
    matrix = base.ggml_new_tensor_2d(context, GgmlType.F16, _COLUMNS, _OUTPUTS)
    values = base.ggml_new_tensor_2d(context, GgmlType.F32, _COLUMNS, _ROWS)
    result = base.ggml_mul_mat(context, matrix, values)
    buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(context, base.ggml_backend_cpu_buffer_type())
    try:
        yield buffer, matrix, values, result
    finally:
        base.ggml_backend_buffer_free(buffer)
        base.ggml_free(context)


@cache
def _base() -> ctypes.CDLL:
    base = open_library("ggml-base")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(base, name, None)
        if function is None:
            raise _unexpected(name)
        function.restype, function.argtypes = result, arguments
    return base


def _unexpected(what: str) -> BqError:
    return BqError(
        say(
            f"This llama.cpp does not show what it computes as bq knows it ({what}).",
            f"此 llama.cpp 展示计算过程的方式与 bq 所知不符（{what}）。",
        ),
        say("Install llama-cpp-python 0.3.36.", "请安装 llama-cpp-python 0.3.36。"),
    )
