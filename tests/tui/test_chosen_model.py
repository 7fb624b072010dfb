"""Which model is meant: the one given, else the last used, else the bundled one; and it is said."""

import os
import stat
from pathlib import Path

import pytest

from bq.runtime.errors import BqError, UsageError
from bq.tui import chosen_model
from bq.tui.chosen_model import choose_model, home, remember_model


@pytest.fixture(autouse=True)
def no_bundled_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bq.convert.convert.demo_checkpoint", lambda: tmp_path / "nothing")


def test_the_given_one_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_model(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"
    assert capsys.readouterr() == ("", "")


def test_the_users_folder_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert choose_model("~/x.gguf") == tmp_path / "x.gguf"


def test_a_checkpoints_folder_is_to_be_converted_first_and_another_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is a folder; give a GGUF file\.$"):
        choose_model(str(tmp_path))
    with pytest.raises(UsageError, match=r"name is empty\. Give a GGUF file"):
        choose_model("")
    (tmp_path / "config.json").touch()
    with pytest.raises(UsageError, match="Convert it first: bq convert"):
        choose_model(str(tmp_path))


def test_the_last_one_is_used_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "模型 2.gguf"
    for path in (first, second):
        path.touch()
        remember_model(path)
    assert choose_model(None) == second
    assert capsys.readouterr() == ("", f"Model: {second} (the last one used)\n")


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    remember_model(tmp_path / "x.gguf")
    assert [path.name for path in home().iterdir()] == ["last-model.json"]


def test_a_last_one_that_is_gone_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    remember_model(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").unlink()
    with pytest.raises(BqError, match=r"No model was used yet, and no bundled one is here\. Give one with -m"):
        choose_model(None)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"path": 3}',
        b'{"path": null}',
        b'{"path": "\\u0000"}',
        b'{"path": "/"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"path": "' + b"x" * 9999 + b'"}',
    ],
)
def test_a_damaged_state_is_none(state: bytes) -> None:
    (home() / "last-model.json").write_bytes(state)
    with pytest.raises(BqError, match="No model was used yet"):
        choose_model(None)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that refuses")
def test_a_folder_that_refuses_is_no_failure(tmp_path: Path) -> None:
    home().chmod(stat.S_IRUSR)
    remember_model(tmp_path / "x.gguf")


def test_the_bundled_one_is_converted_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.families import Shape, write_checkpoint

    write_checkpoint(tmp_path / "checkpoint", Shape(hidden=32, heads=2, ffn=32))
    monkeypatch.setattr("bq.convert.convert.demo_checkpoint", lambda: tmp_path / "checkpoint")
    path = choose_model(None)
    assert path == home() / "models" / "bq-demo-Q8_0.gguf"
    made = path.stat().st_mtime_ns
    assert choose_model(None) == path
    assert path.stat().st_mtime_ns == made
    notes = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in notes] == ["Converting the bundled model", *["Model: the bundled one"] * 2]

    later = path.stat().st_mtime + 9
    os.utime(tmp_path / "checkpoint" / "pytorch_model.bin", (later, later))
    choose_model(None)
    assert path.stat().st_mtime_ns != made


def test_the_place_is_the_systems_unless_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert home() == Path(os.environ["BQ_HOME"])
    monkeypatch.delenv("BQ_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert home().name == "bq"
    assert chosen_model.BUNDLED_MIXTURE == "Q8_0"
