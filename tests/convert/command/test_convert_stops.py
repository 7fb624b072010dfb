"""`bq convert` stopped, killed or out of space: nothing half done is ever left behind."""

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .common import PATIENCE_SECONDS, Bq, failed, start_slow, wait_until_begun


def test_with_force_the_old_file_stays_until_the_new_one_is_whole(bq: Bq, slow: Path) -> None:
    out = bq.folder / "out.gguf"
    out.write_bytes(b"mine")
    process = start_slow(bq, slow, "--force")
    assert out.read_bytes() == b"mine"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert (bq.files(), out.read_bytes()) == (["out.gguf"], b"mine")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(number: signal.Signals, bq: Bq, slow: Path) -> None:
    process = start_slow(bq, slow)
    process.send_signal(number)
    out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (130, "")
    assert errors.endswith("Stopped.\n")
    assert "Traceback" not in errors
    assert bq.files() == []


def test_a_killed_run_leaves_a_part_that_the_next_run_clears(bq: Bq, slow: Path, small: Path) -> None:
    process = start_slow(bq, slow)
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    assert bq.files() == ["out.gguf.part"]
    assert bq("convert", small, "-o", "out.gguf").returncode == 0
    assert bq.files() == ["out.gguf"]


def test_of_two_runs_on_one_file_the_second_refuses(bq: Bq, slow: Path, small: Path) -> None:
    process = start_slow(bq, slow)
    failed(bq("convert", small, "-o", "out.gguf"), 1, "Another bq is writing out.gguf")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert bq.files() == []


@pytest.mark.parametrize("limit", [1_000, 30_000, 1_000_000, 1_300_000])
def test_a_file_that_cannot_grow_is_one_line_and_nothing_is_left(limit: int, bq: Bq, small: Path) -> None:
    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = bq("convert", small, "-q", "Q8_0", preexec_fn=restrict)
    failed(done, 1, "Writing mine-chat-Q8_0.gguf failed: File too large")
    assert bq.files() == []


def fill(path: Path) -> None:
    """Write to a file until its disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_too_little_space_is_told_before_the_work(bq: Bq, small: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(500_000)
    failed(bq("convert", small, "-o", disk / "out.gguf"), 1, "GB free, the file needs", "smaller mixture")
    assert list(disk.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_fills_up_is_one_line_and_nothing_is_left(
    bq: Bq, slow: Path, tiny_disk: Callable[[int], Path]
) -> None:
    disk = tiny_disk(18_000_000)
    process = bq.start("convert", slow, "-q", "IQ3_S", "-o", disk / "out.gguf", "--threads", 1)
    wait_until_begun(process, disk / "out.gguf.part")
    fill(disk / "other")
    out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    done = subprocess.CompletedProcess([], process.returncode, out, errors)
    failed(done, 1, "No space left on device", "Nothing was left")
    assert [path.name for path in disk.iterdir()] == ["other"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_space_is_asked_for_all_files_together(bq: Bq, small: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(3_000_000)
    assert bq("convert", small, "-q", "Q8_0", "-o", disk / "out.gguf").returncode == 0
    (disk / "out.gguf").unlink()
    failed(bq("convert", small, "-q", "Q8_0", "-q", "F16", "-o", disk), 1, "GB free, the files need")
    assert list(disk.iterdir()) == []
