"""How much memory this machine has and how much of it a program may take now, the container's limits included.

Each system says it in its own form; the parsers are functions of that form alone. What counts as available is what can
be had without swapping: pages of files that can be read again (a mapped model's among them) are.
"""

import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bq.runtime.cgroup import MemoryLimit, memory_limits

_KIB = 1024
_STATUS_BYTES = 64  # MEMORYSTATUSEX (sysinfoapi.h): two 32-bit fields, seven 64-bit ones
_TOTAL_AND_AVAILABLE = "<QQ"


@dataclass(frozen=True)
class Memory:
    """Bytes; `container_bytes` is the lowest limit that a container sets, None without one. 0 means: not known."""

    total_bytes: int
    available_bytes: int
    container_bytes: int | None = None


def host_memory() -> Memory:
    """The memory of this machine, or of the container that the process runs in."""
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        return _mac_memory()
    return within(parse_meminfo(_read(Path("/proc/meminfo"))), memory_limits())


def within(memory: Memory, limits: Iterable[MemoryLimit]) -> Memory:
    """`memory` under the limits of a container."""
    some = list(limits)
    if not some:
        return memory
    total = min(limit.limit_bytes for limit in some)
    left = min(max(0, limit.limit_bytes - limit.used_bytes) for limit in some)
    if memory.total_bytes == 0:
        return Memory(total, left, total)
    container = total if total < memory.total_bytes else None
    return Memory(min(total, memory.total_bytes), min(left, memory.available_bytes), container)


def parse_meminfo(text: str) -> Memory:
    """Linux' /proc/meminfo (proc(5)); kernels before 3.14 have no MemAvailable."""
    found = {name: int(count) * _KIB for name, count in re.findall(r"^(\w+):\s+(\d{1,15}) kB$", text, re.MULTILINE)}
    old = found.get("MemFree", 0) + found.get("Cached", 0)
    return Memory(found.get("MemTotal", 0), found.get("MemAvailable", old))


def parse_vm_stat(text: str, total_bytes: int) -> Memory:
    """macOS' vm_stat(1): pages that are free, read ahead, or not used lately."""
    page = re.search(r"page size of (\d{1,9}) bytes", text)
    counts = dict(re.findall(r"^Pages (free|inactive|speculative):\s+(\d{1,15})\.$", text, re.MULTILINE))
    return Memory(total_bytes, sum(map(int, counts.values())) * (int(page[1]) if page else 0))


def parse_memory_status(status: bytes) -> Memory:
    """Windows' MEMORYSTATUSEX: ullTotalPhys and ullAvailPhys stand after dwLength and dwMemoryLoad."""
    if len(status) < _STATUS_BYTES:
        return Memory(0, 0)
    return Memory(*struct.unpack_from(_TOTAL_AND_AVAILABLE, status, 8))


def sysctl(name: str) -> int | None:
    """A number that macOS' kernel tells, or None."""
    text = _output(["/usr/sbin/sysctl", "-n", name]).strip()
    return int(text) if text.isdecimal() else None


def _mac_memory() -> Memory:
    return parse_vm_stat(_output(["/usr/bin/vm_stat"]), sysctl("hw.memsize") or 0)


def _windows_memory() -> Memory:
    if sys.platform != "win32":
        return Memory(0, 0)
    import ctypes

    status = ctypes.create_string_buffer(struct.pack("<I", _STATUS_BYTES), _STATUS_BYTES)
    got = ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(status)
    return parse_memory_status(status.raw) if got else Memory(0, 0)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
