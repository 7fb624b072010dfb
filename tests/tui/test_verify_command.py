"""`bq verify` as a person and as a program use it: lines, last line, JSON, exit status, and wrong use in plain words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import wrong_files as wrong
from tests.support.wrong_files import write_wrong
from tests.tui.conftest import Bq

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def source(path: Path) -> Path:
    return path.parent / "checkpoint"


def test_a_right_file_says_what_its_checkpoint_says(bq: Bq, path: Path, source: Path) -> None:
    done = bq("verify", path, "--against", source, "--tokens", 12)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert lines[0].startswith("pass     checkpoint: Baichuan 2, chat, Q8_0, 0.00 GiB, made by bq ")
    assert {line.split()[0] for line in lines[:-2]} == {"pass"}
    assert lines[-1].startswith(f"{path.name} says what {source} says: 291 tensors bit for bit, ")
    assert "the ids of SentencePiece, KL divergence" in lines[-1]
    assert lines[-1].endswith("over 12 tokens.")
    assert done.stderr == b""


def test_alone_it_says_what_is_left_to_prove(bq: Bq, path: Path) -> None:
    done = bq("verify", path)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[-1] == (
        f"{path.name} is sound by itself. Whether it says what its checkpoint says: --against CHECKPOINT."
    )


def test_the_texts_are_chinese_where_the_reader_is(bq: Bq, path: Path, source: Path) -> None:
    done = bq("--lang", "zh", "verify", path, "--against", source, "--quick")
    lines = done.stdout.decode().splitlines()
    assert {line.split()[0] for line in lines[:-2]} == {"通过"}
    assert lines[-1].startswith(f"{path.name} 与 {source} 一致：291 个张量逐位一致")


def test_a_wrong_file_fails_with_its_faults_and_remedies(bq: Bq, path: Path, tmp_path: Path) -> None:
    broken = write_wrong(path, tmp_path / "x.gguf", wrong.typed(1, 195, 196), wrong.without("general.name"))
    done = bq("verify", broken)
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1
    failure = next(i for i, line in enumerate(lines) if line.startswith("FAILURE"))
    assert "Role pieces are not CONTROL" in lines[failure]
    assert lines[failure + 1].strip().startswith("Mend it with `bq repair`")
    assert sum("bq repair" in line for line in lines) == 1
    assert lines[-1] == "x.gguf is not right: 1 failure; 1 warning."


def test_warnings_alone_are_no_failure(bq: Bq, path: Path, tmp_path: Path) -> None:
    file = write_wrong(path, tmp_path / "x.gguf", wrong.without("general.name"))
    done = bq("verify", file)
    assert done.returncode == 0
    assert "is sound by itself; 1 warning." in done.stdout.decode()


def test_json_holds_every_check_by_its_name(bq: Bq, path: Path, source: Path, tmp_path: Path) -> None:
    done = bq("verify", path, "--against", source, "--text", "模型 model", "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["verdict"]) == (0, "pass")
    assert (data["file"], data["against"]) == (str(path), str(source))
    checks = {check["name"]: check for check in data["checks"]}
    assert len(checks) == len(data["checks"])
    assert {
        "structure",
        "role-pieces",
        "norm-head",
        "tensors",
        "vocabulary",
        "token-ids",
        "weights",
        "logits",
    } <= checks.keys()
    assert checks["weights"]["details"]["exact"] == 291
    assert 0 < checks["logits"]["details"]["tokens"] < 12
    damaged = write_wrong(path, tmp_path / "x.gguf", wrong.flipped_bit("blk.1.attn_v.weight", 345))
    done = bq("verify", damaged, "--against", source, "--quick", "--json")
    data = json.loads(done.stdout)
    assert (done.returncode, data["verdict"]) == (1, "failure")
    (found,) = [check for check in data["checks"] if check["verdict"] == "failure"]
    assert (found["details"]["tensor"], found["details"]["row"]) == ("blk.1.attn_v.weight", 0)
    assert found["remedy"]


def test_the_text_may_be_a_file(bq: Bq, path: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("你好 " * 50, encoding="utf-8")
    done = bq("verify", path, "--against", source, "--text", tmp_path / "text.txt", "--tokens", 20)
    assert done.stdout.decode().rstrip().endswith("over 20 tokens.")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", "x"], "--text goes with --against"),
        (["--tokens", "8"], "--tokens goes with --against"),
        (["--quick"], "--quick goes with --against"),
        (["--against", "x.gguf"], "--against takes a checkpoint"),
        (["--against", "nowhere"], "nowhere is not a folder"),
        (["--against", "demo", "--quick", "--tokens", "8"], "which --quick leaves out"),
        (["--against", "demo", "--text", ""], "The text is empty"),
    ],
)
def test_a_wrong_use_is_told_before_any_work(bq: Bq, path: Path, options: list[str], words: str) -> None:
    done = bq("verify", path, *options)
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert done.stdout == b""


def test_what_is_no_file_is_a_wrong_use(bq: Bq, source: Path, tmp_path: Path) -> None:
    for given, words in (
        (tmp_path / "no.gguf", "There is no file"),
        (tmp_path, "is a folder"),
        (source, "Convert it first"),
    ):
        done = bq("verify", given)
        assert done.returncode == 2
        assert words in done.stderr.decode()


def test_a_checkpoint_that_cannot_be_read_is_an_error(bq: Bq, path: Path, tmp_path: Path) -> None:
    done = bq("verify", path, "--against", tmp_path)
    assert done.returncode == 1
    assert "config.json" in done.stderr.decode()


def test_a_broken_file_is_a_failure_in_its_line(bq: Bq, tmp_path: Path, source: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\3\0\0\0")
    done = bq("verify", tmp_path / "x.gguf", "--against", source)
    assert done.returncode == 1
    assert done.stdout.decode().startswith("FAILURE  x.gguf is no whole GGUF file")
    assert done.stderr == b""
