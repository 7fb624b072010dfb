"""The number of threads respects the kinds of cores, the process's affinity, the container's quota and what others take."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime import cpu
from bq.runtime.cpu import (
    Cores,
    faster,
    linux_fast_cores,
    parse_cpu_list,
    parse_processor_cores,
    parse_running,
    threads_for,
)

BIG = 1 << 40
SHARE = cpu.LEAST_BYTES_PER_THREAD


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "sys/devices" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def siblings(*groups: tuple[int, ...]) -> dict[str, str]:
    return {
        f"system/cpu/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, group)) + "\n"
        for group in groups
        for cpu in group
    }


def test_hyper_threads_are_one_core(tmp_path: Path) -> None:
    root = system(tmp_path, siblings((0, 4), (1, 5), (2, 6), (3, 7)))
    assert linux_fast_cores(range(8), root) == 4
    assert linux_fast_cores({0, 4}, root) == 1
    assert linux_fast_cores({0, 5}, root) == 2


def test_efficiency_cores_of_intel_do_not_count(tmp_path: Path) -> None:
    files = siblings((0, 1), (2, 3), *((core,) for core in range(4, 12))) | {
        "cpu_core/cpus": "0-3\n",
        "cpu_atom/cpus": "4-11\n",
    }
    root = system(tmp_path, files)
    assert linux_fast_cores(range(12), root) == 2
    assert linux_fast_cores(range(4, 12), root) == 8  # pinned to the slow ones: they are all there is


@pytest.mark.parametrize("measure", ["cpu_capacity", "cpufreq/cpuinfo_max_freq"])
def test_little_cores_of_arm_do_not_count(tmp_path: Path, measure: str) -> None:
    speeds = [1024, 1024, 980, 980, 446, 446, 446, 446]
    root = system(tmp_path, {f"system/cpu/cpu{i}/{measure}": f"{speed}\n" for i, speed in enumerate(speeds)})
    assert linux_fast_cores(range(8), root) == 4


def test_a_machine_that_says_nothing_has_the_cores_that_it_allows(tmp_path: Path) -> None:
    assert linux_fast_cores(range(3), tmp_path) == 3


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 6_000_000), min_size=1))
def test_the_fastest_is_always_fast(speeds: dict[int, int]) -> None:
    found = faster(speeds)
    assert max(speeds, key=lambda one: speeds[one]) in found
    assert all(speeds[one] * 10 >= max(speeds.values()) * 7 for one in found)


@given(st.sets(st.integers(0, 300), max_size=40))
def test_a_list_of_processors_is_read_back(cpus: set[int]) -> None:
    runs: list[list[int]] = []
    for one in sorted(cpus):
        if runs and runs[-1][-1] == one - 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    assert parse_cpu_list(text + "\n") == cpus


@given(st.text(alphabet="0123456789,- \nx²", max_size=60))
def test_a_list_of_processors_of_any_form(text: str) -> None:
    assert all(one >= 0 for one in parse_cpu_list(text))


def record(relationship: int, efficiency: int, size: int = 48) -> bytes:
    """SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX with one group mask, as 64-bit Windows fills it."""
    return struct.pack("<IIBB20xHQH6x", relationship, size, 1, efficiency, 1, 0b11, 0)


def test_windows_tells_each_cores_class() -> None:
    assert len(record(0, 0)) == 48
    data = record(0, 1) + record(0, 1) + record(3, 0) + record(0, 0) * 4
    assert parse_processor_cores(data) == [1, 1, 0, 0, 0, 0]


@given(st.binary(max_size=200))
def test_windows_records_of_any_form(data: bytes) -> None:
    assert all(0 <= one < 256 for one in parse_processor_cores(data))


@pytest.mark.parametrize(
    ("text", "running"),
    [
        ("0.20 0.18 0.12 3/512 4711\n", 3),
        ("0.00 0.00 0.00 1/80 1\n", 1),
        ("", None),
        ("a b c d", None),
        ("1 2 3", None),
    ],
)
def test_what_runs_now_stands_in_loadavg(text: str, running: int | None) -> None:
    assert parse_running(text) == running


@pytest.mark.parametrize(
    ("cores", "threads"),
    [
        (Cores(logical=16, fast=8), 8),  # hyper-threads
        (Cores(logical=4, fast=4), 4),
        (Cores(logical=16, fast=8, quota=2.5), 2),  # a container's quota
        (Cores(logical=16, fast=8, quota=0.5), 1),
        (Cores(logical=1, fast=1), 1),
    ],
)
def test_a_big_model_takes_the_fast_cores(cores: Cores, threads: int) -> None:
    assert threads_for(BIG, cores) == threads


def test_a_small_model_takes_fewer_threads() -> None:
    eight = Cores(logical=8, fast=8)
    assert [threads_for(n, eight) for n in (1, SHARE, 3 * SHARE, 100 * SHARE)] == [1, 1, 3, 8]


@given(st.integers(1, 64), st.integers(1, 64), st.none() | st.floats(0.1, 64), st.floats(0, 100), st.integers(0, BIG))
def test_there_is_always_a_thread_and_never_more_than_cores(
    logical: int, fast: int, quota: float | None, busy: float, size: int
) -> None:
    assert 1 <= threads_for(size, Cores(logical, fast, quota, busy)) <= min(logical, fast)


def test_this_machine() -> None:
    found = cpu.cores()
    assert 1 <= found.fast <= found.logical <= (os.cpu_count() or 1)
    assert 1 <= threads_for(BIG, found) <= cpu.usable_cores() <= found.logical
