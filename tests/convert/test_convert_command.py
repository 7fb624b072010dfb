"""`bq convert` as a process: what it prints, its exit status, and that nothing half done is ever left behind."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.runtime.gguf_file import read_gguf
from tests.support.families import Shape, write_checkpoint
from tests.support.stored import Stored, stored

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, flock and pseudo-terminals are those of POSIX")
SMALL = Shape(hidden=64, heads=4, ffn=96)
SLOW = Shape(hidden=256, heads=4, ffn=1024, vocab=6000)  # some seconds in IQ3_S on one thread


class Bq:
    """Runs the installed command in a folder of its own."""

    def __init__(self, command: Path, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.environment = {**os.environ, "BQ_HOME": str(folder / "home"), "BQ_LANG": "en"}

    def __call__(self, *arguments: object, **named: Any) -> "subprocess.CompletedProcess[str]":
        environment = self.environment | named.pop("env", {})
        command = [str(self.command), *map(str, arguments)]
        given = {"capture_output": True, "text": True, "timeout": 60, **named}
        return subprocess.run(command, cwd=self.folder, env=environment, **given)

    def start(self, *arguments: object, **named: Any) -> "subprocess.Popen[str]":
        command = [str(self.command), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **named}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "home")


@pytest.fixture
def bq(bq_command: Path, tmp_path: Path) -> Bq:
    return Bq(bq_command, tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "mine-chat"
    write_checkpoint(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow") / "slow-chat"
    write_checkpoint(folder, SLOW)
    return folder


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NaN in the tensor that is written last."""
    folder = tmp_path_factory.mktemp("spoiled") / "bad-chat"
    last = "model.layers.31.mlp.up_proj.weight"
    bad = np.ones((96, 64), "<f4")
    bad[-1, -1] = np.nan

    def edit(tensors: list[Stored]) -> list[Stored]:
        return [stored(last, bad) if one.name == last else one for one in tensors]

    write_checkpoint(folder, SMALL, edit=edit)
    return folder


def failed(done: "subprocess.CompletedProcess[str]", status: int, *says: str) -> None:
    """One line that begins with bq:, the last, no trace, nothing on stdout."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert [line for line in lines if line.startswith(("bq: ", "bq："))] == lines[-1:]
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert done.stdout == ""
    assert all(text in lines[-1] for text in says), lines[-1]


def wait_until_begun(process: "subprocess.Popen[str]", part: Path) -> None:
    """Wait until the process has written some of the data."""
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start_slow(bq: Bq, slow: Path, *more: object, **named: Any) -> "subprocess.Popen[str]":
    process = bq.start("convert", slow, "-q", "IQ3_S", "-o", "out.gguf", "--threads", 1, *more, **named)
    wait_until_begun(process, bq.folder / "out.gguf.part")
    return process


def test_it_prints_the_path_alone_on_stdout_and_is_quiet_without_a_terminal(bq: Bq, small: Path) -> None:
    done = bq("convert", small, "-q", "Q8_0")
    assert (done.returncode, done.stdout) == (0, "mine-chat-Q8_0.gguf\n")
    assert "\r" not in done.stderr
    assert "\x1b" not in done.stderr
    for text in ("mine-chat: Baichuan 2", "Variant: chat", "NormHead: folded", "12 texts give", "Wrote"):
        assert text in done.stderr
    assert bq.files() == ["mine-chat-Q8_0.gguf"]


def test_a_dry_run_writes_nothing_and_its_size_is_the_files(bq: Bq, small: Path) -> None:
    text, plan = bq("convert", small, "--dry-run"), bq("convert", small, "--dry-run", "--json")
    assert (text.returncode, plan.returncode) == (0, 0)
    assert bq.files() == []
    assert "blk.31.ffn_up.weight" in text.stdout
    assert "bits per weight" in text.stdout
    bq("convert", small)
    size = (bq.folder / "mine-chat-Q4_K_M.gguf").stat().st_size
    assert abs(json.loads(plan.stdout)["size_bytes"] / size - 1) < 0.01


def test_an_existing_file_is_kept_without_force_and_replaced_with_it(bq: Bq, small: Path) -> None:
    out = bq.folder / "out.gguf"
    out.write_bytes(b"mine")
    failed(bq("convert", small, "-o", out), 2, "exists already", "--force")
    assert out.read_bytes() == b"mine"
    assert bq("convert", small, "-o", out, "--force").returncode == 0
    assert out.read_bytes().startswith(b"GGUF")
    assert bq.files() == ["out.gguf"]


def test_a_failure_in_the_last_tensor_leaves_the_old_file_and_no_part(bq: Bq, spoiled: Path) -> None:
    out = bq.folder / "out.gguf"
    out.write_bytes(b"mine")
    done = bq("convert", spoiled, "-o", out, "--force", "-q", "Q8_0")
    failed(done, 1, "model.layers.31.mlp.up_proj.weight", "row 95, column 63 is nan")
    assert (bq.files(), out.read_bytes()) == (["out.gguf"], b"mine")


def test_with_force_the_old_file_stays_until_the_new_one_is_whole(bq: Bq, slow: Path) -> None:
    out = bq.folder / "out.gguf"
    out.write_bytes(b"mine")
    process = start_slow(bq, slow, "--force")
    assert out.read_bytes() == b"mine"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert (bq.files(), out.read_bytes()) == (["out.gguf"], b"mine")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(number: signal.Signals, bq: Bq, slow: Path) -> None:
    process = start_slow(bq, slow)
    process.send_signal(number)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert errors.endswith("Stopped.\n")
    assert "Traceback" not in errors
    assert bq.files() == []


def test_a_killed_run_leaves_a_part_that_the_next_run_clears(bq: Bq, slow: Path, small: Path) -> None:
    process = start_slow(bq, slow)
    process.kill()
    process.communicate(timeout=30)
    assert bq.files() == ["out.gguf.part"]
    assert bq("convert", small, "-o", "out.gguf").returncode == 0
    assert bq.files() == ["out.gguf"]


def test_of_two_runs_on_one_file_the_second_refuses(bq: Bq, slow: Path, small: Path) -> None:
    process = start_slow(bq, slow)
    failed(bq("convert", small, "-o", "out.gguf"), 1, "Another bq is writing out.gguf")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
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


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of some bytes, where the system allows it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("no tmpfs can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


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
    out, errors = process.communicate(timeout=60)
    done = subprocess.CompletedProcess([], process.returncode, out, errors)
    failed(done, 1, "No space left on device", "Nothing was left")
    assert [path.name for path in disk.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere"], 2, "nowhere is not a folder"),
        (["{small}", "-q", "Q9"], 2, "There is no mixture Q9"),
        (["{small}", "-o", "no/such/out.gguf"], 2, "There is no folder"),
        (["{small}", "-o", "none/"], 2, "There is no folder none to write into"),
        (["{small}", "--force", "-o", "/dev/null"], 2, "is a folder or a device"),
        (["{small}", "-o", "x" * 253], 1, "File name too long"),
        (["{small}", "-o", "x" * 300], 1, "File name too long"),
        (["x" * 300], 1, "File name too long"),
        (["."], 1, "config.json is missing"),
    ],
)
def test_a_wrong_use_ends_with_2_and_a_failure_with_1(
    arguments: list[str], status: int, says: str, bq: Bq, small: Path
) -> None:
    failed(bq("convert", *(one.format(small=small) for one in arguments)), status, says)
    assert bq.files() == []


@pytest.mark.parametrize("arguments", [[], ["a", "--threads", "0"], ["a", "--variant", "x"], ["a", "--unknown"]])
def test_options_that_do_not_exist_end_with_2(arguments: list[str], bq: Bq) -> None:
    done = bq("convert", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_messages_come_in_chinese(bq: Bq, small: Path) -> None:
    chinese = {"BQ_LANG": "zh"}
    failed(bq("convert", "nowhere", env=chinese), 2, "nowhere 不是文件夹")
    done = bq("convert", small, env=chinese)
    assert "NormHead：已折入 output.weight" in done.stderr
    assert "与 SentencePiece 一致" in done.stderr


def test_the_variant_can_be_given(bq: Bq, small: Path) -> None:
    done = bq("convert", small, "--variant", "base", "--dry-run", "--json")
    assert json.loads(done.stdout)["variant"] == "base"


def test_a_progress_line_is_drawn_on_a_terminal(bq: Bq, slow: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    process = bq.start("convert", slow, "-q", "Q4_K_M", "-o", "out.gguf", "--threads", 1, stderr=follower)
    os.close(follower)
    drawn = b""
    try:
        while data := os.read(leader, 65536):
            drawn += data
    except OSError:  # Linux ends a pseudo-terminal with EIO
        pass
    assert process.communicate(timeout=60)[0] == "out.gguf\n"
    os.close(leader)
    text = drawn.decode()
    assert "100%  blk.31.ffn_up.weight" in text
    assert " MB/s  " in text
    assert "0:00 left" in text
    assert text.index("\r\x1b[KChecked") > text.index("100%")


def test_several_mixtures_come_from_one_read_as_they_come_alone(bq: Bq, small: Path) -> None:
    for mixture in ("Q8_0", "BF16"):
        assert bq("convert", small, "-q", mixture, "-o", f"{mixture}.gguf").returncode == 0
    done = bq("convert", small, "-q", "Q8_0", "-q", "bf16", "-q", "q8_0")
    assert done.stdout == "mine-chat-Q8_0.gguf\nmine-chat-BF16.gguf\n"
    for mixture in ("Q8_0", "BF16"):
        together = (bq.folder / f"mine-chat-{mixture}.gguf").read_bytes()
        assert together == (bq.folder / f"{mixture}.gguf").read_bytes()


def test_several_files_go_into_a_folder(bq: Bq, small: Path) -> None:
    failed(bq("convert", small, "-q", "Q8_0", "-q", "F16", "-o", "out.gguf"), 2, "There is no folder out.gguf")
    (bq.folder / "models").mkdir()
    done = bq("convert", small, "-q", "Q8_0", "-q", "F16", "-o", "models")
    assert done.stdout.split() == ["models/mine-chat-Q8_0.gguf", "models/mine-chat-F16.gguf"]
    plans = json.loads(bq("convert", small, "-q", "Q8_0", "-q", "F16", "--dry-run", "--json").stdout)
    assert [plan["mixture"] for plan in plans] == ["Q8_0", "F16"]


def test_of_several_files_all_get_their_names_or_none(bq: Bq, small: Path, spoiled: Path) -> None:
    failed(bq("convert", spoiled, "-q", "Q8_0", "-q", "F16"), 1, "row 95, column 63 is nan")
    assert bq.files() == []
    (bq.folder / "mine-chat-F16.gguf").write_bytes(b"mine")
    failed(bq("convert", small, "-q", "Q8_0", "-q", "F16"), 2, "mine-chat-F16.gguf exists already")
    assert bq.files() == ["mine-chat-F16.gguf"]


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_space_is_asked_for_all_files_together(bq: Bq, small: Path, tiny_disk: Callable[[int], Path]) -> None:
    disk = tiny_disk(3_000_000)
    assert bq("convert", small, "-q", "Q8_0", "-o", disk / "out.gguf").returncode == 0
    (disk / "out.gguf").unlink()
    failed(bq("convert", small, "-q", "Q8_0", "-q", "F16", "-o", disk), 1, "GB free, the files need")
    assert list(disk.iterdir()) == []


def test_rows_that_do_not_divide_are_told_with_a_mixture_that_serves_them_better(bq: Bq, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m13-chat", Shape("b2-13b", hidden=256, heads=4, ffn=352))
    text = bq("convert", tmp_path / "m13-chat", "--dry-run").stdout
    assert "Q4_K_M: 20 × ffn_down has rows of 352, which do not divide by 256: Q8_0 in place of Q6_K (+" in text
    assert "Q4_K_M: 20 × ffn_down has rows of 352, which do not divide by 256: Q5_0 in place of Q4_K (+" in text
    assert "Q4_K_M: -q Q4_K_M_NL shares the bits out more evenly" in text
    plan = json.loads(bq("convert", tmp_path / "m13-chat", "--dry-run", "--json").stdout)
    assert [(one["wanted"], one["given"], one["tensors"]) for one in plan["fallbacks"]] == [
        ("Q6_K", "Q8_0", 20),
        ("Q4_K", "Q5_0", 20),
    ]
    assert all(one["more_bytes"] > 0 for one in plan["fallbacks"])
    done = bq("convert", tmp_path / "m13-chat", "-q", "q4_k_m_nl")
    assert done.stdout == "m13-chat-Q4_K_M_NL.gguf\n"
    assert "(m13-chat, Q4_K_M_NL)" in bq("doctor", "m13-chat-Q4_K_M_NL.gguf").stdout
    assert bq("run", "-m", "m13-chat-Q4_K_M_NL.gguf", "--max-tokens", 1, "--ctx", 256, "a").returncode == 0


def test_a_mixture_of_ours_that_changes_nothing_is_refused(bq: Bq) -> None:
    failed(bq("convert", "demo", "-q", "Q4_K_M_NL"), 2, "Q4_K_M_NL is the same as Q4_K_M", "-q Q4_K_M")


def test_an_effort_that_cannot_be_made_is_refused_before_the_work(bq: Bq) -> None:
    failed(bq("convert", "demo", "--effort", "high", "-q", "Q8_0", "--dry-run"), 2, "--effort high has no effect")
    failed(bq("convert", "demo", "--effort", "high", "--quantizer", "ggml"), 2, "have no --effort high")
    failed(bq("convert", "demo", "--effort", "high", "-q", "Q8_0"), 2, "--effort high has no effect on any type here")
    assert bq.files() == []


def test_the_kernels_are_named_when_they_work(bq: Bq) -> None:
    pytest.importorskip("numba", reason="numba (the extra `fast`) is not installed")
    done = bq("convert", "demo", "-q", "IQ4_NL", "--quantizer", "fast")
    assert "fast kernels for Q5_K Q6_K IQ4_NL" in done.stderr
    assert "their bytes are llama.cpp's" in done.stderr


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that divide by 256, for types that need an importance matrix."""
    folder = tmp_path_factory.mktemp("wide") / "wide-chat"
    write_checkpoint(folder, Shape(hidden=256, heads=4, ffn=256))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chunk of 512 tokens and some more."""
    path = tmp_path_factory.mktemp("text") / "mine.txt"
    path.write_text("你好，世界！What can it do? " * 40, encoding="utf-8")
    return path


def test_an_importance_matrix_is_gathered_on_the_way_and_its_file_removed(bq: Bq, wide: Path, text: Path) -> None:
    done = bq("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text", text)
    assert (done.returncode, done.stdout) == (0, "wide-chat-Q2_K_S.gguf\n"), done.stderr
    assert bq.files() == ["wide-chat-Q2_K_S.gguf"]
    steps = [line for line in done.stderr.splitlines() if line.startswith("Step ")]
    assert [step[:12] for step in steps] == ["Step 1 of 3:", "Step 2 of 3:", "Step 3 of 3:"]
    assert "BF16 to gather from" in steps[0]
    keys = read_gguf(bq.folder / "wide-chat-Q2_K_S.gguf").metadata
    assert keys["quantize.imatrix.dataset"] == "mine.txt"
    assert keys["quantize.imatrix.entries_count"] == 7 * 32
    assert "quantize.imatrix.file" not in keys


def test_the_steps_one_by_one_give_the_same_file(bq: Bq, wide: Path, text: Path) -> None:
    assert bq("convert", wide, "-q", "Q3_K_S", "--calibrate", "--text", text, "-o", "at-once.gguf").returncode == 0
    assert bq("convert", wide, "-q", "BF16", "-o", "exact.gguf").returncode == 0
    assert bq("imatrix", "exact.gguf", "--text", text, "-o", "my.imatrix").returncode == 0
    done = bq("convert", wide, "-q", "Q3_K_S", "--imatrix", "my.imatrix", "-o", "steps.gguf")
    assert done.returncode == 0, done.stderr
    one, other = (read_gguf(bq.folder / name) for name in ("at-once.gguf", "steps.gguf"))
    assert other.metadata.pop("quantize.imatrix.file") == "my.imatrix"
    assert one.metadata == other.metadata
    for name, tensor in one.tensors.items():
        parts = [file.bytes[file.tensors[name].start :][: tensor.size_bytes] for file in (one, other)]
        assert np.array_equal(*parts), name


def test_what_calibration_cannot_use_is_told_before_the_work_and_nothing_is_left(
    bq: Bq, wide: Path, text: Path
) -> None:
    (bq.folder / "short.txt").write_text("你好", encoding="utf-8")
    call = ("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text")
    failed(bq(*call, "none.txt"), 2, "There is no file none.txt")
    failed(bq(*call, "short.txt"), 2, "a chunk takes 512")
    (bq.folder / "wide-chat-Q2_K_S.gguf").write_bytes(b"mine")
    failed(bq(*call, text), 2, "wide-chat-Q2_K_S.gguf exists already")
    assert bq.files() == ["short.txt", "wide-chat-Q2_K_S.gguf"]


def test_a_calibration_that_is_stopped_leaves_nothing(bq: Bq, wide: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("你好，世界！What can it do? " * 4_000, encoding="utf-8")
    process = bq.start("convert", wide, "-q", "Q2_K_S", "--calibrate", "--text", long, "-o", "out.gguf")
    assert process.stderr is not None
    while "Step 2 of 3" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), errors
    assert "Traceback" not in errors
    assert bq.files() == ["long.txt"]


def test_a_plan_of_types_is_followed_and_named(bq: Bq, small: Path) -> None:
    plan = {"format": "bq-types-1", "name": "mine", "base": "Q4_0", "types": {"blk.0.*": "Q8_0"}, "note": {}}
    (bq.folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = bq("convert", small, "--types", "plan.json")
    assert done.stdout == "mine-chat-mine.gguf\n", done.stderr
    kinds = {name: one.kind.name for name, one in read_gguf(bq.folder / "mine-chat-mine.gguf").tensors.items()}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.1.attn_q.weight"]) == ("Q8_0", "Q4_0")
    told = json.loads(bq("convert", small, "--types", "plan.json", "--dry-run", "--json").stdout)
    assert (told["mixture"], told["base"], told["importance"]) == ("mine", "Q4_0", False)
    failed(bq("convert", small, "--types", "plan.json", "-q", "Q8_0"), 2, "-q and --types do not go together")
    (bq.folder / "plan.json").write_text(json.dumps(plan | {"types": {"blk.77.*": "Q8_0"}}), encoding="utf-8")
    failed(bq("convert", small, "--types", "plan.json"), 1, "blk.77.* matches no matrix")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["-q", "IQ2_M"], 2, "no use without an importance matrix"),
        (["--imatrix", "none"], 2, "There is no file none"),
        (["--imatrix", "a", "--calibrate"], 2, "--imatrix and --calibrate do not go together"),
        (["--text", "a"], 2, "--text goes with --calibrate"),
        (["--types", "none.json"], 2, "There is no file none.json"),
    ],
)
def test_options_of_quality_that_cannot_work_are_refused(
    arguments: list[str], status: int, says: str, bq: Bq, wide: Path
) -> None:
    failed(bq("convert", wide, *arguments), status, says)
    assert bq.files() == []
