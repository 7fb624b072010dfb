"""The number of threads respects the cores, the process's affinity and the container's quota."""

from pathlib import Path

import pytest

from bq.runtime import cpu


def _machine(monkeypatch: pytest.MonkeyPatch, physical: int, affinity: int, quota: int | None) -> None:
    monkeypatch.setattr(cpu, "_physical_cores", lambda: physical)
    monkeypatch.setattr(cpu, "_cgroup_quota", lambda _: quota)
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)


@pytest.mark.parametrize(
    ("physical", "affinity", "quota", "threads", "cores"),
    [
        (8, 16, None, 8, 16),  # hyper-threads
        (8, 4, None, 4, 4),  # pinned to some cores
        (8, 16, 2, 2, 2),  # a container's quota
        (8, 2, 6, 2, 2),
        (1, 1, None, 1, 1),
    ],
)
def test_default_threads(
    monkeypatch: pytest.MonkeyPatch, physical: int, affinity: int, quota: int | None, threads: int, cores: int
) -> None:
    _machine(monkeypatch, physical, affinity, quota)
    assert (cpu.default_threads(), cpu.usable_cores()) == (threads, cores)


def test_a_small_model_takes_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, physical=8, affinity=8, quota=None)
    share = cpu.LEAST_BYTES_PER_THREAD
    assert [cpu.decode_threads(n) for n in (1, share, 3 * share, 100 * share)] == [1, 1, 3, 8]


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("50000 100000\n", 1),
        ("", None),
        ("rubbish here\n", None),
        ("1 0\n", None),
    ],
)
def test_the_quota_of_cgroup_v2(tmp_path: Path, text: str, quota: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu._cgroup_quota(tmp_path / "cpu.max") == quota


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu._cgroup_quota(tmp_path / "cpu.max") is None


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no sched_getaffinity."""
    monkeypatch.delattr(cpu.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cpu, "_cgroup_quota", lambda _: None)
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: 6)
    assert cpu.usable_cores() == 6


def test_this_machine() -> None:
    assert 1 <= cpu.default_threads() <= cpu.usable_cores()
