"""`bq convert` as it is called: what it prints, its exit status, and that nothing half done is left."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .common import PATIENCE_SECONDS, Bq, failed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals, flock and pseudo-terminals are those of POSIX")


def test_it_prints_the_path_alone_on_stdout_and_is_quiet_without_a_terminal(bq: Bq, small: Path) -> None:
    done = bq("convert", small, "-q", "Q8_0", stdin=subprocess.DEVNULL)
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


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nowhere"], 2, "nowhere is not a folder"),
        (["Baichuan2-7B-Chat"], 2, "no folder Baichuan2-7B-Chat. Fetch and convert it: bq pull baichuan2-7b-chat"),
        (["baichuan-m1-14b-base"], 2, "llama.cpp has no graph that computes it"),
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
    assert process.communicate(timeout=PATIENCE_SECONDS)[0] == "out.gguf\n"
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
