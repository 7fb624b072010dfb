"""What `bq doctor` finds: the machine, this build of llama.cpp, what is wrong with them, and how each model would be loaded."""

import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bq.runtime.cpu import cores, threads_for
from bq.runtime.devices import Build, Device, build, devices, unused_gpus
from bq.runtime.errors import BqError
from bq.runtime.fit import LoadOptions, Machine, Plan
from bq.runtime.fit_advice import describe, reasons
from bq.runtime.host import host_memory
from bq.runtime.known import describe_file, file_warnings
from bq.runtime.language import say
from bq.tui.model_file import read_model

_BUSY = 0.5  # of the cores: from there on answers are clearly slower
_BIG_MODEL = 4 << 30  # bytes; from some hundred MB on it makes no difference
_PACKAGE = "llama-cpp-python>=0.3.36,<0.4"


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, and what to do about it."""

    cause: str
    remedy: str


@dataclass(frozen=True)
class Checked:
    """A model: how it would be loaded, or why it would not."""

    path: Path
    name: str = ""
    mixture: str = ""
    plan: Plan | None = None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: BqError | None = None


@dataclass(frozen=True)
class Checkup:
    """All that was found; `build` is None where llama.cpp cannot be loaded."""

    machine: Machine
    build: Build | None
    findings: tuple[Finding, ...]
    models: tuple[Checked, ...]

    @property
    def threads(self) -> int:
        """Those of a model that is not small."""
        return threads_for(_BIG_MODEL, self.machine.cores)


def examine(paths: Sequence[Path]) -> Checkup:
    """Look at the machine, at llama.cpp, and at these models."""
    findings: list[Finding] = []
    seen: tuple[Device, ...] = ()
    made: Build | None = None
    try:
        seen, made = devices(), build()
    except BqError as error:
        findings.append(Finding(error.cause, error.remedy or ""))
    machine = Machine(seen, host_memory(), cores())
    if made is not None:
        findings.extend(_of_build(made, machine))
    findings.extend(_of_machine(machine))
    return Checkup(machine, made, tuple(findings), tuple(_check(path, machine) for path in paths))


def _check(path: Path, machine: Machine) -> Checked:
    from bq.runtime.loading import choose

    options = LoadOptions()
    try:
        file = read_model(path)
    except BqError as error:
        return Checked(path, error=error)
    known, warnings = describe_file(file), file_warnings(file)
    try:
        plan = choose(file, machine, options)[0]
    except BqError as error:
        return Checked(path, known.name, known.mixture, warnings=warnings, error=error)
    return Checked(path, known.name, known.mixture, plan, reasons(plan, options), warnings)


def _of_build(made: Build, machine: Machine) -> Iterator[Finding]:
    gpus = unused_gpus() if not made.offload else ()
    if gpus:
        yield Finding(
            say(
                f"This build of llama.cpp uses no GPU, but this machine has one: {', '.join(gpus)}.",
                f"此 llama.cpp 版本不使用 GPU，而本机有 GPU：{'、'.join(gpus)}。",
            ),
            say("Install it with GPU support: ", "请安装支持 GPU 的版本：") + install_command(gpus[0]),
        )
    if "AMX_INT8" in made.features:
        yield Finding(
            say(
                "llama.cpp's AMX code ends the process on this processor; bq loads models without it.",
                "llama.cpp 的 AMX 代码会在此处理器上使进程终止；bq 加载模型时不使用它。",
            ),
            say("Nothing is to be done; answers are a little slower.", "无需处理；回答会稍慢一些。"),
        )
    if platform.machine() in ("x86_64", "AMD64") and "AVX2" not in made.features and _has_avx2():
        yield Finding(
            say(
                "This build of llama.cpp does not use AVX2, which the processor has.",
                "此 llama.cpp 版本未使用处理器支持的 AVX2。",
            ),
            say("Build it on this machine: ", "请在本机编译安装：") + install_command(""),
        )


def install_command(gpu: str) -> str:
    """The command that installs llama.cpp's bindings for this kind of GPU, or for the processor alone."""
    kind = {"AMD": "VULKAN", "Apple": "METAL", "": ""}.get(gpu, "CUDA")
    flags = f"-DGGML_{kind}=on" if kind else "-DGGML_NATIVE=on"
    install = f"pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python {shlex.quote(_PACKAGE)}"
    if sys.platform == "win32":
        return f'$env:CMAKE_ARGS="{flags}"; {install}'
    return f'CMAKE_ARGS="{flags}" {install}'


def _has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _of_machine(machine: Machine) -> Iterator[Finding]:
    found = machine.cores
    busy = min(found.busy, found.logical)
    if busy >= max(1.0, _BUSY * found.logical):
        yield Finding(
            say(
                f"Other programs keep {busy:.0f} of {found.logical} cores busy.",
                f"其他程序正占用 {found.logical} 个核心中的 {busy:.0f} 个。",
            ),
            say("Close them for faster answers.", "关闭它们可加快回答。"),
        )
    if found.quota is not None and found.quota < 1:
        yield Finding(
            say(
                f"The container may use only {found.quota:.2g} of a core.", f"容器只允许使用 {found.quota:.2g} 个核心。"
            ),
            say("Give it more (docker run --cpus).", "请提高限额（docker run --cpus）。"),
        )


# As data for JSON.


def as_data(checkup: Checkup) -> dict[str, Any]:
    """Everything as plain data; sizes in bytes."""
    machine = checkup.machine
    return {
        "devices": [asdict(device) for device in machine.devices],
        "memory": asdict(machine.memory),
        "cores": {**asdict(machine.cores), "threads": checkup.threads},
        "build": asdict(checkup.build) if checkup.build else None,
        "findings": [asdict(finding) for finding in checkup.findings],
        "models": [_model_data(model) for model in checkup.models],
    }


def _model_data(model: Checked) -> dict[str, Any]:
    plan = model.plan
    return {
        "path": str(model.path),
        "name": model.name,
        "mixture": model.mixture,
        "plan": {**asdict(plan.setting), "devices": plan.devices, "threads": plan.threads} if plan else None,
        "estimate": [
            {**asdict(use), "total": use.total, "free": plan.free_of(use.device)} for use in plan.estimate.uses
        ]
        if plan
        else None,
        "summary": describe(plan) if plan else None,
        "reasons": model.reasons,
        "warnings": model.warnings,
        "error": str(model.error) if model.error else None,
    }
