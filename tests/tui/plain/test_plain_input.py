"""How lines become messages, what is shown of an answer, and where the app is drawn instead."""

import contextlib
import io
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.tui.commands.chat import can_draw
from bq.tui.plain import Voice
from bq.tui.plain_input import Typed, messages

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
