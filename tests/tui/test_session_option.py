"""`--session`: a conversation goes on from one call to the next, and nothing that goes wrong costs what was kept."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.atomic_file import in_use
from bq.runtime.prompt import Message
from bq.runtime.session_file import open_session
from bq.tui.app import ChatApp
from bq.tui.main import run
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID
from tests.support.undrawn import drawn, still, undrawn
from tests.tui.conftest import Bq

Scripted = Callable[..., Path]
GREEDY = ("--greedy", "--repeat-penalty", 1, "--threads", 1, "--ctx", 512)
ANSWER = "done"
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and limits")


@pytest.fixture(scope="session")
def speaker(scripted: Scripted) -> Path:
    """Answers everything with ANSWER."""
    return scripted(saying(byte_tokens(ANSWER)))


def lines(data: bytes) -> list[str]:
    return data.decode().splitlines()


def said(path: Path) -> list[tuple[str, str]]:
    with open_session(path) as stored:
        return [(message.role, message.content) for message in stored.messages]


def round_of(question: str) -> list[tuple[str, str]]:
    return [("user", question), ("assistant", ANSWER)]


def reused(done: Any) -> tuple[int, int]:
    """The tokens of the prompt, and those of them that were there, by --stats."""
    (words,) = (line.split() for line in lines(done.stderr) if line.startswith("prompt "))
    return int(words[1]), int(words[3])


def notes(done: Any) -> list[str]:
    return [line for line in lines(done.stderr) if line.startswith("Note: ")]


def test_the_next_call_goes_on_and_reads_only_what_is_new(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    command = ("run", "-m", speaker, *GREEDY, "--stats", "--session", tmp_path / "s")
    first = bq(*command, "--system", "the model", "a long document", stdin=b"! " * 100)
    assert (first.returncode, first.stdout) == (0, b"done\n")
    prompt, before = reused(first)
    assert before == 0
    second = bq(*command, "and?")
    assert (second.returncode, second.stdout, notes(second)) == (0, b"done\n", [])
    assert reused(second)[1] == prompt  # the answer came in bytes, and is read in pieces
    third = bq(*command, "--system", "the model", "again")
    assert reused(third)[1] == reused(second)[0]
    document = "a long document\n\n" + ("! " * 100)
    assert said(tmp_path / "s") == [
        ("system", "the model"),
        *round_of(document),
        *round_of("and?"),
        *round_of("again"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_another_model_reads_the_conversation_anew(
    bq: Bq, speaker: Path, converted: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    assert bq("run", "-m", speaker, *GREEDY, "--session", path, "hello").returncode == 0
    done = bq("run", "-m", converted("b1-7b"), *GREEDY, "--max-tokens", 3, "--stats", "--session", path, "more")
    assert done.returncode == 0
    (note,) = notes(done)
    assert note.startswith("Note: The session's text is read anew: it was held with another model file")
    prompt, before = reused(done)
    assert (prompt > 10, before) == (True, 0)
    assert said(path)[:3] == [*round_of("hello"), ("user", "more")]


def test_a_damaged_session_is_refused_before_a_model_is_loaded(bq: Bq, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"bqsess\r\n" + b"x" * 999)
    before = path.read_bytes()
    done = bq("run", "-m", "none.gguf", "hello", "--session", path)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = lines(done.stderr)
    assert line.startswith("bq: s is no whole session: it was cut off or changed (wrong checksum). It is left")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (".", "--session: . is a folder. Give a file's name."),
        ("", "--session: It is empty. Give a file's name."),
        ("inside", "--session: inside is a folder. Give a file's name."),
        ("none/s", "There is no folder none. Make it first, or give another --session."),
    ],
)
def test_what_can_be_no_session_is_a_wrong_use(bq: Bq, tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "inside").mkdir()
    done = bq("run", "-m", "none.gguf", "hello", "--session", given, cwd=tmp_path)
    assert (done.returncode, lines(done.stderr)) == (2, [f"bq: {said}"])
    assert [one.name for one in tmp_path.iterdir()] == ["inside"]


def test_wrong_uses_are_a_line_each(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = ("run", "-m", speaker, *GREEDY, "--session", path)
    assert bq(*command, "--system", "the model", "hello").returncode == 0
    before = path.read_bytes()
    done = bq(*command, "--system", "another", "hello")
    assert (done.returncode, lines(done.stderr)) == (
        2,
        ["bq: s has another system prompt. Leave out --system, or give another --session."],
    )
    with in_use(path):
        done = bq(*command, "hello")
    assert (done.returncode, lines(done.stderr)) == (
        1,
        ["bq: Another bq is using s. Wait for it, or give another name."],
    )
    assert path.read_bytes() == before


def test_a_session_that_is_no_dialogue_is_refused(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    from bq.runtime.session import save

    save(None, {}, tmp_path / "s", [Message("user", "a"), Message("user", "b")])
    done = bq("run", "-m", speaker, "--session", tmp_path / "s", "hello")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "s holds more than questions and answers" in lines(done.stderr)[0]


@posix
def test_two_links_are_one_session(bq: Bq, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).symlink_to("there/s")
    with in_use(tmp_path / "a"):
        done = bq("run", "-m", "none.gguf", "--session", tmp_path / "b", "hello")
    assert lines(done.stderr) == ["bq: Another bq is using b. Wait for it, or give another name."]
    assert list((tmp_path / "there").iterdir()) == []


@posix
def test_an_interrupted_call_leaves_the_session_as_it_was(
    bq: Bq, start_bq: Callable[..., Any], speaker: Path, scripted: Scripted, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    assert bq("run", "-m", speaker, *GREEDY, "--session", path, "hello").returncode == 0
    before = path.read_bytes()
    x, y = byte_tokens("xy")
    endless = scripted({ASSISTANT_ID: x, x: y, y: x})
    for number in (signal.SIGINT, signal.SIGKILL):
        process = start_bq("run", "-m", endless, "--greedy", "--max-tokens", 4000, "--session", path, "more")
        process.stdout.read(6)
        process.send_signal(number)
        process.communicate(timeout=120)
        assert path.read_bytes() == before
    done = bq("run", "-m", speaker, *GREEDY, "--session", path, "more")
    assert done.returncode == 0, "the lock that the killed one left does not hold others up"
    assert [one.name for one in tmp_path.iterdir()] == ["s"]


@posix
def test_a_full_disk_is_a_line_after_the_answer_and_the_session_stays(bq: Bq, speaker: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = ("run", "-m", speaker, *GREEDY, "--session", path)
    assert bq(*command, "hello").returncode == 0
    before = path.read_bytes()

    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = bq(*command, "more", preexec_fn=restrict)
    assert (done.returncode, done.stdout) == (1, b"done\n")
    assert lines(done.stderr)[0].startswith("bq: The session s could not be written: ")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["s"]


# The terminal app, driven through the command itself.

Script = Callable[[ChatApp, Any], Awaitable[None]]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, speaker: Path, tmp_path: Path) -> Callable[..., int]:
    """`chat(script, "--more", "options")`: `bq chat --session` in which `script(app, pilot)` is what the user does."""

    def play(script: Script, *options: object) -> int:
        async def use(app: ChatApp) -> None:
            still(app)
            async with app.run_test(size=(90, 40)) as pilot:
                await until(lambda: bool(app.engine.model) and not app.engine.busy)
                await script(app, pilot)

        undrawn(monkeypatch)
        monkeypatch.setattr("bq.tui.commands.chat.can_draw", lambda: True)
        monkeypatch.setattr(ChatApp, "run", lambda app: asyncio.run(use(app)))
        arguments = ["chat", "-m", speaker, *GREEDY, "--session", tmp_path / "s", *options]
        return run(list(map(str, arguments)), debug=False)

    return play


async def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


async def ask(app: ChatApp, pilot: Any, question: str) -> None:
    app.desk.view.prompt.load_text(question)
    await pilot.press("enter")
    await idle(app)


async def idle(app: ChatApp) -> None:
    await until(lambda: not app.engine.busy and not [one for one in app.workers if one.group == "follow"])


def test_a_chat_goes_on_where_it_ended_and_reads_only_what_is_new(chat: Any, tmp_path: Path) -> None:
    path, prompts = tmp_path / "s", []

    async def first(app: ChatApp, pilot: Any) -> None:
        await ask(app, pilot, "one")
        assert said(path) == round_of("one"), "kept at the end of the answer"
        await ask(app, pilot, "two")
        prompts.append(app.desk.job.stats)

    async def second(app: ChatApp, pilot: Any) -> None:
        await pilot.pause()
        for text in ("You", "one", "two", ANSWER):
            assert text in drawn(app)
        assert drawn(app).count(app.engine.model.info.name) == 3, "above each answer, and in the status line"
        await ask(app, pilot, "three")
        prompts.append(app.desk.job.stats)

    assert chat(first) == 0
    assert chat(second) == 0
    assert said(path) == [*round_of("one"), *round_of("two"), *round_of("three")]
    assert prompts[1].reused_tokens == prompts[0].prompt_tokens
    assert [one.name for one in tmp_path.iterdir()] == ["s"]


def test_a_chat_in_which_nothing_is_said_leaves_the_session_as_it_is(chat: Any, tmp_path: Path) -> None:
    async def talk(app: ChatApp, pilot: Any) -> None:
        await ask(app, pilot, "one")

    async def look(app: ChatApp, pilot: Any) -> None:
        await pilot.press("f2")
        await ask(app, pilot, "a task, which is no part of the conversation")
        await pilot.press("f2", "ctrl+n")
        assert app.desk.conversation.rounds == []

    assert chat(talk, "--system", "the model") == 0
    before = (tmp_path / "s").read_bytes()
    assert chat(look) == 0
    assert (tmp_path / "s").read_bytes() == before


def cached_tokens(path: Path) -> int:
    with open_session(path) as stored:
        return len(stored.ids)


@pytest.mark.parametrize("keys", [("ctrl+r",), ("ctrl+n",), ("ctrl+n", "f2")])
def test_a_chat_ends_with_all_that_the_model_has_read_of_it(chat: Any, tmp_path: Path, keys: tuple[str, ...]) -> None:
    path = tmp_path / "s"

    async def talk(app: ChatApp, pilot: Any) -> None:
        await ask(app, pilot, "one")
        assert cached_tokens(path) == 0, "it is written at the end alone"
        await pilot.press(*keys)
        await idle(app)

    async def again(app: ChatApp, pilot: Any) -> None:
        await pilot.press("ctrl+r")
        await idle(app)
        assert cached_tokens(path) > 0, "nothing new was said"

    assert chat(talk) == 0
    assert (said(path), cached_tokens(path) > 0) == (round_of("one"), True)
    assert chat(again) == 0
    assert (said(path), cached_tokens(path) > 0) == (round_of("one"), True)


def test_what_the_app_had_no_time_to_show_is_kept(chat: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def talk(app: ChatApp, pilot: Any) -> None:
        monkeypatch.setattr("bq.tui.app_answers.LOOK_EVERY_SECONDS", 60)
        app.desk.view.prompt.load_text("one")
        await pilot.press("enter")
        await until(lambda: app.desk.job is not None and app.desk.job.done)

    assert chat(talk) == 0
    assert said(tmp_path / "s") == round_of("one")


def test_a_chat_that_cannot_be_kept_says_so_and_goes_on(
    chat: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    async def talk(app: ChatApp, pilot: Any) -> None:
        (folder / "s.lock").unlink()
        folder.rmdir()
        await ask(app, pilot, "one")
        assert "cannot be written" in drawn(app)
        assert app.desk.conversation.rounds[0].answer == ANSWER

    assert chat(talk, "--session", folder / "s") == 1
    assert "bq: " in capsys.readouterr().err


def test_the_texts_come_in_chinese_too(bq: Bq, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"")
    done = bq("run", "-m", "none.gguf", "--lang", "zh", "--session", tmp_path / "s", "x")
    text = "bq: s 不是完整的会话文件：开头不是会话文件。文件保持原样；要重新开始请换一个文件名。"
    assert lines(done.stderr) == [text]
