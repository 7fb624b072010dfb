"""What holds for every command: languages, wrong uses, exit statuses, and failures in one clear line."""

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.tui import main
from bq.tui.cli import COMMANDS, cli
from tests.tui.conftest import Bq

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, descriptors and terminals")


@pytest.fixture
def bq(bq_process: Bq) -> Bq:
    """Always a process: how it begins and ends is what these tests are about."""
    return bq_process


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


@pytest.mark.parametrize(
    ("number", "language", "shown"),
    [
        (errno.EACCES, "en", "bq: Permission denied: x. Check the permissions.\n"),
        (errno.ENOSPC, "en", "bq: No space left on device: x. Free some space.\n"),
        (errno.ENOSPC, "zh", "bq: No space left on device: x。请腾出空间。\n"),
        (errno.ENOTTY, "en", f"bq: {os.strerror(errno.ENOTTY)}: x. Check the file and the disk.\n"),
    ],
)
def test_what_the_machine_refuses_comes_with_a_remedy(bq_command: Path, number: int, language: str, shown: str) -> None:
    code = (
        "import sys\nfrom bq.tui import cli, main\n"
        f"def refuse(*_, **__): raise OSError({number}, {os.strerror(number)!r}, 'x')\n"
        "cli.cli.main = refuse\nmain.main()\n"
    )
    done = _python(bq_command, code, "--lang", language)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", shown)


def _python(bq_command: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    python = bq_command.with_name("python")
    return subprocess.run([python, "-c", code, *arguments], capture_output=True, timeout=60, check=False)


def test_after_a_full_width_stop_no_space_is_left() -> None:
    assert str(BqError("错了。", "请改正。")) == "错了。请改正。"
    assert str(BqError("错了", "请改正。")) == "错了 请改正。"


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", ["click", "bq.tui.commands.models"])
def test_an_interrupt_while_bq_is_starting_is_one_line(bq_command: Path, name: str, module: str) -> None:
    code = (
        "import os, signal, sys\nfrom bq.tui import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.{name})\n"
        "sys.meta_path.insert(0, Interrupting())\nmain.main()\n"
    )
    done = _python(bq_command, code, "models", "--lang", "en")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, b"", b"Stopped.")


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_when_all_is_done_changes_nothing(bq_command: Path, name: str) -> None:
    code = (
        "import atexit, os, signal\nfrom bq.tui import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"atexit.register(lambda: os.kill(os.getpid(), signal.{name}))\nmain.main()\n"
    )
    done = _python(bq_command, code, "--version")
    assert (done.returncode, done.stderr) == (0, b"")


@posix
def test_closed_streams_are_no_defect(bq_command: Path, tmp_path: Path) -> None:
    def shell(redirected: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        command = ["sh", "-c", f'exec "$0" "$@" {redirected}', bq_command, *arguments, "--lang", "en"]
        return subprocess.run(command, capture_output=True, timeout=60, check=False)

    assert shell("<&-", "models").returncode == 0
    assert shell("2>&-", "models").returncode == 0
    done = shell("<&-", "run", "-m", "none.gguf", "hello")
    assert (done.returncode, done.stderr.startswith(b"bq: There is no file")) == (2, True)
    done = shell("<&- 2>&-", "run", "-m", "none.gguf", "hello")
    assert (done.returncode, done.stdout) == (2, b"")
    for closed in (">&-", "<&- >&-"):
        done = shell(closed, "models")
        assert (done.returncode, done.stderr) == (1, b"bq: stdout is closed. Give it a file or a terminal.\n")


@posix
def test_a_closed_streams_descriptor_is_taken_by_no_other_file(bq_command: Path, tmp_path: Path) -> None:
    code = (
        "import os\nfrom bq.tui import main\n"
        "main.run = lambda *_: os.open('/', os.O_RDONLY)\nmain.main()\n"  # its status is the descriptor
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', bq_command.with_name("python"), code]
    assert subprocess.run(command, capture_output=True, check=False).returncode >= 3


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
