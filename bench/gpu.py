"""What a GPU gives and takes: speed by layers on it, the choice that is made when it has little room, memory foretold and taken.

    .venv/bin/python -m bench.gpu [--models demo 7b | FILE.gguf …] [--parts speed room memory] [--rounds 3]

Needs a build of llama.cpp for CUDA, Metal or another GPU. `speed`: bq's token loop against a bare one, prefill, turns and stops,
with all layers on the GPU and with half of them. `room`: all but so much of the GPU is taken by a buffer of this process, then
the model is loaded as bq chooses. `memory`: what the GPU loses while a model is loaded and answers, against the estimate.
"""

import argparse
import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import models
from bench.loop import measure_loops
from bench.turns import GREEDY, measure_cancel, measure_prefill, measure_turns
from bq.runtime.devices import Device, _functions, _handles, build, devices, usable_gpus
from bq.runtime.errors import BqError
from bq.runtime.loading import LoadOptions, load
from bq.runtime.memory import HOST, MIB
from bq.runtime.model import Model

GIB = 1024 * MIB
FIELDS = ("weights", "kv", "compute", "other")
ROOM_PARTS = (1.4, 0.9, 0.6, 0.3, 0.1)  # of what a model takes on the GPU with all layers and the whole context


def main() -> None:
    """Each part on each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "7b"])
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not usable_gpus(devices()):
        raise SystemExit("This build of llama.cpp sees no GPU; `bq doctor` tells more.")
    print(f"{time.strftime('%Y-%m-%d')}, llama-cpp-python {build().version}")
    for device in devices():
        print(
            f"  {device.name}: {device.description}, {device.free_bytes / GIB:.1f} of {device.total_bytes / GIB:.1f} GiB free"
        )
    for name in arguments.models:
        path = models.named(name)
        print(f"\n== {path.name}: {path.stat().st_size / 1e6:,.0f} MB", flush=True)
        for part in arguments.parts:
            PARTS[part](path, arguments.rounds)


def _speed(path: Path, rounds: int) -> None:
    whole = _layers(path)
    for layers in (whole, whole // 2):
        with load(path, LoadOptions(ctx=4096, gpu_layers=layers)) as model:
            plan = model.fit.plan
            print(
                f"-- {plan.setting.gpu_layers} of {plan.layers} layers on the GPU, {plan.threads} threads", flush=True
            )
            lengths = [length for length in (128, 1024) if length < model.info.context - 64]
            measure_loops(model, path, lengths if layers == whole else lengths[:1], rounds, with_class=False)
            measure_prefill(model, 3 * rounds)
            if layers == whole:
                measure_turns(model, 10, 24)
                measure_cancel(model, 5)


def _layers(path: Path) -> int:
    with load(path, LoadOptions(ctx=512)) as model:
        return model.fit.plan.layers


def _room(path: Path, rounds: int) -> None:
    gpu = _gpu()
    with load(path, LoadOptions(gpu_layers=999)) as model:
        whole = model.fit.plan.estimate.of(gpu.name).total
    print(f"-- room: all layers and the whole context take {whole / MIB:,.0f} MiB of {gpu.name}")
    print(
        f"{'MiB free':>9} {'layers':>9} {'context':>8} {'KV':>5} {'foretold':>9} {'taken':>9} {'failed tries':>13} {'tokens/s':>9}"
    )
    for part in ROOM_PARTS:
        if int(part * whole) + GIB // 8 > _gpu().free_bytes:
            continue  # there never was so much
        with _taken(gpu, leave=int(part * whole) + GIB // 8):
            _choice(path, gpu, LoadOptions())
    print("all layers asked for, where a third of them has room:")
    with _taken(gpu, leave=whole // 3):
        _choice(path, gpu, LoadOptions(gpu_layers=999))


def _choice(path: Path, gpu: Device, options: LoadOptions) -> None:
    """Load into what is free, and say how."""
    before = _gpu().free_bytes
    try:
        with load(path, options) as model:
            speed, used = _answer(model), before - _gpu().free_bytes
            plan = model.fit.plan
            print(
                f"{before / MIB:9,.0f} {plan.setting.gpu_layers:6}/{plan.layers:2} {plan.setting.ctx:8,} "
                f"{plan.setting.kv:>5} {plan.estimate.of(gpu.name).total / MIB:9,.0f} {used / MIB:9,.0f} "
                f"{len(model.fit.failed):13} {speed:9.1f}",
                flush=True,
            )
    except BqError as error:
        print(f"{before / MIB:9,.0f} {error}", flush=True)


def _memory(path: Path, rounds: int) -> None:
    gpu, layers = _gpu(), _layers(path)
    with load(path, LoadOptions(gpu_layers=999)) as model:
        _answer(model)  # what the first use of a GPU takes besides
    print(f"-- memory of {gpu.name}")
    print("MiB of the GPU: foretold, reported by llama.cpp, really taken; of the host: foretold and reported")
    for options in _memory_cases(layers):
        before = _gpu().free_bytes
        with load(path, options) as model:
            _answer(model)
            taken = before - _gpu().free_bytes
            foretold, reported = model.fit.plan.estimate, model.fit.used
        on_gpu, on_host = ([one.of(name) for one in (foretold, reported)] for name in (gpu.name, HOST))
        print(
            f"{options.gpu_layers:3} layers, context {options.ctx:5,}, KV {options.kv:>4}, batch {options.batch:3}: "
            f"{on_gpu[0].total / MIB:7,.0f} {on_gpu[1].total / MIB:7,.0f} {taken / MIB:7,.0f} "
            f"({on_gpu[0].total / on_gpu[1].total:.3f} {on_gpu[0].total / taken:.3f}); "
            f"{on_host[0].total / MIB:7,.0f} {on_host[1].total / MIB:7,.0f}",
            *(f"{name} {getattr(on_host[0], name) / MIB:.1f} {getattr(on_host[1], name) / MIB:.1f}" for name in FIELDS),
            flush=True,
        )


def _memory_cases(layers: int) -> Iterator[LoadOptions]:
    for kv in ("f16", "q8_0"):
        yield LoadOptions(ctx=512, kv=kv, batch=512, gpu_layers=layers)
        yield LoadOptions(ctx=4096, kv=kv, batch=512, gpu_layers=layers)
        yield LoadOptions(ctx=4096, kv=kv, batch=512, gpu_layers=layers // 2)
    yield LoadOptions(ctx=4096, kv="f16", batch=128, gpu_layers=layers)


def _answer(model: Model) -> float:
    """Tokens per second after a prompt of a whole batch, or of what the context holds of it."""
    count = min(model.fit.plan.setting.batch, model.info.context // 2)
    assert model._engine is not None
    model._engine.is_end = lambda token: False  # type: ignore[method-assign]  # random weights may end at once
    answer = model.complete("!" * count, sampling=GREEDY, max_tokens=64, draft=False)
    for _ in answer.steps():
        pass
    return answer.stats.tokens_per_second


def _gpu() -> Device:
    return usable_gpus(devices())[0]


@contextmanager
def _taken(gpu: Device, leave: int) -> Iterator[None]:
    """All of a GPU's memory but so many bytes."""
    base = _functions()[1]
    pointer = ctypes.c_void_p
    base.ggml_backend_dev_buffer_type.argtypes, base.ggml_backend_dev_buffer_type.restype = [pointer], pointer
    base.ggml_backend_buft_alloc_buffer.argtypes = [pointer, ctypes.c_size_t]
    base.ggml_backend_buft_alloc_buffer.restype = pointer
    base.ggml_backend_buffer_free.argtypes, base.ggml_backend_buffer_free.restype = [pointer], None
    handle = _handles()[[device.name for device in devices()].index(gpu.name)]
    buffer = base.ggml_backend_buft_alloc_buffer(base.ggml_backend_dev_buffer_type(handle), _gpu().free_bytes - leave)
    if not buffer:
        raise SystemExit(f"{gpu.name} does not give {(_gpu().free_bytes - leave) / GIB:.1f} GiB")
    try:
        yield
    finally:
        base.ggml_backend_buffer_free(buffer)


PARTS = {"speed": _speed, "room": _room, "memory": _memory}


if __name__ == "__main__":
    main()
