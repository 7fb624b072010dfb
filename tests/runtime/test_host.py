"""The machine's memory is read as each system writes it, under the container's limits."""

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.cgroup import MemoryLimit
from bq.runtime.host import Memory, host_memory, parse_meminfo, parse_memory_status, parse_vm_stat, within

GIB = 1 << 30
MEMINFO = """MemTotal:       16081116 kB
MemFree:          812344 kB
MemAvailable:    9273648 kB
Buffers:          412820 kB
Cached:          7905340 kB
SwapCached:            0 kB
HugePages_Total:       0
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               87651.
Pages active:                            214387.
Pages inactive:                          211004.
Pages speculative:                         2113.
Pages throttled:                              0.
Pages wired down:                        131072.
Pages purgeable:                           4096.
"Translation faults":                 912345678.
"""


def test_linux() -> None:
    assert parse_meminfo(MEMINFO) == Memory(16081116 * 1024, 9273648 * 1024)


def test_an_old_kernel_of_linux_does_not_say_what_is_available() -> None:
    old = "".join(line for line in MEMINFO.splitlines(keepends=True) if "Available" not in line)
    assert parse_meminfo(old) == Memory(16081116 * 1024, (812344 + 7905340) * 1024)


def test_macos() -> None:
    assert parse_vm_stat(VM_STAT, 8 * GIB) == Memory(8 * GIB, (87651 + 211004 + 2113) * 16384)


def test_windows() -> None:
    status = struct.pack("<II7Q", 64, 41, 16 * GIB, 9 * GIB, 20 * GIB, 11 * GIB, 1 << 47, 1 << 46, 0)
    assert parse_memory_status(status) == Memory(16 * GIB, 9 * GIB)
    assert parse_memory_status(status[:63]) == Memory(0, 0)


@given(
    st.text()
    | st.sampled_from([MEMINFO, VM_STAT]).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[n:]))
)
def test_nonsense_is_no_error(text: str) -> None:
    for memory in (parse_meminfo(text), parse_vm_stat(text, 1)):
        assert memory.total_bytes >= 0 <= memory.available_bytes


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([], Memory(16 * GIB, 9 * GIB)),
        ([MemoryLimit(4 * GIB, GIB)], Memory(4 * GIB, 3 * GIB, 4 * GIB)),
        ([MemoryLimit(4 * GIB, 5 * GIB)], Memory(4 * GIB, 0, 4 * GIB)),
        ([MemoryLimit(12 * GIB, GIB), MemoryLimit(8 * GIB, 7 * GIB)], Memory(8 * GIB, GIB, 8 * GIB)),
        ([MemoryLimit(64 * GIB, GIB)], Memory(16 * GIB, 9 * GIB)),
    ],
)
def test_a_container_has_what_its_limits_leave(limits: list[MemoryLimit], expected: Memory) -> None:
    assert within(Memory(16 * GIB, 9 * GIB), limits) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="the oracle is sysconf of Linux")
def test_this_machine() -> None:
    import os

    memory = host_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes
    if memory.container_bytes is None:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert memory.total_bytes == physical
    assert Path("/proc/meminfo").exists()
