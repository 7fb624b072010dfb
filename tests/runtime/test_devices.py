"""The devices are llama.cpp's own, and those chosen are the ones it would use."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.devices import (
    Device,
    build,
    choose_devices,
    device_list,
    devices,
    parse_system_info,
    unused_gpus,
    usable_gpus,
)
from bq.runtime.errors import UsageError

CPU = Device("CPU", "a processor", "cpu", "CPU", 16 << 30, 16 << 30)
CUDA0 = Device("CUDA0", "a card", "gpu", "CUDA", 24 << 30, 23 << 30, "0000:01:00.0")
CUDA1 = Device("CUDA1", "a card", "gpu", "CUDA", 24 << 30, 22 << 30, "0000:02:00.0")
VULKAN0 = Device("Vulkan0", "the first card again", "gpu", "Vulkan", 24 << 30, 23 << 30, "0000:01:00.0")
INSIDE = Device("Vulkan1", "in the processor", "igpu", "Vulkan", 16 << 30, 8 << 30)
METAL = Device("MTL0", "Apple M2", "gpu", "MTL", 11 << 30, 11 << 30)
BLAS = Device("BLAS", "Accelerate", "accel", "BLAS", 0, 0)


def test_every_build_has_a_processor_whose_memory_is_the_machines() -> None:
    found = devices()
    cpu = next(device for device in found if device.kind == "cpu")
    assert (cpu.name, cpu.backend) == ("CPU", "CPU")
    assert cpu.description
    if sys.platform == "linux":
        import os

        assert cpu.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_build_is_what_llama_cpp_says_of_itself() -> None:
    import llama_cpp

    found = build()
    assert found.version == llama_cpp.__version__
    assert found.mmap == llama_cpp.llama_supports_mmap()
    assert found.offload == llama_cpp.llama_supports_gpu_offload() >= bool(usable_gpus(devices()))
    assert all(name.partition("=")[0] in llama_cpp.llama_print_system_info().decode() for name in found.features)


def test_system_info_of_several_backends() -> None:
    text = "CUDA : ARCHS = 750,800 | USE_GRAPHS = 1 | CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0 | OPENMP = 1 | "
    assert parse_system_info(text) == ("ARCHS=750,800", "USE_GRAPHS", "SSE3", "AVX2", "OPENMP")


@given(st.text(alphabet="ABC0123 :=|\n", max_size=100))
def test_system_info_of_any_form(text: str) -> None:
    assert all(name for name in parse_system_info(text))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((CPU,), ()),
        ((CPU, CUDA0, CUDA1), (CUDA0, CUDA1)),
        ((CPU, CUDA0, VULKAN0, INSIDE), (CUDA0,)),  # one card seen twice is one; the one inside is left alone
        ((CPU, BLAS, INSIDE), (INSIDE,)),
        ((METAL, BLAS, CPU), (METAL,)),
    ],
)
def test_the_gpus_are_those_that_llama_cpp_would_take(found: tuple[Device, ...], expected: tuple[Device, ...]) -> None:
    assert usable_gpus(found) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(None, (CUDA0, CUDA1)), ("cuda1", (CUDA1,)), ("CUDA1, CUDA0", (CUDA1, CUDA0)), ("cpu", ()), ("none", ())],
)
def test_a_device_is_chosen_by_its_name(wanted: str | None, expected: tuple[Device, ...]) -> None:
    assert choose_devices((CPU, CUDA0, CUDA1), wanted) == expected


@pytest.mark.parametrize("wanted", ["CUDA7", "CUDA0,x", "", ","])
def test_a_device_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="device"):
        choose_devices((CPU, CUDA0), wanted)


def test_a_macs_gpu_has_the_hosts_memory() -> None:
    assert [device.shares_memory for device in (METAL, INSIDE, CUDA0)] == [True, True, False]


def test_the_list_for_llama_cpp_ends_with_a_null() -> None:
    assert list(device_list(())) == [None]
    assert len(device_list(devices())) == len(devices()) + 1


def test_drivers_show_a_gpu_that_the_build_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert unused_gpus(tmp_path) == ()
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA GeForce RTX 4070\nIRQ:   \t\t 84\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert unused_gpus(tmp_path) == ("NVIDIA GeForce RTX 4070", "AMD")


def test_asking_for_devices_writes_nothing() -> None:
    """llama.cpp's backends talk while they start; nothing of it may reach a pipe."""
    code = "from bq.runtime.devices import devices; devices()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
