"""Chooses how a model is loaded: what goes to the GPU, how long the context is, in which type keys and values are kept.

A pure function of the file's shape, the machine and what the user wants. Given options are never changed. The order of
preference: all on the GPU with the whole context in f16; keys and values in q8_0, which loses next to nothing; a shorter
context; of a mixture of experts the experts of some layers in main memory, of as few as possible; fewer layers on the GPU; the
CPU alone. What comes after the first choice is tried when an allocation fails.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bq.runtime.cpu import Cores, threads_for
from bq.runtime.devices import Device, choose_devices
from bq.runtime.engine import MOST_OUTPUTS
from bq.runtime.experts import layers_relieved
from bq.runtime.host import Memory
from bq.runtime.memory import HOST, KV_TYPES, MIB, Estimate, Setting, Shape, estimate, padded
from bq.runtime.values import LoadOptions as LoadOptions  # of this module's functions, for those who call them

DEFAULT_BATCH = 512
# No shorter by itself: half of it is the room for an answer, and the other half a question of a page.
LEAST_CONTEXT = 2048
# No longer by itself, for keys and values of 131,072 tokens, which some are trained for, take more than many models.
MOST_CONTEXT = 32768
_SHORTER_BY, _SHORTER_PART = 512, 16  # tokens: contexts are tried in such steps, or of this part of a long one
_COUNTS = 16  # of layers that leave the GPU, or whose experts do: about so many are tried with each shorter context
_GPU_MARGIN = 1024 * MIB  # llama.cpp's own fit leaves as much: the driver, cuBLAS and the desktop take some of it
_HOST_MARGIN = 512 * MIB
_GPU_SHARE, _HOST_SHARE = 8, 16  # the margin is at most this part of a small device's memory
_SMALLER = 0.8  # a next try takes at most this part of the last one's memory, so that tries are few


@dataclass(frozen=True)
class Machine:
    """What there is to load a model into."""

    devices: tuple[Device, ...]
    memory: Memory
    cores: Cores


@dataclass(frozen=True)
class Plan:
    """One way to load a model, what it will take, and what is free for it (device name, bytes)."""

    setting: Setting
    devices: tuple[str, ...]
    threads: int
    threads_batch: int
    mmap: bool | None
    mlock: bool
    estimate: Estimate
    free: tuple[tuple[str, int], ...]
    layers: int  # that could be on a GPU: the blocks and the output
    trained: int  # the longest context
    experts: int = 0  # layers that have experts

    @property
    def relieved(self) -> tuple[int, ...]:
        """The layers on a GPU whose experts are in main memory."""
        setting = self.setting
        return layers_relieved(self.experts, setting.gpu_layers, setting.cpu_experts) if self.devices else ()

    def free_of(self, device: str) -> int:
        """Bytes free on a device before loading."""
        return dict(self.free).get(device, 0)


@dataclass(frozen=True)
class Shortage:
    """A device that a plan does not fit into; bytes."""

    device: str
    needed: int
    free: int


def plans(shape: Shape, machine: Machine, options: LoadOptions) -> list[Plan]:
    """The best way that fits, and smaller ones for when it fails after all. Empty if nothing fits."""
    gpus = _gpus(machine, options)
    ways = [make_plan(shape, one, machine, options) for one in dict.fromkeys(settings(shape, bool(gpus), options))]
    return list(_thinned([plan for plan in ways if not shortages(plan, machine, options)]))


def smallest_plan(shape: Shape, machine: Machine, options: LoadOptions) -> Plan:
    """What comes nearest to fitting where nothing does: no GPU is overfilled, which would fail at once, and the host's memory,
    of which mapped weights can be read again, is taken as little as possible."""
    gpus = _gpus(machine, options)
    ways = [make_plan(shape, one, machine, options) for one in settings(shape, bool(gpus), options)]
    return min(ways, key=lambda plan: (_overfull(plan, machine, options), plan.estimate.of(HOST).total))


def _overfull(plan: Plan, machine: Machine, options: LoadOptions) -> int:
    """Bytes wanted of the GPUs that have too few."""
    return sum(one.needed for one in shortages(plan, machine, options) if one.device != HOST)


def settings(shape: Shape, has_gpu: bool, options: LoadOptions) -> Iterator[Setting]:
    """All ways that the options allow, the best first."""
    base, layers, given = _first(shape, options), len(shape.blocks) + 1, options.gpu_layers
    contexts = [base.ctx, *([] if options.ctx else _shorter(base.ctx))]
    kinds = [options.kv] if options.kv else list(KV_TYPES)
    small, experts = replace(base, kv=kinds[-1]), _expert_counts(shape, options)
    if has_gpu:
        count = layers if given is None else min(given, layers)
        yield from _whole(replace(base, gpu_layers=count, cpu_experts=experts[0]), kinds, contexts)
        for ctx, n in _thinned_pairs(contexts, experts[1:]):
            yield replace(small, ctx=ctx, gpu_layers=count, cpu_experts=n)
    if has_gpu and given is None:
        for ctx, n in _thinned_pairs(contexts, range(layers - 1, 0, -1)):
            yield replace(small, ctx=ctx, gpu_layers=n, cpu_experts=experts[-1])
    if not has_gpu or given is None:
        yield from _whole(base, kinds, contexts)


def _first(shape: Shape, options: LoadOptions) -> Setting:
    """On the host, with the longest context and the first type of keys and values."""
    longest = shape.trained * options.n_seq if options.n_seq > 1 else shape.trained
    return Setting(
        ctx=min(padded(options.ctx), longest) if options.ctx else min(shape.trained, MOST_CONTEXT),
        kv=options.kv or next(iter(KV_TYPES)),
        batch=options.batch or DEFAULT_BATCH,
        sequences=options.n_seq,
        outputs=max(options.outputs, MOST_OUTPUTS, options.n_seq),
    )


def _whole(base: Setting, kinds: Sequence[str], contexts: Sequence[int]) -> Iterator[Setting]:
    """With the whole context in every type, then with shorter ones in the smallest."""
    yield from (replace(base, kv=kind) for kind in kinds)
    yield from (replace(base, kv=kinds[-1], ctx=ctx) for ctx in contexts[1:])


def _thinned_pairs(contexts: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Every count with the whole context, and with each shorter one some of them, the last among them."""
    for ctx in contexts:
        step = 1 if ctx == contexts[0] else max(1, len(counts) // _COUNTS)
        yield from ((ctx, count) for count in counts[::-step][::-1])


def _expert_counts(shape: Shape, options: LoadOptions) -> range:
    """Of how many layers the experts may be in main memory, the fewest first."""
    most, given = len(shape.expert_blocks), options.cpu_experts
    return range(most + 1) if given is None else range(min(given, most), min(given, most) + 1)


def make_plan(shape: Shape, setting: Setting, machine: Machine, options: LoadOptions) -> Plan:
    """A setting with its estimate and the rest that follows from the machine."""
    gpus = _gpus(machine, options) if setting.gpu_layers else ()
    found = estimate(shape, setting, gpus)
    layers = len(shape.blocks) + 1
    # With all layers and their experts on a GPU the CPU only looks up embeddings.
    is_idle = setting.gpu_layers >= layers and not setting.cpu_experts
    threads = options.threads or (1 if is_idle else threads_for(found.of(HOST).weights, machine.cores))
    return Plan(
        setting=setting,
        devices=tuple(gpu.name for gpu in gpus),
        threads=threads,
        threads_batch=threads,
        mmap=options.mmap,
        mlock=options.mlock,
        estimate=found,
        free=((HOST, machine.memory.available_bytes), *((gpu.name, gpu.free_bytes) for gpu in gpus)),
        layers=layers,
        trained=shape.trained,
        experts=len(shape.expert_blocks),
    )


def shortages(plan: Plan, machine: Machine, options: LoadOptions) -> list[Shortage]:
    """The devices that a plan does not fit into, the margin that stays free included.

    Layers that were asked for are put on a GPU that seems too small, once all experts that may have left it.
    """
    by_name = {device.name: device for device in machine.devices}
    gpus = [by_name[name] for name in plan.devices]
    found = []
    if options.gpu_layers is None or (options.cpu_experts is None and plan.setting.cpu_experts < plan.experts):
        found = [_gpu_shortage(plan, gpu) for gpu in gpus]
    shared = sum(plan.estimate.of(gpu.name).total for gpu in gpus if gpu.shares_memory)
    return [one for one in (*found, _host_shortage(plan, machine.memory, shared)) if one]


def _gpu_shortage(plan: Plan, gpu: Device) -> Shortage | None:
    needed = plan.estimate.of(gpu.name).total
    budget = gpu.free_bytes - min(_GPU_MARGIN, gpu.total_bytes // _GPU_SHARE)
    return Shortage(gpu.name, needed, gpu.free_bytes) if needed > budget else None


def _host_shortage(plan: Plan, memory: Memory, shared: int) -> Shortage | None:
    """Mapped weights count too: they can be dropped, but would be read again for every token."""
    needed = plan.estimate.of(HOST).total + shared
    budget = memory.available_bytes - min(_HOST_MARGIN, memory.total_bytes // _HOST_SHARE)
    return Shortage(HOST, needed, memory.available_bytes) if memory.total_bytes and needed > budget else None


def _gpus(machine: Machine, options: LoadOptions) -> tuple[Device, ...]:
    return () if options.gpu_layers == 0 else choose_devices(machine.devices, options.device)


def _shorter(context: int) -> list[int]:
    step = max(1, context // _SHORTER_PART // _SHORTER_BY) * _SHORTER_BY
    longest = (context - 1) // step * step
    return [*range(longest, LEAST_CONTEXT, -step), LEAST_CONTEXT] if context > LEAST_CONTEXT else []


def _thinned(ways: Sequence[Plan]) -> Iterator[Plan]:
    """The first, and each after it that takes clearly less of the GPUs' memory, or of the host's where no GPU is left."""
    last: tuple[int, int] | None = None
    for plan in ways:
        host = plan.estimate.of(HOST).total
        gpu = plan.estimate.total - host
        if last is None or (gpu <= _SMALLER * last[0] if last[0] else host <= _SMALLER * last[1]):
            last = (gpu, host)
            yield plan
