"""Which models could be loaded now, for choosing another one: the memory of the one that is loaded counts as free.

Only the model's process can tell: it sees the devices, and knows what it holds itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bq.runtime import fit
from bq.runtime.devices import Device
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation import figures
from bq.runtime.fit import LoadOptions, Machine, Plan
from bq.runtime.fit_advice import describe
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file, file_warnings
from bq.runtime.memory import HOST, MIB, shape_of
from bq.runtime.memory_report import device_of_buffer
from bq.tui.model_file import read_model
from bq.tui.wire import Candidate

if TYPE_CHECKING:
    from bq.runtime.loading import Fit

_WEIGHTS = re.compile(r"(\S+)\s+model buffer size =\s+(\d+(?:\.\d+)?) MiB")
_MAPPED = "_Mapped"


def examine(paths: Sequence[Path], options: LoadOptions, held: Mapping[str, int]) -> tuple[Candidate, ...]:
    """How each of these files would be loaded if what is `held`, bytes by device, were free."""
    from bq.runtime.loading import this_machine

    machine = freed(this_machine(options.rpc), held)
    return tuple(_examine(path, options, machine) for path in paths)


def held_by(found: "Fit", log: str) -> dict[str, int]:
    """The bytes by device that unloading a model frees; `log` is llama.cpp's of its loading.

    Mapped weights count as available already, unless they are locked; those that the processor has in an order of its own do not.
    """
    held = {use.device: use.total for use in found.used.uses}
    held[HOST] = held.get(HOST, 0) - found.used.of(HOST).weights + _host_weights(log, found.plan.mlock)
    return held


def _host_weights(log: str, with_mapped: bool) -> int:
    buffers = [(name, float(mib)) for name, mib in _WEIGHTS.findall(log) if device_of_buffer(name) == HOST]
    return int(MIB * sum(mib for name, mib in buffers if with_mapped or not name.endswith(_MAPPED)))


def freed(machine: Machine, held: Mapping[str, int]) -> Machine:
    """The machine as it is without what is held."""
    shared = sum(held.get(one.name, 0) for one in machine.devices if one.shares_memory)
    memory = machine.memory
    available = min(memory.total_bytes, memory.available_bytes + held.get(HOST, 0) + shared)
    devices = tuple(_freed_device(one, held.get(one.name, 0)) for one in machine.devices)
    return replace(machine, devices=devices, memory=replace(memory, available_bytes=available))


def _freed_device(device: Device, held: int) -> Device:
    return replace(device, free_bytes=min(device.total_bytes, device.free_bytes + held))


def _examine(path: Path, options: LoadOptions, machine: Machine) -> Candidate:
    try:
        return _planned(path, read_model(path), options, machine)
    except BqError as error:
        return Candidate(path, error=str(error))


def _planned(path: Path, file: GgufFile, options: LoadOptions, machine: Machine) -> Candidate:
    from bq.runtime.loading import choose

    known, fits = describe_file(file), True
    try:
        plan = choose(file, machine, options)[0]
    except UsageError:  # there is no such way to load any model
        raise
    except BqError:
        plan, fits = fit.smallest_plan(shape_of(file), machine, options), False
    return Candidate(
        path=path,
        name=known.name,
        variant=known.variant,
        mixture=known.mixture,
        size_bytes=file.size_bytes,
        plan=describe(plan),
        estimate_bytes=plan.estimate.total,
        free_bytes=sum(_free(plan, machine)),
        gpu_layers=plan.setting.gpu_layers,
        cpu_experts=len(plan.relieved),
        layers=plan.layers,
        fits=fits,
        context=plan.setting.ctx,
        warnings=tuple(file_warnings(file)),
        quality=_quality(path),
    )


def _quality(path: Path) -> str:
    found = figures.best_figures(path)
    return figures.describe(found) if found else ""


def _free(plan: Plan, machine: Machine) -> Iterator[int]:
    """Of the devices in use; what shares the host's memory counts with it."""
    sharing = {one.name for one in machine.devices if one.shares_memory}
    return (plan.free_of(use.device) for use in plan.estimate.uses if use.device not in sharing)
