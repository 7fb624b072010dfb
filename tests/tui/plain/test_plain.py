"""`bq chat` line by line in a pipe: answers alone on stdout, and nothing that was said is lost."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bq.tui import settings
from tests.support.scripted import byte_tokens
from tests.tui.conftest import Bq

from .common import GREEDY, Scripted, kept, said, told


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
    assert (done.returncode, done.stdout) == (2, b"")
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
