"""How much memory llama.cpp says that it took, by device, read from its log: what an estimate is held against."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bq.runtime.memory import HOST, MIB, Estimate, Shape, Use

_REPORTED = re.compile(r"(\S+)\s+(model|KV|compute|output|LoRA) buffer size =\s+(\d+(?:\.\d+)?) MiB")
_FIELD = {"model": "weights", "KV": "kv", "compute": "compute", "output": "other", "LoRA": "adapters"}


@dataclass
class _Sums:
    weights: float = 0.0
    kv: float = 0.0
    compute: float = 0.0
    other: float = 0.0
    adapters: float = 0.0
    mapped: float = 0.0


def reported_use(log: str, shape: Shape) -> Estimate:
    """What llama.cpp says that it took, by device, from its log of one load; what it does not report is left out."""
    sums: dict[str, _Sums] = {HOST: _Sums()}
    # Of 2,000: the expression would take 0.1 s for all.
    lines = (line for line in log.splitlines() if "buffer size" in line)
    for buffer, what, mib in (found for line in lines for found in _REPORTED.findall(line)):
        of = sums.setdefault(device_of_buffer(buffer), _Sums())
        name = _FIELD[what]
        setattr(of, name, getattr(of, name) + float(mib) * MIB)
        if buffer.endswith("_Mapped"):
            of.mapped += float(mib) * MIB
    has_copy = shape.tied and any(of.weights for name, of in sums.items() if name != HOST)
    _take_back_overlap(sums.values(), shape.weights + (shape.embedding if has_copy else 0))
    return Estimate(
        tuple(
            Use(name, int(of.weights), int(of.kv), int(of.compute), int(of.other), int(of.adapters))
            for name, of in sums.items()
        )
    )


def _take_back_overlap(sums: Iterable[_Sums], weights: int) -> None:
    """A mapped buffer is the file from its first to its last tensor, those between that lie elsewhere included."""
    largest = max(sums, key=lambda of: of.mapped)
    too_much = sum(of.weights for of in sums) - weights
    largest.weights -= min(max(0.0, too_much), largest.mapped)


def device_of_buffer(buffer: str) -> str:
    """The device of a buffer's name: "CUDA0", "MTL0_Mapped", "CUDA_Host" and "CPU_REPACK", the last two the host's."""
    name = re.sub(r"_(Mapped|Private|Split)$", "", buffer)
    return HOST if name.startswith("CPU") or name.endswith("_Host") else name
