"""End to end in a real terminal: tmux runs `bq chat` on the bundled model, keys go in, the screen comes out."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bq.tui.store import Store
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID

BQ = Path(sys.executable).with_name("bq")
PATIENCE_SECONDS = 120


def is_ready(screen: str) -> bool:
    """By the line of the state: "You can already write" stands there before."""
    return re.search(r"^ *ready ", screen, re.MULTILINE) is not None


class Terminal:
    """A tmux server of its own with one window of 100 by 30 cells."""

    def __init__(self, folder: Path, command: str) -> None:
        self._socket = tempfile.TemporaryDirectory(prefix="bq")  # a socket's path may have about a hundred bytes
        self._tmux = ["tmux", "-f", os.devnull, "-S", f"{self._socket.name}/s"]
        environment = {
            # A size there would hold against the terminal's own (shutil.get_terminal_size).
            **{name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")},
            "BQ_HOME": str(folder),
            "BQ_LANG": "en",
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm-256color",
        }
        self._run("new-session", "-d", "-x", "100", "-y", "30", command, env=environment)
        # Or tmux ends with the program that a test kills, unless the test starts the next one before tmux has seen that.
        self._run("set-option", "-g", "remain-on-exit", "on")

    def _run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, env=env)
        return done.stdout

    def keys(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    def send(self, text: str) -> None:
        """Type a text, see it, send it."""
        self.wait(is_ready)
        self.keys(text)
        self.wait(lambda screen: text in screen)
        self.keys("Enter")

    def ask(self, question: str) -> str:
        """Send a question; the screen once it is answered."""
        self.send(question)
        return self.wait(lambda screen: is_ready(screen) and "tok/s" in screen)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def wait_resized(self, columns: int, rows: int) -> str:
        """The screen once it is drawn for this size, its last line with the keys. tmux on a busy machine forgets to tell now
        and then: it is asked again.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self.resize(columns, rows)
            time.sleep(1.0)
            lines = self.screen().splitlines()
            if len(lines) == rows and "f1" in lines[-1] and max(map(len, lines)) <= columns:
                return self.screen()
            self.resize(columns + 1, rows)
        pytest.fail("the screen was never drawn for its size:\n" + self.screen())

    def run(self, command: str) -> None:
        """Start a command in the place of what ran before."""
        self._run("respawn-pane", "-k", command)

    def pid(self) -> int:
        """The process that runs in the window."""
        return int(self._run("display-message", "-p", "#{pane_pid}"))

    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def wait(self, is_there: Callable[[str], bool]) -> str:
        """The screen, once it is as wanted. Fails with the last one otherwise."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if is_there(screen := self.screen()):
                return screen
            time.sleep(0.2)
        pytest.fail("the screen never became as expected:\n" + self.screen())

    def close(self) -> None:
        self._run("kill-server")
        self._socket.cleanup()


@pytest.fixture
def terminal(tmp_path: Path, demo_gguf: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened = Terminal(tmp_path, f"{BQ} chat -m {demo_gguf} --threads 1; echo exit $?; sleep 60")
    yield opened
    opened.close()


def test_a_question_is_typed_and_answered_and_the_app_ends_cleanly(terminal: Terminal) -> None:
    screen = terminal.ask("What is Q4_K_M?")
    assert "Q4_K_M" in screen.split("What is Q4_K_M?")[1], "the answer speaks of what was asked"
    terminal.keys("C-q")
    terminal.wait(lambda screen: "exit 0" in screen)


def test_chinese_is_typed_and_shown_whole(terminal: Terminal) -> None:
    screen = terminal.ask("你是谁？")
    answer = screen.split("你是谁？")[1]
    assert "bq" in answer
    assert "\ufffd" not in screen


def test_the_terminal_is_as_before_after_the_program_is_ended(terminal: Terminal) -> None:
    terminal.wait(is_ready)
    terminal.keys("C-q")
    screen = terminal.wait(lambda screen: "exit 0" in screen)
    assert "F1" not in screen, "the app's screen is gone"


def test_it_is_drawn_anew_when_the_window_changes_its_size(terminal: Terminal) -> None:
    terminal.ask("What is Q4_K_M?")
    narrow = terminal.wait_resized(60, 20)
    assert "f1" in narrow
    wide = terminal.wait_resized(120, 40)
    assert "What is Q4_K_M?" in wide


def test_after_a_kill_the_conversation_and_what_was_being_written_are_there_again(
    tmp_path: Path, demo_gguf: Path
) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(tmp_path, f"exec {BQ} chat -m {demo_gguf} --threads 1")
    try:
        terminal.ask("What is Q4_K_M?")
        terminal.keys("unsent 量化")
        terminal.wait(lambda screen: "unsent 量化" in screen)
        wait_until_kept(tmp_path / "conversations.db", "unsent 量化")
        pid = terminal.pid()
        workers = children_of(pid)
        os.kill(pid, signal.SIGKILL)
        terminal.run(f"exec {BQ} chat --continue -m {demo_gguf} --threads 1")
        terminal.wait(lambda screen: "unsent 量化" in screen and "What is Q4_K_M?" in screen)
        assert workers
        end = time.monotonic() + PATIENCE_SECONDS
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < end, "the model's process outlived the app"
            time.sleep(0.1)
    finally:
        terminal.close()


def wait_until_kept(path: Path, draft: str) -> None:
    """Until the store has what is being written: within a second, on a machine that has the time."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        store = Store.open(path)
        try:
            kept = [found.draft for one in store.listed() if (found := store.load(one.id))]
        finally:
            store.close()
        if draft in kept:
            return
        assert time.monotonic() < end, kept
        time.sleep(0.1)


def children_of(pid: int) -> list[int]:
    """The processes that any thread of a process started."""
    return [int(child) for one in Path(f"/proc/{pid}/task").glob("*/children") for child in one.read_text().split()]


def test_esc_stops_an_answer_and_it_is_marked(tmp_path: Path, scripted: Callable[..., Path]) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    a, b = byte_tokens("ab")
    endless = scripted({ASSISTANT_ID: a, a: b, b: a})
    terminal = Terminal(tmp_path, f"{BQ} chat -m {endless} --greedy --repeat-penalty 1 --max-tokens 4000; sleep 60")
    try:
        terminal.send("go on")
        terminal.wait(lambda screen: "writing" in screen and "abab" in screen)
        terminal.keys("Escape")
        terminal.wait(lambda screen: "Stopped" in screen and is_ready(screen))
    finally:
        terminal.close()
