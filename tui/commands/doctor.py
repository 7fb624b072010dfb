"""`bq doctor`: what this machine and this build of llama.cpp have, and how each model would be loaded."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.runtime.devices import Device
    from bq.tui.checkup import Checked, Checkup


@click.command(
    help=say(
        "Show the devices, memory and cores that llama.cpp can use here, and how each MODEL would be loaded. "
        "[default: those of the library]",
        "显示 llama.cpp 在本机可用的设备、内存与核心，以及每个 MODEL 会如何加载。[默认：模型库中的全部模型]",
    )
)
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
def command(models: tuple[str, ...], as_json: bool) -> int:
    """Examine and print; the exit status is 1 if a model that was named cannot be run."""
    from bq.tui.checkup import as_data, examine
    from bq.tui.chosen_model import known_models, model_named

    checkup = examine([model_named(model) for model in models] or known_models())
    if as_json:
        click.echo(json.dumps(as_data(checkup), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(_lines(checkup)))
    return int(bool(models) and any(model.error for model in checkup.models))


def _lines(checkup: "Checkup") -> Iterator[str]:
    from bq.tui.table import table

    if checkup.machine.devices:
        head = (say("DEVICE", "设备"), say("KIND", "类型"), say("MEMORY", "内存"), say("FREE", "空闲"), "")
        yield table(head, [_device(device) for device in checkup.machine.devices], right=(2, 3))
        yield ""
    yield table(("", ""), [*_machine(checkup), *_build(checkup)]).lstrip("\n")
    for finding in checkup.findings:
        yield ""
        yield say("Warning: ", "警告：") + finding.cause
        yield f"  {finding.remedy}"
    for model in checkup.models:
        yield ""
        yield from _model(model)
    if not checkup.models:
        yield ""
        yield say(
            "No model yet: `bq convert` makes one; `bq chat` begins with the bundled one.",
            "还没有模型：用 `bq convert` 生成；`bq chat` 会使用内置模型。",
        )


def _device(device: "Device") -> tuple[str, str, str, str, str]:
    from bq.runtime.fit_advice import amount
    from bq.tui.harmless import clean

    kinds = {
        "cpu": say("processor", "处理器"),
        "gpu": "GPU",
        "igpu": say("GPU in the processor", "集成 GPU"),
        "accel": say("accelerator", "加速器"),
    }
    said = device.total_bytes > 0 and device.kind != "cpu"  # llama.cpp calls all of the host's memory free
    return (
        device.name,
        kinds.get(device.kind, device.kind),
        amount(device.total_bytes) if device.total_bytes else "",
        amount(device.free_bytes) if said else "",
        clean(device.description),
    )


def _machine(checkup: "Checkup") -> Iterator[tuple[str, str]]:
    from bq.runtime.fit_advice import amount

    memory, cores = checkup.machine.memory, checkup.machine.cores
    total, free = amount(memory.total_bytes), amount(memory.available_bytes)
    yield say("memory", "内存"), say(f"{free} of {total} free", f"共 {total}，空闲 {free}")
    if memory.container_bytes is not None:
        limit = amount(memory.container_bytes)
        yield say("container", "容器"), say(f"limited to {limit} of memory", f"内存限额 {limit}")
    if cores.quota is not None:
        yield say("container", "容器"), say(f"limited to {cores.quota:.3g} cores", f"核心限额 {cores.quota:.3g}")
    threads = f"{checkup.threads} thread{'s' * (checkup.threads > 1)}"
    yield (
        say("cores", "核心"),
        say(
            f"{cores.fast} fast physical, {cores.logical} logical; {threads} for a large model",
            f"{cores.fast} 个高性能物理核心，{cores.logical} 个逻辑核心；大模型用 {checkup.threads} 线程",
        ),
    )


def _build(checkup: "Checkup") -> Iterator[tuple[str, str]]:
    found = checkup.build
    if found is None:
        return
    can = [
        name
        for name, has in (("GPU", found.offload), ("mmap", found.mmap), ("mlock", found.mlock), ("RPC", found.rpc))
        if has
    ]
    yield (
        "llama.cpp",
        say(
            f"llama-cpp-python {found.version}; can: {', '.join(can)}",
            f"llama-cpp-python {found.version}；支持：{'、'.join(can)}",
        ),
    )
    yield say("code for", "指令集"), " ".join(found.features)


def _model(model: "Checked") -> Iterator[str]:
    from bq.runtime.fit_advice import describe
    from bq.tui.harmless import clean

    yield clean(str(model.path)) + (f"  ({clean(model.name)}, {model.mixture})" if model.name else "")
    if model.plan is not None:
        yield "  " + describe(model.plan)
    if model.reasons:
        yield "  " + say("Because: ", "原因：") + say("; ", "；").join(model.reasons)
    if model.error is not None:
        yield f"  {model.error}"
    for warning in model.warnings:
        yield "  " + say("Warning: ", "警告：") + warning
