"""What llama.cpp sees of this machine: its devices with their memory, and what this build of it can do.

The bindings do not name these functions; they are taken from libggml and libggml-base, which lie beside libllama.
"""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bq.runtime.errors import UsageError
from bq.runtime.ggml import open_library
from bq.runtime.language import say
from bq.runtime.llama import library

Kind = Literal["cpu", "gpu", "igpu", "accel", "other"]
_KINDS: dict[int, Kind] = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}  # enum ggml_backend_dev_type
_METAL = "MTL"  # a Mac's GPU calls itself a discrete one, and has the host's memory all the same


@dataclass(frozen=True)
class Device:
    """A device as llama.cpp names it ("CUDA0"), memory in bytes; 0 of 0 means that it does not say."""

    name: str
    description: str
    kind: Kind
    backend: str
    total_bytes: int
    free_bytes: int
    id: str = ""

    @property
    def shares_memory(self) -> bool:
        """Whether its memory is the machine's own."""
        return self.kind == "igpu" or self.backend == _METAL


@dataclass(frozen=True)
class Build:
    """What this build of llama.cpp can do; `features` are those that its system info tells, e.g. "AVX2", "OPENMP"."""

    version: str
    features: tuple[str, ...]
    offload: bool
    mmap: bool
    mlock: bool
    rpc: bool


class _Props(ctypes.Structure):
    """struct ggml_backend_dev_props (ggml-backend.h); the capabilities at its end are five bools."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("caps", ctypes.c_bool * 16),
    ]


def devices() -> tuple[Device, ...]:
    """Every device of this build, with the memory that is free now."""
    return tuple(_device(handle) for handle in _handles())


def usable_gpus(found: Sequence[Device]) -> tuple[Device, ...]:
    """Those that llama.cpp would put layers on, in its order: each discrete GPU once, else those inside the processor."""
    gpus: list[Device] = []
    for device in found:
        if device.kind == "gpu" and not (device.id and device.id in {other.id for other in gpus}):
            gpus.append(device)
    inside = [device for device in found if device.kind == "igpu"]
    return tuple(gpus or [device for device in inside if device.backend == inside[0].backend])


def choose_devices(found: Sequence[Device], wanted: str | None) -> tuple[Device, ...]:
    """The GPUs to use: all, or those that `wanted` names ("CUDA0", "CUDA0,CUDA1"; "cpu" for none).

    Raises UsageError for a name that no GPU has.
    """
    gpus = usable_gpus(found)
    if wanted is None:
        return gpus
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if [name.lower() for name in names] in (["cpu"], ["none"]):
        return ()
    known = {device.name.lower(): device for device in found if device.kind in ("gpu", "igpu")}
    for name in names:
        if name.lower() not in known:
            listed = ", ".join([*(device.name for device in known.values()), "cpu"])
            raise UsageError(
                say(f"There is no device {name}.", f"没有设备 {name}。"),
                say(f"Known here: {listed}. `bq doctor` tells more.", f"可用的有：{listed}。详见 `bq doctor`。"),
            )
    if not names:
        raise UsageError(
            say("--device names no device.", "--device 没有指定设备。"),
            say("Give names as `bq doctor` shows them, or cpu.", "请给出 `bq doctor` 所列的名称，或 cpu。"),
        )
    return tuple(dict.fromkeys(known[name.lower()] for name in names))


def device_list(chosen: Sequence[Device]) -> Any:
    """The array that llama_model_params.devices takes: the chosen ones and a null."""
    by_name = {_device(handle).name: handle for handle in _handles()}
    return (ctypes.c_void_p * (len(chosen) + 1))(*(by_name[device.name] for device in chosen), None)


def build() -> Build:
    """What this build of llama.cpp can do."""
    lib = library()
    import llama_cpp  # which would load the library too, before it is told how to wait

    return Build(
        version=str(getattr(llama_cpp, "__version__", "?")),
        features=parse_system_info(lib.llama_print_system_info().decode("utf-8", "replace")),
        offload=bool(lib.llama_supports_gpu_offload()),
        mmap=bool(lib.llama_supports_mmap()),
        mlock=bool(lib.llama_supports_mlock()),
        rpc=bool(lib.llama_supports_rpc()),
    )


def parse_system_info(text: str) -> tuple[str, ...]:
    """ "CPU : AVX2 = 1 | LLAMAFILE = 1 | REPACK = 0 | " -> ("AVX2", "LLAMAFILE"); values other than 0 and 1 stay."""
    found = []
    for part in text.split("|"):
        name, is_set, value = part.rpartition("=")
        name, value = name.rpartition(":")[2].strip(), value.strip()
        if is_set and name and value != "0":
            found.append(name if value == "1" else f"{name}={value}")
    return tuple(dict.fromkeys(found))


def unused_gpus(root: Path = Path("/")) -> tuple[str, ...]:
    """GPUs that this machine has by what its drivers show, for a build that uses none."""
    if sys.platform == "darwin":
        return ("Apple",) if _is_apple_silicon() else ()
    if sys.platform == "win32":
        return ("NVIDIA",) if (root / "Windows/System32/nvcuda.dll").is_file() else ()
    found = [_nvidia_name(folder) for folder in sorted(root.glob("proc/driver/nvidia/gpus/*"))]
    if not found and (root / "dev/nvidia0").exists():
        found.append("NVIDIA")
    return (*found, "AMD") if (root / "dev/kfd").exists() else tuple(found)


def _is_apple_silicon() -> bool:
    import platform

    return platform.machine() == "arm64"


def _nvidia_name(folder: Path) -> str:
    try:
        lines = (folder / "information").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names[0] if names and names[0] else "NVIDIA"


def _device(handle: int) -> Device:
    base = _functions()[1]
    props = _Props()
    base.ggml_backend_dev_get_props(handle, ctypes.byref(props))
    backend = base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(handle))
    return Device(
        name=_text(props.name),
        description=_text(props.description),
        kind=_KINDS.get(props.type, "other"),
        backend=_text(backend),
        total_bytes=int(props.memory_total),
        free_bytes=int(props.memory_free),
        id=_text(props.device_id),
    )


def _handles() -> list[int]:
    ggml = _functions()[0]
    return [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]


@cache
def _functions() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml, which knows the devices, and libggml-base, which asks them."""
    library()  # registers the backends
    ggml, base = open_library("ggml"), open_library("ggml-base")
    pointer = ctypes.c_void_p
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes, ggml.ggml_backend_dev_get.restype = [ctypes.c_size_t], pointer
    base.ggml_backend_dev_get_props.argtypes = [pointer, ctypes.POINTER(_Props)]
    base.ggml_backend_dev_get_props.restype = None
    base.ggml_backend_dev_backend_reg.argtypes, base.ggml_backend_dev_backend_reg.restype = [pointer], pointer
    base.ggml_backend_reg_name.argtypes, base.ggml_backend_reg_name.restype = [pointer], ctypes.c_char_p
    return ggml, base


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
