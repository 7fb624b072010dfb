"""What this process's container allows: the limits of its cgroup and of every one above it, version 1 and 2.

A container does not change what /proc/meminfo and the processor say, so a program that asks only them takes memory and
cores that it will not get. A limit may stand at any level, so all are read, from the process's own cgroup up to the mount.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2^63


@dataclass(frozen=True)
class MemoryLimit:
    """A limit in bytes and how much of it is in use, without the file pages that the kernel can drop."""

    limit_bytes: int
    used_bytes: int


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The processors' worth of time that the container may use, e.g. 1.5; None without a limit."""
    quotas = [_quota_v2(folder) for folder in _folders(root, "")]
    quotas += [_quota_v1(folder) for folder in _folders(root, "cpu")]
    return min((quota for quota in quotas if quota), default=None)


def memory_limits(root: Path = Path("/")) -> list[MemoryLimit]:
    """Every limit that the process is under, the nearest first."""
    found = [limit for folder in _folders(root, "") for limit in _memory_v2(folder)]
    return found + [limit for folder in _folders(root, "memory") for limit in _memory_v1(folder)]


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float | None:
    return _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """None for "max", -1 and whatever else is no limit."""
    if not quota.isdecimal() or not period.isdecimal() or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _memory_v2(folder: Path) -> Iterator[MemoryLimit]:
    for name in ("memory.max", "memory.high"):  # above `high` the process is held up until it has given memory back
        yield from _memory(folder, name, "memory.current", "")


def _memory_v1(folder: Path) -> Iterator[MemoryLimit]:
    yield from _memory(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _memory(folder: Path, limit_file: str, usage_file: str, prefix: str) -> Iterator[MemoryLimit]:
    limit, usage = _text(folder / limit_file), _text(folder / usage_file)
    if not limit.isdecimal() or int(limit) >= _UNLIMITED:
        return
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    pages = [stat.get(prefix + name, "0").strip() for name in ("inactive_file", "active_file")]
    droppable = sum(int(count) for count in pages if count.isdecimal())
    yield MemoryLimit(int(limit), max(0, (int(usage) if usage.isdecimal() else 0) - droppable))


def _folders(root: Path, controller: str) -> list[Path]:
    """The process's cgroup of a version 1 controller, or of version 2 ("" as the controller), and all above it."""
    own = next((path for name, path in _own_paths(root) if controller in name), None)
    mount = next((found for found in _mounts(root) if found[0] == (controller or "cgroup2")), None)
    if own is None or mount is None:
        return []
    _, seen_from, point = mount
    inside = own.removeprefix(seen_from.rstrip("/")).strip("/")
    parts = [part for part in inside.split("/") if part not in ("", ".", "..")]
    top = root / point.lstrip("/")
    return [top.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _own_paths(root: Path) -> Iterator[tuple[list[str], str]]:
    """(controllers, path) of each hierarchy; version 2 has the one controller ""."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers or number == "0":
            yield controllers.split(","), path


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """(controller or "cgroup2", the path that the mount begins at, mount point), from /proc/self/mountinfo (proc(5))."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3:
            continue
        kinds = ["cgroup2"] if after[0] == "cgroup2" else after[2].split(",") if after[0] == "cgroup" else []
        yield from ((kind, before[3], before[4]) for kind in kinds)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
