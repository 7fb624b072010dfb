"""How many threads to use: physical cores, within what this process and its container may use."""

import os
import subprocess
import sys
from pathlib import Path

LEAST_BYTES_PER_THREAD = 64 << 20


def default_threads() -> int:
    """Physical cores that this process may run on, at least one. Hyper-threads and waiting threads slow llama.cpp down."""
    return max(1, min(_physical_cores(), usable_cores()))


def decode_threads(model_bytes: int) -> int:
    """`default_threads`, or fewer for a small model: below this share the threads wait for each other more than they work.

    A waiting thread spins, and on a core that something else has taken it holds all others up: on two cores, both busy, two
    threads made a model of 30 MB six times slower than one.
    """
    return max(1, min(default_threads(), model_bytes // LEAST_BYTES_PER_THREAD))


def usable_cores() -> int:
    """Logical cores that this process may run on: its affinity, capped by the container's CPU quota (cgroup v2)."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup/cpu.max"))
    return max(1, min(affinity, quota) if quota else affinity)


def _cgroup_quota(path: Path) -> int | None:
    try:
        quota, period = path.read_text().split()
        return max(1, int(quota) // int(period)) if quota != "max" else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _physical_cores() -> int:
    siblings = {
        path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    }
    return len(siblings) or _performance_cores() or os.cpu_count() or 1


def _performance_cores() -> int | None:
    """A Mac's cores, on Apple silicon the fast ones alone: its efficiency cores would hold the others up."""
    if sys.platform != "darwin":
        return None
    names = ("hw.perflevel0.physicalcpu", "hw.physicalcpu")
    return next((count for name in names if (count := _sysctl(name))), None)


def _sysctl(name: str) -> int | None:
    try:
        out = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=True)
        return int(out.stdout)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
