"""A container's limits are found where they stand: in either version, at any level, behind any mount."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.cgroup import MemoryLimit, cpu_quota, memory_limits

GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712"

V2 = "33 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs ro,mode=755\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:15 - cgroup cgroup rw,memory\n"
    "36 31 0:33 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:16 - cgroup cgroup rw,cpu,cpuacct\n"
)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_lowest_of_nested_version_2_limits_counts(tmp_path: Path) -> None:
    slice_ = "sys/fs/cgroup/user.slice"
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            "proc/self/mountinfo": V2,
            f"{slice_}/cpu.max": "150000 100000\n",
            f"{slice_}/app.scope/cpu.max": "max 100000\n",
            f"{slice_}/memory.max": f"{4 * GIB}\n",
            f"{slice_}/memory.high": "max\n",
            f"{slice_}/memory.current": f"{3 * GIB}\n",
            f"{slice_}/memory.stat": f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}\n",
            f"{slice_}/app.scope/memory.high": f"{6 * GIB}\n",
            f"{slice_}/app.scope/memory.current": f"{GIB}\n",
        },
    )
    assert cpu_quota(root) == 1.5
    assert memory_limits(root) == [MemoryLimit(6 * GIB, GIB), MemoryLimit(4 * GIB, GIB + GIB // 2)]


@pytest.mark.parametrize(("seen_from", "folder"), [("/", "docker/abc/"), ("/docker/abc", "")])
def test_version_1_is_read_whether_the_container_sees_itself_as_the_root_or_not(
    tmp_path: Path, seen_from: str, folder: str
) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n0::/\n",
            "proc/self/mountinfo": V1.format(root=seen_from),
            f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_quota_us": "200000\n",
            f"sys/fs/cgroup/cpu,cpuacct/{folder}cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/memory/{folder}memory.limit_in_bytes": f"{2 * GIB}\n",
            f"sys/fs/cgroup/memory/{folder}memory.usage_in_bytes": f"{GIB}\n",
            f"sys/fs/cgroup/memory/{folder}memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
        },
    )
    assert cpu_quota(root) == 2
    assert memory_limits(root) == [MemoryLimit(2 * GIB, GIB - GIB // 4)]


@pytest.mark.parametrize("quota", ["max 100000", "-1 100000", "100000 0", "100000", "", "x y", "0 100000"])
def test_no_quota_is_no_limit(tmp_path: Path, quota: str) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "proc/self/mountinfo": V2,
        "sys/fs/cgroup/cpu.max": quota,
        "sys/fs/cgroup/memory.max": "max",
    }
    root = tree(tmp_path, files)
    assert cpu_quota(root) is None
    assert memory_limits(root) == []


def test_version_1_says_no_limit_with_a_huge_number(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n",
            "proc/self/mountinfo": V1.format(root="/"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
    )
    assert memory_limits(root) == []


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limits(tmp_path) == []


NEAR = st.text(alphabet="0123456789:/.,- \ncgroup2memorx", max_size=200)


@given(cgroup=NEAR, mounts=NEAR, limit=NEAR)
def test_nonsense_is_no_limit_and_no_error(
    tmp_path_factory: pytest.TempPathFactory, cgroup: str, mounts: str, limit: str
) -> None:
    files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": V2 + mounts, "sys/fs/cgroup/memory.max": limit}
    root = tree(tmp_path_factory.mktemp("root"), files | {"sys/fs/cgroup/cpu.max": limit})
    assert all(one.limit_bytes >= 0 and one.used_bytes >= 0 for one in memory_limits(root))
    quota = cpu_quota(root)
    assert quota is None or quota > 0
