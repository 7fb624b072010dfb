"""`bq chat` line by line on a terminal that cannot draw, through stops, kills and losses."""

import contextlib
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bq.tui import settings

from .common import GREEDY, PATIENCE_SECONDS, kept, posix, said, told

# A terminal


class Terminal:
    """`bq` on a terminal of its own, of 80 by 24 cells."""

    def __init__(self, command: list[str], **environment: str) -> None:
        import fcntl
        import pty
        import termios

        self.pid, self._descriptor = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
            os.execvpe(command[0], command, {**without_size(), **environment})
        self.seen = b""
        self._looked = 0

    def wait(self, text: str) -> None:
        """Until this has come, after what was waited for before."""
        end = time.monotonic() + PATIENCE_SECONDS
        while (at := self.seen.find(text.encode(), self._looked)) < 0:
            if time.monotonic() > end or not self._read():
                pytest.fail(f"{text!r} never came: {self.seen.decode(errors='replace')}")
        self._looked = at + len(text.encode())

    def _read(self) -> bool:
        import select

        if not select.select([self._descriptor], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # Linux, when the other side is closed
            return False
        self.seen += data
        return bool(data)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def interrupt(self) -> None:
        """Ctrl+C."""
        self.type("\x03")

    def status(self) -> int:
        """What it ended with."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._read():
            assert time.monotonic() < end, f"it did not end: {self.seen.decode(errors='replace')}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)


def without_size() -> dict[str, str]:
    """The environment but for a terminal's size in it, which would hold against the terminal's own."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


@pytest.fixture
def on_terminal(bq_command: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(model: Path, *options: object, code: str = "", **environment: str) -> Terminal:
        program = [sys.executable, "-c", code] if code else [str(bq_command)]
        command = [*program, "chat", "-m", str(model), *map(str, (*GREEDY, *options))]
        opened.append(Terminal(command, **environment))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@posix
def test_a_terminal_that_cannot_draw_gets_lines_alone(on_terminal: Callable[..., Terminal], speaker: Path) -> None:
    terminal = on_terminal(speaker, TERM="dumb")
    terminal.wait("> ")
    terminal.type("你好\n")
    terminal.wait("完done")
    terminal.wait("> ")
    terminal.type('"""two\n')
    terminal.wait("... ")
    terminal.type('lines"""\n')
    terminal.wait("完done")
    terminal.wait("> ")
    terminal.type("\x04")
    assert terminal.status() == 0
    assert b"\x1b" not in terminal.seen
    assert said(kept()[0])[::2] == ["你好", "two\nlines"]


@posix
def test_ctrl_c_stops_an_answer_and_keeps_it_and_at_the_prompt_it_says_how_to_quit(
    on_terminal: Callable[..., Terminal], endless: Path
) -> None:
    terminal = on_terminal(endless, "--plain", "--max-tokens", 3000, TERM="xterm")
    terminal.wait("> ")
    terminal.type("go\n")
    terminal.wait("123123")
    terminal.interrupt()
    terminal.wait("(stopped; /continue goes on)")
    terminal.wait("> ")
    length = len(said(kept()[0])[1])
    assert kept()[0].path()[1].stop == "cancel"
    terminal.type("/continue\n")
    terminal.wait("123123")
    terminal.interrupt()
    terminal.wait("(stopped")
    terminal.wait("> ")
    terminal.interrupt()
    terminal.wait("a second Ctrl+C")
    terminal.wait("> ")
    terminal.interrupt()
    assert terminal.status() == 0
    answer = said(kept()[0])[1]
    assert len(answer) > length > 0
    assert answer in "123" * 3000


@posix
def test_tab_completes_and_what_is_set_at_a_terminal_is_kept(
    on_terminal: Callable[..., Terminal], speaker: Path
) -> None:
    pytest.importorskip("readline")
    terminal = on_terminal(speaker, "--plain", TERM="xterm")
    terminal.wait("> ")
    terminal.type("/par\t")
    terminal.wait("/params")
    terminal.type(" top-p 0.5\n")
    terminal.wait("top-p 0.5")
    terminal.wait("> ")
    terminal.type("/quit\n")
    assert terminal.status() == 0
    assert settings.load().parameters == {"top_p": 0.5}


@posix
def test_after_kill_9_the_conversation_goes_on_with_what_was_written(
    on_terminal: Callable[..., Terminal], endless: Path, talk: Callable[..., Any]
) -> None:
    terminal = on_terminal(endless, "--plain", "--ctx", 4096, "--max-tokens", 4000, TERM="dumb")
    terminal.wait("> ")
    terminal.type("go\n")
    end = time.monotonic() + PATIENCE_SECONDS
    while not (kept() and len(said(kept()[0])) == 2):
        assert terminal._read(), "it ended"
        assert time.monotonic() < end, "nothing was kept"
    os.kill(terminal.pid, signal.SIGKILL)
    terminal.status()
    (one,) = kept()
    assert said(one)[1].startswith("123123")
    assert one.path()[1].stop == "cancel"
    done = talk("/retry", options=("--continue",))
    assert (done.returncode, done.stdout.decode()) == (0, "完done\n")
    assert "> go" in told(done)


@posix
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the model's process in /proc")
def test_a_model_that_dies_is_told_and_loaded_again(on_terminal: Callable[..., Terminal], endless: Path) -> None:
    terminal = on_terminal(endless, "--plain", "--max-tokens", 3000, TERM="dumb")
    terminal.wait("> ")
    terminal.type("go\n")
    terminal.wait("123123")
    (child,) = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split() or ("",)
    os.kill(int(child), signal.SIGKILL)
    terminal.wait("/retry loads the model again.")
    terminal.wait("> ")
    terminal.type("/retry\n")
    terminal.wait("Ready")
    terminal.wait("123123")
    terminal.interrupt()
    terminal.wait("(stopped")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.status() == 130
    assert len(kept()[0].versions(kept()[0].path()[1].id)) == 2


# Python's own wait for a key, but before it reads it sleeps until a signal has come, whose handler then has no step to run in.
TOO_LATE = """
import ctypes
from bq.tui.main import main
hook = ctypes.c_void_p.in_dll(ctypes.pythonapi, "PyOS_InputHook")
hook.value = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p).value
main()
"""


@posix
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGINT, 0)])
def test_a_signal_just_before_the_wait_for_a_key_is_heard(
    on_terminal: Callable[..., Terminal], speaker: Path, number: int, status: int
) -> None:
    terminal = on_terminal(speaker, "--plain", TERM="dumb", code=TOO_LATE)
    terminal.wait("> ")
    os.kill(terminal.pid, number)
    if number == signal.SIGINT:
        terminal.wait("a second Ctrl+C")
        terminal.wait("> ")
        os.kill(terminal.pid, number)
    assert terminal.status() == status


@posix
def test_a_wrong_theme_is_a_wrong_use(on_terminal: Callable[..., Terminal], speaker: Path) -> None:
    terminal = on_terminal(speaker, "--theme", "nothing", TERM="xterm-256color")
    assert terminal.status() == 2
    assert b"There is no theme nothing. There are: " in terminal.seen
