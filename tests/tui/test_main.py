"""What holds for every command: languages, wrong uses, exit statuses, and failures in one clear line."""

import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.tui import main
from bq.tui.cli import COMMANDS, cli
from tests.tui.conftest import Bq


@pytest.mark.parametrize(
    "arguments",
    [("--lang", "zh", "--help"), ("--help", "--lang=zh"), ("models", "-h", "--lang", "zh"), ("run", "--lang=zh", "-h")],
)
def test_the_language_stands_anywhere(bq: Bq, arguments: tuple[str, ...]) -> None:
    done = bq(*arguments)
    assert done.returncode == 0
    assert any("一" <= character <= "鿿" for character in done.stdout.decode())


def test_the_language_comes_from_the_environment(bq: Bq) -> None:
    assert "列出 Baichuan" in bq("--help", env={"BQ_LANG": "zh"}).stdout.decode()
    assert "列出 Baichuan" in bq("--help", env={"BQ_LANG": "", "LC_ALL": "zh_CN.UTF-8"}).stdout.decode()
    assert "Every Baichuan release" in bq("--help", "--lang", "en", env={"BQ_LANG": "zh"}).stdout.decode()


@pytest.mark.parametrize("value", ["fr", "", None])
def test_another_language_is_a_wrong_use(bq: Bq, value: str | None) -> None:
    done = bq("models", "--lang", *([] if value is None else [value]))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"bq: --lang: {value or ''!r} is not one of en, zh\n"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_help_names_every_command(bq: Bq, language: str) -> None:
    done = bq("--help", "--lang", language)
    for name in COMMANDS:
        assert f"  {name} " in done.stdout.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)  # type: ignore[attr-defined]
    assert isinstance(command, click.Command)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("arguments", [("nonsense",), ("models", "--nonsense"), ("run", "a", "b", "c"), ("convert",)])
def test_a_wrong_use_exits_2_and_says_how(bq: Bq, arguments: tuple[str, ...]) -> None:
    done = bq(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
    assert b"Usage: bq" in done.stderr


def test_both_names_of_the_program_are_there(bq_command: Path) -> None:
    done = subprocess.run([bq_command.with_name("baichuan-bq"), "--version"], capture_output=True, check=True)
    assert b"0." in done.stdout


def _run(monkeypatch: pytest.MonkeyPatch, error: BaseException, debug: bool = False) -> int:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fail)
    return main.run([], debug)


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (BqError("It is broken.", "Mend it."), 1, "bq: It is broken. Mend it.\n"),
        (BqError("Two\n lines."), 1, "bq: Two lines.\n"),
        (UsageError("Not so."), 2, "bq: Not so.\n"),
        (Cancelled("Stopped here."), 130, "bq: Stopped here.\n"),
        (KeyboardInterrupt(), 130, "\nStopped.\n"),
        (click.Abort(), 130, "\nStopped.\n"),
    ],
)
def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, shown: str
) -> None:
    assert _run(monkeypatch, error) == status
    assert capsys.readouterr() == ("", shown)


def test_a_defect_is_called_one_and_debug_shows_its_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, ZeroDivisionError("oh")) == 1
    assert capsys.readouterr().err.startswith("bq: a defect of bq: ZeroDivisionError: oh. Run it again with --debug")
    with pytest.raises(ZeroDivisionError):
        _run(monkeypatch, ZeroDivisionError("oh"), debug=True)


def test_debug_shows_where_a_failure_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, BqError("It is broken."), debug=True) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("bq: It is broken.\n")


def _taken(*arguments: str) -> tuple[list[str], bool]:
    return main._take_global_options(list(arguments))


def test_global_options_are_taken_wherever_they_stand() -> None:
    assert _taken("run", "--debug", "-m", "x", "--lang=en", "hi") == (["run", "-m", "x", "hi"], True)
    assert _taken("run", "--", "--debug", "--lang") == (["run", "--", "--debug", "--lang"], False)
    assert _taken() == ([], False)


def test_help_does_not_wait_for_heavy_imports(bq_command: Path) -> None:
    code = (
        "import sys; sys.argv = ['bq', '--help']\n"
        "from bq.tui.main import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'llama_cpp', 'textual', 'gguf', 'sentencepiece'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    python = bq_command.with_name("python")
    assert subprocess.run([python, "-c", code], capture_output=True, check=True).stderr == b"[]\n"
