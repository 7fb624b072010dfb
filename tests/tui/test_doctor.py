"""`bq doctor` tells what is here and how models would be loaded, and it tells it whatever is broken."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.cpu import Cores
from bq.runtime.devices import Build, Device
from bq.runtime.errors import BqError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.host import Memory
from bq.tui import checkup
from bq.tui.checkup import examine, install_command
from bq.tui.chosen_model import remember_model
from bq.tui.commands import doctor
from tests.tui.conftest import Bq

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 256, "heads": 4, "ffn": 704}
GIB = 1 << 30
CPU = Device("CPU", "a processor", "cpu", "CPU", 32 * GIB, 32 * GIB)
CARD = Device("CUDA0", "NVIDIA GeForce RTX 4070", "gpu", "CUDA", 12 * GIB, 11 * GIB)
EIGHT, LAPTOP = Cores(16, 8), Memory(32 * GIB, 28 * GIB)
PLAIN = Build("0.3.36", ("AVX2", "OPENMP"), offload=False, mmap=True, mlock=True, rpc=False)


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(cores=..., ...)`: another machine than this one."""

    def become(
        *devices: Device,
        cores: Cores = EIGHT,
        memory: Memory = LAPTOP,
        build: Build = PLAIN,
        unused: tuple[str, ...] = (),
    ) -> None:
        monkeypatch.setattr(checkup, "devices", lambda: (*devices, CPU))
        monkeypatch.setattr(checkup, "build", lambda: build)
        monkeypatch.setattr(checkup, "cores", lambda: cores)
        monkeypatch.setattr(checkup, "host_memory", lambda: memory)
        monkeypatch.setattr(checkup, "unused_gpus", lambda: unused)

    return become


def text(*paths: Path) -> str:
    return "\n".join(doctor._lines(examine(paths)))


def test_in_a_terminal(bq: Bq, path: Path) -> None:
    done = bq("doctor", path)
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    for words in (
        "DEVICE",
        "CPU",
        "processor",
        "memory",
        "GiB free",
        "physical",
        "llama-cpp-python",
        str(path),
        "KV f16",
    ):
        assert words in said


def test_as_json(bq: Bq, path: Path) -> None:
    done = bq("doctor", "--json", path)
    data = json.loads(done.stdout)
    assert set(data) == {"devices", "memory", "cores", "build", "findings", "models"}
    (model,) = data["models"]
    weights = sum(tensor.size_bytes for tensor in read_gguf(path).tensors.values())
    assert sum(use["weights"] for use in model["estimate"]) == weights
    assert model["plan"]["ctx"] == 4096
    assert 0 < data["memory"]["available_bytes"] <= data["memory"]["total_bytes"]


def test_in_chinese(bq: Bq, path: Path) -> None:
    said = bq("doctor", "--lang", "zh", path).stdout.decode()
    for words in ("设备", "内存", "核心", "权重", "上下文 4096"):
        assert words in said
    assert "context" not in said


def test_models_that_cannot_be_run_say_why_and_the_others_stand(bq: Bq, path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("no model")
    (tmp_path / "folder").mkdir()
    names = (tmp_path / "x.gguf", tmp_path / "none.gguf", tmp_path / "folder", tmp_path / ("n" * 300), path)
    done = bq("doctor", *names)
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (1, b"")
    assert [line for line in said.splitlines() if line.startswith(str(tmp_path))] == list(map(str, names[:-1]))
    assert f"  {tmp_path / 'folder'} is a folder; give a GGUF file." in said
    assert "cannot be read: File name too long. Check" in said
    assert [line for line in said.splitlines() if line.startswith("  x.gguf ")]
    assert "  There is no file" in said
    assert "KV f16" in said


def test_without_a_name_the_known_models_are_told(bq: Bq, path: Path, own_home: Path) -> None:
    assert "No model yet" in bq("doctor").stdout.decode()
    remember_model(path)
    inside = own_home / "models" / "mine.gguf"
    inside.parent.mkdir()
    inside.write_bytes(path.read_bytes())
    said = bq("doctor").stdout.decode()
    assert str(path) in said
    assert str(inside) in said
    inside.write_bytes(b"GGUF")
    assert bq("doctor").returncode == 0  # nobody asked for this one by name


def test_a_card_is_used_and_told(machine: Callable[..., None], path: Path) -> None:
    machine(CARD, build=Build("0.3.36", ("AVX2",), offload=True, mmap=True, mlock=True, rpc=False))
    said = text(path)
    assert "CUDA0   GPU        12.0 GiB  11.0 GiB  NVIDIA GeForce RTX 4070" in said
    assert "33 of 33 layers on the GPU" in said
    assert "Warning" not in said


def test_a_build_without_the_gpu_that_is_here_is_told_with_the_remedy(machine: Callable[..., None]) -> None:
    machine(unused=("NVIDIA GeForce RTX 4070",))
    said = text()
    assert "Warning: This build of llama.cpp uses no GPU, but this machine has one: NVIDIA GeForce RTX 4070." in said
    assert install_command("NVIDIA GeForce RTX 4070") in said


@pytest.mark.parametrize(("gpu", "flag"), [("NVIDIA X", "CUDA"), ("AMD", "VULKAN"), ("Apple", "METAL"), ("", "NATIVE")])
def test_the_remedy_is_a_command_for_that_gpu(monkeypatch: pytest.MonkeyPatch, gpu: str, flag: str) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    command = install_command(gpu)
    assert command.startswith(f'CMAKE_ARGS="-DGGML_{flag}=on" pip install ')
    assert command.endswith("'llama-cpp-python>=0.3.36,<0.4'")
    monkeypatch.setattr(sys, "platform", "win32")
    assert install_command(gpu).startswith(f'$env:CMAKE_ARGS="-DGGML_{flag}=on"; pip')


def test_a_container_and_busy_cores_are_told(machine: Callable[..., None]) -> None:
    machine(cores=Cores(4, 4, quota=0.5, busy=9), memory=Memory(2 * GIB, GIB, 2 * GIB))
    said = text()
    assert "limited to 2.00 GiB of memory" in said
    assert "limited to 0.5 cores" in said
    assert "Other programs keep 4 of 4 cores busy." in said
    assert "only 0.5 of a core" in said
    assert "; 1 thread for a large model" in said


def test_amx_is_told(machine: Callable[..., None]) -> None:
    machine(build=Build("0.3.36", ("AVX2", "AMX_INT8"), offload=False, mmap=True, mlock=True, rpc=False))
    assert "AMX" in text()


def test_a_model_that_does_not_fit_is_told_with_what_would(machine: Callable[..., None], path: Path) -> None:
    machine(memory=Memory(64 << 20, 30 << 20))
    said = text(path)
    assert "needs" in said
    assert "30 MiB are free" in said


def test_a_broken_llama_cpp_is_a_finding_and_the_rest_is_told(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    machine()

    def broken() -> tuple[Device, ...]:
        raise BqError("llama.cpp cannot be loaded: libgomp.so.1 is missing.", "Install it.")

    monkeypatch.setattr(checkup, "devices", broken)
    said = text(path)
    assert "Warning: llama.cpp cannot be loaded: libgomp.so.1 is missing.\n  Install it." in said
    assert "28.0 GiB of 32.0 GiB free" in said


def test_names_cannot_control_the_terminal(machine: Callable[..., None]) -> None:
    machine(Device("CUDA0", "\x1b]0;owned\x07card", "gpu", "CUDA", GIB, GIB))
    assert "\x1b" not in text(Path("/x\x1b[2J.gguf"))
