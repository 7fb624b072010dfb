"""`bq imatrix` prints the path of what it wrote, tells the rest on stderr, and goes on where it was stopped."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bq.runtime.errors import BqError
from bq.runtime.evaluation.imatrix_file import read_imatrix
from bq.runtime.language import set_language
from bq.tui.cli import cli
from bq.tui.commands import imatrix
from tests.tui.conftest import Bq

Convert = Callable[..., Path]


@pytest.fixture(scope="module")
def model(converted: Convert) -> Path:
    return converted("b2-7b", hidden=32, heads=2, ffn=32)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with two texts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one text of a few words. " * 30, encoding="utf-8")
    (tmp_path / "b.txt").write_text("另一段文本，" * 30, encoding="utf-8")
    return tmp_path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["imatrix", *map(str, arguments)], catch_exceptions=False)


def refused(*arguments: Any) -> str:
    with pytest.raises(BqError) as caught:
        run(*arguments)
    return str(caught.value)


def test_it_writes_beside_the_user_and_prints_the_path(here: Path, model: Path) -> None:
    done = run(model, "--text", "a.txt", "--text", "b.txt", "--ctx", 64)
    assert done.stdout == "b2-7b-F32.imatrix\n"
    matrix = read_imatrix(here / "b2-7b-F32.imatrix")
    assert (matrix.datasets, matrix.chunk_size, len(matrix.entries)) == (("a.txt", "b.txt"), 64, 32 * 7)
    assert f"224 matrices over {matrix.chunks * 64:,} tokens, in chunks of 64: " in done.stderr


def test_as_json_with_the_output_matrix_and_so_many_chunks(here: Path, model: Path) -> None:
    done = run(model, "-o", "x", "--text", "a.txt", "--ctx", 64, "--chunks", 2, "--process-output", "--json")
    about = json.loads(done.stdout)
    assert about.pop("seconds") > 0
    assert about == {"path": "x", "matrices": 225, "chunks": 2, "chunk_size": 64, "datasets": ["a.txt"]}
    assert "output.weight" in read_imatrix(here / "x").entries


def test_without_a_text_it_takes_the_bundled_one(here: Path, model: Path) -> None:
    run(model, "-o", "x", "--ctx", 64, "--chunks", 1)
    assert read_imatrix(here / "x").datasets == ("bq-calibration",)


def test_what_cannot_be_is_refused_in_a_line(here: Path, model: Path) -> None:
    (here / "latin").write_bytes("é".encode("latin-1"))
    assert refused(model, "--text", "none.txt").startswith("There is no file none.txt.")
    assert refused(model, "--text", "latin").startswith("latin is no UTF-8 text: byte 1.")
    assert refused("none.gguf").startswith("There is no file none.gguf.")
    assert refused(here).startswith(f"{here} cannot be read: ")
    (here / "x").write_text("mine")
    assert refused(model, "-o", "x").startswith("x exists already. Use --force")
    set_language("zh")
    assert refused(model, "-o", "x").startswith("x 已存在。")
    assert (here / "x").read_text() == "mine"


def test_a_model_that_answers_wrong_is_warned_of(here: Path, tmp_path: Path, model: Path) -> None:
    data = model.read_bytes().replace(b"bq.variant", b"xx.variant").replace(b"add_space_prefix", b"xxx_space_prefix")
    (tmp_path / "other.gguf").write_bytes(data)
    assert "Warning: other.gguf: " in run("other.gguf", "--text", "a.txt", "--ctx", 64, "--chunks", 1).stderr


def test_ctrl_c_keeps_the_chunks_and_the_same_command_goes_on(
    here: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: imatrix.ChunkLine, done: int, of: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    command = (model, "-o", "x", "--text", "a.txt", "--ctx", 64, "--chunks", 3)
    with monkeypatch.context() as patch:
        patch.setattr(imatrix.ChunkLine, "__call__", interrupt)
        assert refused(*command) == "Stopped after 2 of 3 chunks. The same command goes on there."
    assert not (here / "x").exists()
    assert "Goes on after 2 of 3 chunks." in run(*command).stderr
    run(*command[:2], "y", *command[3:])
    assert (here / "x").read_bytes() == (here / "y").read_bytes()


def test_the_installed_command_ends_with_the_right_status(here: Path, model: Path, bq: Bq) -> None:
    """Without a terminal there is no progress line, only what was done."""
    done = bq("imatrix", model, "-o", "x", "--text", "a.txt", "--ctx", "64", "--chunks", "1", cwd=here)
    assert (done.returncode, done.stdout.split()) == (0, [b"x"])
    assert len(done.stderr.splitlines()) == 1
    again = bq("imatrix", model, "-o", "x", "--text", "a.txt", cwd=here)
    assert (again.returncode, again.stdout) == (2, b"")
