"""The line mode has commands for what the app has keys for: the mode, a file, the form of answers, versions, rounds, prompts."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.tui.commands.chat import why_no_screen
from tests.support.scripted import byte_tokens, saying

from .common import GREEDY, Scripted, kept, posix, said, told


@pytest.fixture(scope="module")
def other(scripted: Scripted) -> Path:
    """Answers everything with another text."""
    return scripted(saying(byte_tokens("完other")))


def test_versions_are_listed_and_chosen_and_any_round_is_forked_and_pinned(talk: Callable[..., Any]) -> None:
    lines = ["one", "two", "/retry", "/versions", "/versions 1", "/pin 1", "/fork 1", "three", "/pin 9", "/versions 7"]
    done = talk(*lines)
    assert re.search(r"^ 1   完done .*\n 2 \* 完done ", told(done), re.MULTILINE), told(done)
    assert "Version 1 of 2:" in told(done)
    assert "Round 1 stays in the context." in told(done)
    assert "There is no round 9. They are numbered from 1 to 2." in told(done)
    assert "7 is no number of the list. /versions shows the list." in told(done)
    copy, first = kept()
    assert said(copy) == ["one", "完done", "three", "完done"]
    assert said(first) == ["one", "完done", "two", "完done"]
    assert [node.content for node in first.path() if node.pinned] == ["one"]
    assert first.head == [node.id for node in first.nodes.values()][3]


def test_the_mode_is_changed_and_a_form_and_a_file_are_used(talk: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a file.txt").write_text("the text")
    (tmp_path / "s.json").write_text('{"enum": ["x"]}')
    lines = [
        "/mode", "/mode instruct", "/form choices yes, no", "is it?", "/form schema s.json", "/form", "/form none",
        "/file a file.txt", '/file "a file.txt" Shorten it', "/mode complete", "once", "/mode fly", "/file none.txt",
    ]  # fmt: skip
    done = talk(*lines, cwd=tmp_path)
    assert done.stdout.decode().splitlines()[0] in ("yes", "no")
    assert "chat. Chat: each message has those before it." in told(done)
    assert 'Output: JSON by {"enum": ["x"]}' in told(done)
    assert "There is no mode fly. /mode chat | instruct | complete" in told(done)
    assert "none.txt cannot be read" in told(done)
    assert [one.mode for one in kept()] == ["complete", "instruct", "instruct", "instruct"]
    assert [said(one)[0] for one in kept()] == ["once", "Shorten it\n\nthe text", "the text", "is it?"]


def test_system_prompts_are_kept_used_and_deleted(talk: Callable[..., Any]) -> None:
    lines = ["/prompts", "/system be brief", "/prompts keep short one", "/system -", "/prompts", "/prompts 1", "hi"]
    done = talk(*lines, "/prompts delete 1", "/prompts", "/prompts keep", "/prompts 1")
    assert told(done).count("No system prompt is kept yet") == 2
    assert " 1 short one: be brief\n" in told(done)
    assert "Deleted: short one" in told(done)
    assert "There is no name, or no system prompt to keep." in told(done)
    assert "1 is no number of the list. /prompts shows the list." in told(done)
    assert [one.system for one in kept()] == ["be brief"]


def test_a_conversation_is_opened_by_a_text_in_it(talk: Callable[..., Any]) -> None:
    done = talk("量化是什么", "/new", "a second one", "/open 量化", "more", "/open done", "/open nowhere")
    assert "“量化是什么”, rounds: 1" in told(done)
    assert re.search(r"^1 .* 2 .*量化是什么.*\n2 .* 1 .*a second one", told(done), re.MULTILINE), told(done)
    assert "There is no such conversation." in told(done)
    assert sorted(len(said(one)) for one in kept()) == [2, 4]


def test_models_are_shown_as_in_the_picker_and_loaded_by_their_numbers(
    talk: Callable[..., Any], speaker: Path, other: Path
) -> None:
    done = talk("/model", f"/model {other}", "hi", "/model", "/model 2", "/model 99", cwd=other.parent)
    shown = told(done)
    assert re.search(
        r"^ 1 ● .*  F32  0\.\d+ GiB  chat  \(loaded\)\n     " + re.escape(str(speaker)), shown, re.MULTILINE
    )
    assert re.search(r"^     fits  needs .* GiB free, context \d+$", shown, re.MULTILINE)
    assert re.search(r"^ 2   .*\n     " + re.escape(str(other)), shown, re.MULTILINE)
    assert re.search(r"^ 1 ● .*\(loaded\)\n     " + re.escape(str(other)), shown, re.MULTILINE)
    assert "99 is no number of the list. /model shows the list." in shown
    assert done.stdout.decode() == "完other\n"


def test_two_models_answer_the_same_question_and_the_first_is_there_again(
    talk: Callable[..., Any], other: Path, tmp_path: Path
) -> None:
    done = talk("/compare", "hi", "/compare", f"/compare {other}", f"/compare {tmp_path}", "again", options=())
    assert done.stdout.decode() == "完done\n完done\n完other\n完done\n"
    assert re.search(r"^--- .* F32\n\(\d+ tokens, .* tok/s\)$", told(done), re.MULTILINE)
    assert "% of the two answers is the same." in told(done)
    assert "Nothing was asked yet." in told(done)
    assert "Write: /compare NUMBER, or a FILE" in told(done)
    (one,) = kept()
    assert said(one) == ["hi", "完done", "again", "完done"]


def test_what_has_no_place_in_lines_says_why(talk: Callable[..., Any]) -> None:
    assert "/theme works in the app alone: here nothing is coloured. Start bq chat without --plain." in told(
        talk("/theme nord")
    )


@posix
def test_a_person_is_told_why_there_are_lines(bq_command: Path, speaker: Path, tmp_path: Path) -> None:
    import pty

    keyboard, terminal = pty.openpty()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [bq_command, "chat", "-m", speaker, *map(str, GREEDY)], stdin=terminal, stdout=terminal, stderr=log
        )
        os.write(keyboard, b"/quit\n")
        assert process.wait(120) == 0
    first = (tmp_path / "log").read_text().splitlines()[0]
    assert first == "bq: line by line, because stderr is no terminal."


def test_a_pipe_is_not_told(talk: Callable[..., Any]) -> None:
    assert "line by line" not in told(talk("hi"))
    assert why_no_screen() != ""
