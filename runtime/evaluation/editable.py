"""A model in memory whose weights can be replaced, matrix by matrix: for asking what a change of some of them does to the output.

llama.cpp makes the tensors and has them filled by the caller (llama_model_init_from_user); their addresses are kept, and
ggml_backend_tensor_set fills them again, on whatever device they lie. No file is written for any of it.
"""

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.evaluation.decoder import BATCH, Decoder
from bq.runtime.fit import Plan
from bq.runtime.ggml import GgmlType, open_library, row_bytes
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.language import say
from bq.runtime.llama import library
from bq.runtime.loading import choose, load_planned, this_machine
from bq.runtime.tensor_parts import is_matrix, rows_of
from bq.runtime.values import LoadOptions

F32Array = npt.NDArray[np.float32]
# What stands for unquantized weights, the first that the memory has room for. Half precision keeps 11 bits of a weight where the
# releases have 8; Q8_0's error is a tenth of a 4-bit type's.
_CARRIERS = (GgmlType.F16, GgmlType.Q8_0)
_SCALES = (b".scale", b".input_scale")


@dataclass(frozen=True)
class Editable:
    """A decoder, and the tensors that it computes with, as they are held in memory. They are empty until they are set."""

    decoder: Decoder
    plan: Plan
    carrier: GgmlType  # what the matrices are held in; norms and routers are F32
    entries: Mapping[str, TensorEntry]
    _pointers: Mapping[str, int]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set_rows(self, name: str, first: int, rows: F32Array) -> None:
        """Replace rows of a tensor, [n, columns], from row `first` on; a norm is one row, and experts stand one below the other.
        Rounded to the type that holds them.

        From any thread: they are rounded at the same time, and put in one after the other, as a backend may need it.
        """
        entry = self.entries[name]
        columns = entry.shape[-1]
        if (
            rows.ndim != 2
            or rows.shape[1] != columns
            or first + len(rows) > entry.size_bytes // row_bytes(entry.kind, columns)
        ):
            raise ValueError(f"{rows.shape} from row {first} on for {name}, which is {entry.shape}")
        packed = ggml.quantize(entry.kind, np.ascontiguousarray(rows))
        offset = first * row_bytes(entry.kind, columns)
        with self._lock:
            _base().ggml_backend_tensor_set(self._pointers[name], packed.ctypes.data, offset, packed.nbytes)


@contextmanager
def open_editable(file: GgufFile, context: int, first: int, options: LoadOptions) -> Iterator[Editable]:
    """The model of a checked file, of whose tensors only names and shapes count. `context` and `first` as in open_decoder.

    Raises BqError where the memory does not hold it in any of the types that would do.
    """
    batch = min(BATCH, context)
    chosen = replace(options, ctx=context, batch=batch, outputs=max(1, min(batch, context - first)), mmap=False)
    carried, plan = _fitting(file, chosen)
    pointers: dict[str, int] = {}
    with (
        _header(carried) as header,
        load_planned(carried, plan, lambda params: _make(header, params, pointers)) as model,
    ):
        _make_idle([pointer for name, pointer in pointers.items() if name not in carried.tensors])
        kinds = {entry.kind for entry in carried.tensors.values() if is_matrix(entry)}
        yield Editable(Decoder(model, batch), plan, kinds.pop(), carried.tensors, pointers)


def _fitting(file: GgufFile, options: LoadOptions) -> tuple[GgufFile, Plan]:
    """The file as if its matrices were of the first type that the memory has room for, and how to load it."""
    machine = this_machine(options.rpc)
    for carrier in _CARRIERS:
        carried = _in_type(file, carrier)
        try:
            return carried, choose(carried, machine, options)[0]
        except BqError as error:
            refused = error
    raise refused


def _in_type(file: GgufFile, kind: GgmlType) -> GgufFile:
    entries = {}
    for name, entry in file.tensors.items():
        held = kind if is_matrix(entry) else GgmlType.F32
        entries[name] = replace(entry, kind=held, size_bytes=rows_of(entry) * row_bytes(held, entry.shape[-1]))
    return replace(file, tensors=entries)


@cache
def _base() -> ctypes.CDLL:
    lib = open_library("ggml-base")
    size, pointer, kind = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int
    lib.gguf_init_from_file.argtypes, lib.gguf_init_from_file.restype = [ctypes.c_char_p, _InitParams], pointer
    lib.gguf_set_tensor_type.argtypes, lib.gguf_set_tensor_type.restype = [pointer, ctypes.c_char_p, kind], None
    lib.gguf_free.argtypes, lib.gguf_free.restype = [pointer], None
    lib.ggml_get_name.argtypes, lib.ggml_get_name.restype = [pointer], ctypes.c_char_p
    lib.ggml_nbytes.argtypes, lib.ggml_nbytes.restype = [pointer], size
    lib.ggml_backend_tensor_set.argtypes = [pointer, pointer, size, size]
    lib.ggml_backend_tensor_set.restype = None
    return lib


class _InitParams(ctypes.Structure):
    """struct gguf_init_params (gguf.h)."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


@contextmanager
def _header(carried: GgufFile) -> Iterator[int]:
    """llama.cpp's view of the file's header, the tensors in the types that they are to be held in."""
    lib = _base()
    context = lib.gguf_init_from_file(os.fsencode(carried.path), _InitParams(True, None))
    if not context:
        raise BqError(
            say(
                f"llama.cpp cannot read the header of {carried.path.name}.",
                f"llama.cpp 无法读取 {carried.path.name} 的文件头。",
            )
        )
    try:
        for name, entry in carried.tensors.items():
            lib.gguf_set_tensor_type(context, name.encode(), entry.kind)
        yield context
    finally:
        lib.gguf_free(context)


def _make(header: int, params: Any, pointers: dict[str, int]) -> Any:
    """The model with its tensors not filled; their addresses go to `pointers`."""
    lib, base = library(), _base()

    def keep(tensor: int, _: object) -> None:
        pointers[base.ggml_get_name(tensor).decode()] = tensor

    # A tensor that is kept in an order of the processor's own can only be set as a whole (ggml-cpu/repack.cpp).
    params.use_extra_bufts = False
    return lib.llama_model_init_from_user(header, lib.llama_model_set_tensor_data_t(keep), None, params)


def _make_idle(pointers: Iterable[int]) -> None:
    """Let the tensors that no Baichuan file has do nothing: llama.cpp makes biases and scales where it cannot look into a file."""
    base = _base()
    for tensor in pointers:
        value = 1.0 if base.ggml_get_name(tensor).endswith(_SCALES) else 0.0
        size = int(base.ggml_nbytes(tensor))
        values = np.full(size // 4, value, np.float32)
        base.ggml_backend_tensor_set(tensor, values.ctypes.data, 0, size)
