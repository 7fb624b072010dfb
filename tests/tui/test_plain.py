"""`bq chat` line by line: a pipe gets answers alone, a simple terminal gets no drawing, and nothing that was said is lost."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.tui import settings
from bq.tui.commands.chat import can_draw
from bq.tui.conversation import Conversation
from bq.tui.plain import Voice
from bq.tui.plain_input import Typed, messages
from bq.tui.store import Store
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID, pieces
from tests.tui.conftest import Bq

Scripted = Callable[..., Path]
GREEDY = ("--greedy", "--repeat-penalty", 1, "--threads", 1)
PATIENCE_SECONDS = 30
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX terminals and signals")


@pytest.fixture(scope="session")
def speaker(scripted: Scripted) -> Path:
    """Answers everything with 完done."""
    return scripted(saying(byte_tokens("完done")))


@pytest.fixture(scope="session")
def endless(scripted: Scripted) -> Path:
    """Answers 123123…, without an end; digits are tokens of their own, so that an answer can be continued."""
    names = [piece.text for piece in pieces(2)]
    first, *rest = (names.index(digit) for digit in "123")
    return scripted({ASSISTANT_ID: first, **dict(zip((first, *rest), (*rest, first), strict=True))})


@pytest.fixture
def talk(bq: Bq, speaker: Path) -> Callable[..., Any]:
    """`talk("hello", "/list")`: these lines are piped in."""

    def run(*lines: str, options: tuple[object, ...] = (), **keywords: Any) -> Any:
        data = "".join(line + "\n" for line in lines).encode()
        return bq("chat", "-m", speaker, *GREEDY, *options, stdin=data, **keywords)

    return run


def kept() -> list[Conversation]:
    """What the store has, the last one first."""
    store = Store.open()
    try:
        return [found for one in store.listed() if (found := store.load(one.id))]
    finally:
        store.close()


def said(conversation: Conversation) -> list[str]:
    return [node.content for node in conversation.path()]


def told(done: Any) -> str:
    text: str = done.stderr.decode()
    return text


def test_each_line_is_answered_on_stdout_and_all_else_is_on_stderr(talk: Callable[..., Any]) -> None:
    done = talk("你好", "", "//modle is text", '"""two', 'lines /quit"""', "joined \\", "to one")
    assert (done.returncode, done.stdout.decode()) == (0, "完done\n" * 4)
    assert "Loading" in told(done)
    assert "> " not in told(done)
    assert b"\x1b" not in done.stderr + done.stdout
    (one,) = kept()
    assert said(one)[::2] == ["你好", "/modle is text", "two\nlines /quit", "joined \nto one"]
    assert {node.stop for node in one.path()} == {"end"}


def test_what_goes_wrong_is_a_line_and_the_rest_is_answered(talk: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("mine")
    lines = [
        "/modle", "/theme x", "/open 99", "/export there.md", "/export! there.md", "/export a.sh", "/retry", "/continue",
        "/params heat 1", "/import none.md", "/import ~nobodyatall/x", "/export " + "x" * 300 + ".md", "/model none.gguf",
        "/template nothing x", "/template summarise", "/delete", "hello",
    ]  # fmt: skip
    done = talk(*lines, cwd=tmp_path)
    assert (done.returncode, done.stdout.decode()) == (1, "完done\n")
    errors = [line for line in told(done).splitlines() if line.startswith("bq: ")]
    assert len(errors) == len(lines) - 1, told(done)
    assert "Did you mean /model?" in errors[0]
    assert "works in the app alone" in errors[1]
    assert "Traceback" not in told(done)
    assert [path.name for path in tmp_path.iterdir()] == ["there.md"]
    assert (tmp_path / "there.md").read_text() == "mine"


def test_a_conversation_is_exported_and_imported_whole(talk: Callable[..., Any], tmp_path: Path) -> None:
    imports = [line for name in ("模型.md", "b.json") for line in (f"/export {name}", "/new", f"/import {name}")]
    done = talk("你好", "/system be brief", *imports, cwd=tmp_path)
    assert done.returncode == 0, told(done)
    assert told(done).count("“你好”, rounds: 1") == 2
    found = kept()
    assert len(found) == 3
    assert {(one.system, *said(one)) for one in found} == {("be brief", "你好", "完done")}


def test_conversations_are_listed_opened_found_deleted_and_brought_back(talk: Callable[..., Any]) -> None:
    done = talk(
        "first", "/rename one", "/new", "second", "/list", "/find fir", "/open 1", "again", "/fork", "/delete", "/undo",
        "/retry", "/edit other", "/pin", "/clear", "/template summarise a text",
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()) == (0, "完done\n" * 6), told(done)
    assert re.search(r"^1 .* 1 +second\n2 .* 1 +one$", told(done), re.MULTILINE)
    assert re.search(r"^1 .* one \| first$", told(done), re.MULTILINE)
    instruct, copy, one, second = kept()
    assert said(one) == ["first", "完done", "again", "完done"]
    assert (said(second), said(copy)) == (["second", "完done"], [])
    assert sorted(node.content for node in copy.nodes.values() if node.role == "user") == ["again", "first", "other"]
    assert [node.content for node in copy.nodes.values() if node.pinned] == ["other"]
    assert (instruct.mode, copy.mode) == ("instruct", "chat")
    assert said(instruct)[0].endswith("\n\na text")


def test_the_last_conversation_goes_on(talk: Callable[..., Any], bq: Bq) -> None:
    assert "a new one begins" in told(talk("first", options=("--continue",)))
    done = talk("/rename it", "more", options=("--continue",))
    assert "> first" in told(done)
    (one,) = kept()
    assert (one.title, said(one)[::2]) == ("it", ["first", "more"])
    for other in (("--session", "s"), ("--new",), ("--system", "x")):
        wrong = bq("chat", "--continue", *other)
        assert (wrong.returncode, told(wrong)) == (
            2,
            f"bq: --continue cannot be combined with {other[0]}. Leave one of them out.\n",
        )


def test_what_has_no_room_is_told_and_what_a_script_sets_is_for_the_script_alone(talk: Callable[..., Any]) -> None:
    lines = ["! " * 60, "! " * 60, "/context", "hello", "/params max-tokens 3", "hello", "/lang zh", "/params reset"]
    done = talk(*lines, options=("--ctx", 256, "--max-tokens", 20))
    assert done.stdout.decode() == "完done\n" * 3 + "完\n"
    assert re.search(r"^\d+ of \d+ tokens are used, \d+ are left", told(done), re.MULTILINE)
    assert "No room in the context for round 1: not sent." in told(done).splitlines()
    assert "(cut off at the limit of the length; /continue goes on)" in told(done)
    assert "已切换为中文。" in told(done)
    assert settings.load() == settings.Settings()


def test_what_is_set_holds_unless_the_command_line_says_otherwise(
    talk: Callable[..., Any], bq: Bq, speaker: Path
) -> None:
    settings.save(settings.Settings(language="zh", parameters={"max_tokens": 3, "temperature": 0.5}))
    own: dict[str, Any] = {"env": {"BQ_LANG": "", "LC_ALL": "C"}}
    shown = "temp {} .*\n.*\n.*\n.*\n.*\nmax-tokens 3 "
    done = bq("chat", "-m", speaker, stdin=b"/params\n", **own)
    assert re.search(shown.format("0.5"), told(done))
    done = talk("hello", "/params", **own)
    assert (done.stdout.decode(), "已截断" in told(done)) == ("完\n", True)
    assert re.search(shown.format("0"), told(done)), "--greedy goes before"
    for choice, options in (({"BQ_LANG": ""}, ("--lang", "en")), ({"BQ_LANG": "en"}, ())):
        assert "There is no file" in told(bq("chat", "-m", "none.gguf", *options, env=choice))


def test_a_session_goes_on_in_its_file(talk: Callable[..., Any], tmp_path: Path) -> None:
    from bq.runtime.session_file import open_session

    for line in ("first", "second"):
        assert talk(line, options=("--session", tmp_path / "s")).returncode == 0
    with open_session(tmp_path / "s") as stored:
        assert [one.content for one in stored.messages] == ["first", "完done", "second", "完done"]
    assert kept() == []


def test_a_base_model_goes_on_with_each_text(bq: Bq, scripted: Scripted) -> None:
    first, second = byte_tokens("xy")
    path = scripted({73: first, first: second}, chat=False)
    done = bq("chat", "-m", path, *GREEDY, stdin=b"!\n!\n")
    assert (done.returncode, done.stdout) == (0, b"xy\nxy\n")
    assert [one.mode for one in kept()] == ["complete", "complete"]


def test_what_cannot_go_on_ends_with_a_line(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    done = bq("chat", "-m", tmp_path / "none.gguf", stdin=b"hello\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "bq: There is no file" in told(done)
    done = bq("chat", "-m", speaker, stdin=b"hello\n\xff\xfe\n")
    assert (done.returncode, told(done).splitlines()[-1]) == (
        2,
        "bq: Line 2 of stdin is no UTF-8 text. Give it as UTF-8.",
    )


def test_a_store_that_refuses_does_not_end_the_talk(talk: Callable[..., Any], own_home: Path) -> None:
    (own_home / "conversations.db").write_bytes(b"something else" * 99)
    done = talk("hello", "again")
    assert (done.returncode, done.stdout.decode()) == (0, "完done\n" * 2)
    assert told(done).count("conversations.db") == 1


# A terminal


class Terminal:
    """`bq` on a terminal of its own."""

    def __init__(self, command: list[str], **environment: str) -> None:
        import pty

        self.pid, self._descriptor = pty.fork()
        if not self.pid:
            os.execvpe(command[0], command, {**os.environ, **environment})
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

    def status(self) -> int:
        """What it ended with."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._descriptor)


@pytest.fixture
def on_terminal(bq_command: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(model: Path, *options: object, **environment: str) -> Terminal:
        command = [str(bq_command), "chat", "-m", str(model), *map(str, (*GREEDY, *options))]
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
    terminal.type("\x03")
    terminal.wait("(stopped; /continue goes on)")
    terminal.wait("> ")
    length = len(said(kept()[0])[1])
    assert kept()[0].path()[1].stop == "cancel"
    terminal.type("/continue\n")
    terminal.wait("123123")
    terminal.type("\x03")
    terminal.wait("(stopped")
    terminal.wait("> ")
    terminal.type("\x03")
    terminal.wait("a second Ctrl+C")
    terminal.wait("> ")
    terminal.type("\x03")
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
    while not (kept() and len(said(kept()[0])) == 2):
        terminal._read()
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
    terminal.type("\x03")
    terminal.wait("(stopped")
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.status() == 130
    assert len(kept()[0].versions(kept()[0].path()[1].id)) == 2


def test_a_wrong_theme_is_a_wrong_use(on_terminal: Callable[..., Terminal], speaker: Path) -> None:
    terminal = on_terminal(speaker, "--theme", "nothing", TERM="xterm-256color")
    assert terminal.status() == 2
    assert b"There is no theme nothing. There are: " in terminal.seen


# Parts


@pytest.mark.parametrize("missing", [None, "stdin", "stdout", "stderr"])
@pytest.mark.parametrize(
    ("terminal", "draws"), [("xterm", True), ("dumb", False), ("", False), (None, os.name == "nt")]
)
def test_the_app_is_drawn_only_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, terminal: str | None, draws: bool
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda name=name: name != missing)
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.delenv("TERM", raising=False)
    if terminal is not None:
        monkeypatch.setenv("TERM", terminal)
    assert can_draw() == (draws and missing is None)


def piped(data: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Typed]:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return list(messages())


@pytest.mark.parametrize(
    ("data", "typed"),
    [
        (b"", []),
        (b"\n \n", []),
        (b"\xef\xbb\xbfa\r\nb", [Typed("a"), Typed("b")]),
        (b"a\\\nb\\\nc\n", [Typed("a\nb\nc")]),
        (b"C:\\\\\nb\n", [Typed("C:\\\\"), Typed("b")]),
        (b"a\\", [Typed("a\\")]),
        (b'"""a\n\nb"""\nc\n', [Typed("a\n\nb", True), Typed("c")]),
        (b'"""a"""\n', [Typed("a", True)]),
        (b'"""\n/quit\n"""\n', [Typed("\n/quit", True)]),
        (b'"""a\nb', [Typed("a\nb", True)]),
        (b'/system """a\nb"""\nc\n', [Typed("/system a\nb"), Typed("c")]),
        (b'say """ and\nc\n', [Typed('say """ and'), Typed("c")]),
        (b"\x1b[2Ja\x00\n", [Typed("[2Ja")]),
    ],
)
def test_lines_become_messages(data: bytes, typed: list[Typed], monkeypatch: pytest.MonkeyPatch) -> None:
    assert piped(data, monkeypatch) == typed


@given(st.lists(st.text('ab\\/" \n模', max_size=12), max_size=6))
def test_no_text_is_lost_whatever_the_lines_are(lines: list[str]) -> None:
    text = "\n".join(lines)
    with pytest.MonkeyPatch.context() as patched:
        found = piped(text.encode(), patched)
    letters = re.sub(r'[\s\\"]', "", text)
    assert re.sub(r'[\s\\"]', "", "".join(one.text for one in found)) == letters


def test_what_is_no_text_or_too_long_is_a_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"Line 2 of stdin is no UTF-8 text"):
        piped(b"a\n\xff\n", monkeypatch)
    monkeypatch.setattr("bq.tui.plain_input.MAX_INPUT_BYTES", 10)
    for data in (b"x" * 11, b'"""abcdef\nghijkl\n"""', b"abcdef\\\nghijkl"):
        with pytest.raises(UsageError, match="longer than 16 MiB"):
            piped(data, monkeypatch)


@given(st.lists(st.integers(0, 30), max_size=8), st.sampled_from(["", "b\nc"]), st.sampled_from(["d", "\n\nd é"]))
def test_thoughts_are_counted_and_not_on_stdout(cuts: list[int], thought: str, answer: str) -> None:
    text = f"<think>{thought}</think>{answer}" if thought else answer
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    out, err = io.StringIO(), io.StringIO()
    voice = Voice()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for start, end in pairwise(places):
            voice.add(text[start:end])
        voice.end()
    assert out.getvalue() == (answer.lstrip("\n") if thought else answer) + "\n"
    assert err.getvalue() == (f"(thought for {len(thought)} characters)\n" if thought else "")


def test_no_control_character_of_a_model_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice()
    voice.add("a\x1b]52;c;x\x07\u202eb")
    voice.end()
    assert capsys.readouterr().out == "a]52;c;xb\n"


def test_the_line_mode_starts_without_what_is_heavy() -> None:
    code = (
        "import sys, bq.tui.plain, bq.tui.plain_commands\n"
        "print([name for name in ('numpy', 'gguf', 'llama_cpp') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
