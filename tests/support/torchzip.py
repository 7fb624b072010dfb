"""Writes torch's zip form of a state dict (`pytorch_model.bin`) without torch, streaming.

Promise: for the same state dict the file has the members, the alignment and the pickle, opcode for opcode, that
`torch.save` writes; only `.data/serialization_id` (a hash of no use to a reader) is a constant.
Two writers are known: torch 2.13, and torch 2.0, which made the released files: it has fewer members and stores them in
the text order of their keys (0, 1, 10, 100, ...).
Source: torch/serialization.py `_save`, torch/_tensor.py `__reduce_ex__`, torch/nn/modules/module.py `state_dict`.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

from tests.support.stored import DType, Storage, Stored, contiguous_strides
from tests.support.zipwriter import ZipWriter

Container = Literal["state_dict", "dict"]
Writer = Literal["torch-2.13", "torch-2.0"]


@dataclass(frozen=True)
class _Global:
    """Stands for a class or function of torch, which is not here to be pickled by reference."""

    module: str
    name: str

    def __call__(self) -> None:
        raise TypeError(f"{self.module}.{self.name} exists only in a pickle")


_REBUILD_TENSOR = _Global("torch._utils", "_rebuild_tensor_v2")
_STORAGE_TYPE: dict[DType, _Global] = {
    "bf16": _Global("torch", "BFloat16Storage"),
    "f16": _Global("torch", "HalfStorage"),
    "f32": _Global("torch", "FloatStorage"),
}


class _Tensor:
    """Reduces as a torch.Tensor does: rebuild(storage, offset, size, stride, requires_grad, backward_hooks)."""

    def __init__(self, tensor: Stored) -> None:
        self._tensor = tensor

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        t = self._tensor
        strides = contiguous_strides(t.shape) if t.strides is None else t.strides
        # Fresh tuples: torch makes them per tensor, so the pickle's memo must not join those of two tensors.
        shape, strides = (tuple(int(n) for n in sizes) for sizes in (t.shape, strides))
        return _REBUILD_TENSOR, (t.storage, t.offset, shape, strides, False, OrderedDict())


class _Pickler(pickle._Pickler):
    """Python's own pickler in the protocol of torch.save, which also numbers the storages it meets."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.keys: dict[Storage, str] = {}

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        key = self.keys.setdefault(obj, str(len(self.keys)))
        return ("storage", _STORAGE_TYPE[obj.dtype], key, "cpu", obj.numel)

    def save_torch_global(self, obj: _Global) -> None:
        here: Any = self
        here.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        here.memoize(obj)

    dispatch[_Global] = save_torch_global


def write_torch_zip(
    path: Path,
    tensors: Iterable[Stored],
    *,
    container: Container = "state_dict",
    writer: Writer = "torch-2.13",
    archive: str | None = None,
) -> None:
    """Write `tensors` as torch.save writes a module's state_dict, or the plain dict of a transformers shard."""
    pickled, keys = _pickle(list(tensors), container)
    prefix = archive or path.stem
    with path.open("wb") as file:
        out = ZipWriter(file)

        def small(name: str, content: bytes) -> None:
            out.add(f"{prefix}/{name}", len(content), [content])

        small("data.pkl", pickled)
        if writer == "torch-2.13":
            small(".format_version", b"1")
            small(".storage_alignment", b"64")
            small("byteorder", b"little")
        for storage, key in sorted(keys.items(), key=lambda item: item[1] if writer == "torch-2.0" else int(item[1])):
            out.add(f"{prefix}/data/{key}", storage.size_bytes, storage.chunks())
        small("version", b"3\n")
        if writer == "torch-2.13":
            small(".data/serialization_id", b"0" * 40)
        out.close()


def _pickle(tensors: list[Stored], container: Container) -> tuple[bytes, dict[Storage, str]]:
    """data.pkl and the key of every storage in it."""
    items = [(tensor.name, _Tensor(tensor)) for tensor in tensors]
    state: Any = dict(items)
    if container == "state_dict":
        state = OrderedDict(items)
        state._metadata = _module_versions([tensor.name for tensor in tensors])
    buffer = BytesIO()
    pickler = _Pickler(buffer)
    pickler.dump(state)
    return buffer.getvalue(), pickler.keys


def _module_versions(names: list[str]) -> OrderedDict[str, dict[str, int]]:
    """A state_dict's `_metadata`: one entry per module, parents first (modules without tensors are not known here)."""
    versions: OrderedDict[str, dict[str, int]] = OrderedDict({"": {"version": 1}})
    for name in names:
        parts = name.split(".")[:-1]
        for depth in range(1, len(parts) + 1):
            versions.setdefault(".".join(parts[:depth]), {"version": 1})
    return versions
