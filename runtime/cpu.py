"""The cores that a model may run on: fast physical ones, within the affinity and the container's quota of this process.

llama.cpp gives every thread an equal share and all wait for the last: a hyper-thread, an efficiency core or a core that
something else has taken holds the others up.
"""

import os
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bq.runtime.cgroup import cpu_quota
from bq.runtime.host import sysctl

LEAST_BYTES_PER_THREAD = 64 << 20
_SLOW = 0.7  # of the fastest core's speed; favoured cores of one kind differ by less, efficiency cores by more
_PROCESSOR_CORE = 0  # RelationProcessorCore (winnt.h)


@dataclass(frozen=True)
class Cores:
    """What this process may use: logical cores, fast physical ones of them, the container's quota; what others keep busy."""

    logical: int
    fast: int
    quota: float | None = None
    busy: float = 0.0


def cores() -> Cores:
    """The cores of this machine as this process has them now."""
    allowed = _affinity()
    return Cores(len(allowed), _fast_cores(allowed), cpu_quota(), others_load())


def usable_cores() -> int:
    """Logical cores that this process may run on: its affinity, capped by the container's quota."""
    return _capped(len(_affinity()), cpu_quota())


def threads_for(model_bytes: int, found: Cores) -> int:
    """The fast cores, but fewer for a small model: below this share threads wait more than they work.

    On two cores that other programs wanted too, two threads decoded a model of 60 MB half as fast as one, one of 150 MB as
    fast, and one of 1 GB faster; alone on the machine twice as fast from 150 MB on. So what others do at the moment of loading
    does not lower the number, and a prompt is read with as many threads as an answer is written.
    """
    most = _capped(min(found.fast, found.logical), found.quota)
    return max(1, min(most, model_bytes // LEAST_BYTES_PER_THREAD))


def parse_cpu_list(text: str) -> set[int]:
    """Linux' lists of processors: "0-3,8" -> {0, 1, 2, 3, 8}."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal() and int(last or first) < 1 << 16:
            found.update(range(int(first), int(last or first) + 1))
    return found


def parse_processor_cores(data: bytes) -> list[int]:
    """The efficiency class of each physical core, from Windows' GetLogicalProcessorInformationEx.

    Records of SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX (winnt.h): relationship, size, flags, class; higher is faster.
    """
    classes, at = [], 0
    while at + 10 <= len(data):
        relationship, size = struct.unpack_from("<II", data, at)
        if size < 10:
            break
        if relationship == _PROCESSOR_CORE:
            classes.append(data[at + 9])
        at += size
    return classes


def parse_running(loadavg: str) -> int | None:
    """How many threads run or wait for a core at this moment, from Linux' /proc/loadavg: "0.2 0.1 0.0 3/512 4711" -> 3."""
    fields = loadavg.split()
    running = fields[3].partition("/")[0] if len(fields) > 3 else ""
    return int(running) if running.isdecimal() else None


def others_load() -> float:
    """Cores that other programs keep busy now: on Linux by what runs at this moment, elsewhere by the last minute's load."""
    running = parse_running(_text(Path("/proc/loadavg")))
    if running is not None:
        return float(max(0, running - 1))  # the thread that asks runs too
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _capped(count: int, quota: float | None) -> int:
    return max(1, min(count, int(quota)) if quota else count)


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _fast_cores(allowed: Collection[int]) -> int:
    """Physical cores of the fast kind among those allowed."""
    if sys.platform == "darwin":
        counts = (sysctl(name) for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"))
        return next((count for count in counts if count), len(allowed))
    if sys.platform == "win32":
        classes = _windows_cores()
        return classes.count(max(classes)) if classes else len(allowed)
    return linux_fast_cores(allowed)


def linux_fast_cores(allowed: Collection[int], root: Path = Path("/")) -> int:
    """Each physical core once, without the slow kind of a hybrid processor, from /sys/devices."""
    system = root / "sys/devices/system/cpu"
    fast = _fast_of(allowed, root, system)
    siblings = {_text(system / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in fast}
    return max(1, len(siblings))


def _fast_of(allowed: Collection[int], root: Path, system: Path) -> Collection[int]:
    named = parse_cpu_list(_text(root / "sys/devices/cpu_core/cpus")) & set(allowed)  # Intel's hybrid processors
    if named:
        return named
    for measure in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):  # Arm's big and little cores; any other
        speeds = {cpu: _number(system / f"cpu{cpu}" / measure) for cpu in allowed}
        if all(speeds.values()):
            return faster(speeds)
    return allowed


def faster(speeds: dict[int, int]) -> set[int]:
    """The processors that are about as fast as the fastest."""
    return {cpu for cpu, speed in speeds.items() if speed >= _SLOW * max(speeds.values())}


def _windows_cores() -> list[int]:
    if sys.platform != "win32":
        return []
    import ctypes

    kernel = ctypes.WinDLL("kernel32")
    size = ctypes.c_uint32()
    kernel.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, None, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    got = kernel.GetLogicalProcessorInformationEx(_PROCESSOR_CORE, data, ctypes.byref(size))
    return parse_processor_cores(data.raw) if got else []


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
