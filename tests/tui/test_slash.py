"""What begins with a slash: commands are understood or refused in a line, and text stays text."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.runtime.language import set_language
from bq.tui.slash import COMMANDS, Command, command_named, commands, completions, message_text, params_from, parse

NAMES = [one.name for one in COMMANDS]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/help", Command("help")),
        ("/help  retry ", Command("help", "retry")),
        ("/system You are\nbrief.", Command("system", "You are\nbrief.")),
        ("/find\t模型", Command("find", "模型")),
        ("/export a b.md", Command("export", "a b.md")),
        ("/export! chat.md", Command("export", "chat.md", True)),
        ("/undo\n", Command("undo")),
    ],
)
def test_a_command_is_its_word_and_what_follows(line: str, command: Command) -> None:
    assert parse(line) == command


@pytest.mark.parametrize(
    "line",
    [
        "",
        "/",
        "/ hi",
        " /help",
        "//help",
        "/etc/passwd explain",
        "/usr is full",
        "/home is where the heart is",
        "/tmp\nhas too many files",
        "/1",
        "/帮助",
        "/Help",
        "/a-b",
        "what does /help do?",
    ],
)
def test_text_is_text(line: str) -> None:
    assert parse(line) is None


def test_of_two_slashes_one_is_meant() -> None:
    assert message_text("//help") == "/help"
    assert message_text("/etc/passwd") == "/etc/passwd"
    assert message_text("a // b") == "a // b"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/modle", r"no command /modle\. Did you mean /model\? /help shows them all\. .* is written with //\."),
        ("/exprt chat.md", "Did you mean /export"),
        ("/exit", "Did you mean /quit"),
        ("/xyzzyx", r"no command /xyzzyx\. /help shows them all"),
        ("/undo it", "Nothing follows /undo"),
        ("/undo!", "/undo has no `!`"),
        ("/rename", "/rename needs more. Write: /rename TITLE"),
    ],
)
def test_a_wrong_command_is_refused_in_a_line_that_helps(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(line)


def test_a_command_of_the_app_is_refused_in_the_line_mode() -> None:
    assert parse("/theme nord", "app") == Command("theme", "nord")
    with pytest.raises(UsageError, match="works in the app alone"):
        parse("/theme nord", "plain")
    assert {"theme"} == {*NAMES} - {one.name for one in commands("plain")}


@given(st.text(max_size=60))
def test_any_line_is_a_command_a_text_or_refused(text: str) -> None:
    try:
        command = parse(text)
    except UsageError:
        assert text.startswith("/")
        return
    assert command is None or (command.name in NAMES and text.startswith("/" + command.name))


@given(st.sampled_from(NAMES), st.text(max_size=30))
def test_two_slashes_make_a_text_of_any_command(name: str, rest: str) -> None:
    line = f"/{name} {rest}"
    assert parse("/" + line) is None
    assert message_text("/" + line) == line


def test_every_command_says_what_it_does_in_both_languages() -> None:
    for language, letters in (("en", "[a-zA-Z]"), ("zh", "[\u4e00-\u9fff]")):
        set_language(language)
        for one in COMMANDS:
            assert re.search(letters, one.does), one.name
            assert one.usage.startswith(f"/{one.name}")
    assert len(set(NAMES)) == len(NAMES)
    assert all(re.fullmatch("[a-z]+", name) for name in NAMES)


def test_help_finds_a_command_with_or_without_its_slash() -> None:
    assert command_named("/retry", "plain") is command_named("retry", "plain")
    with pytest.raises(UsageError, match="Did you mean /retry"):
        command_named("retri", "plain")


def lines(text: str, **keywords: Any) -> list[str]:
    return [one.line for one in completions(text, **keywords)]


def test_what_begins_so_comes_first_then_what_has_these_letters() -> None:
    assert lines("/") == ["/" + name for name in NAMES]
    assert lines("/ret") == ["/retry"]
    assert lines("/ctx") == ["/context"]
    assert lines("/zz") == lines("text") == lines("/usr/") == lines("/help\n") == []
    assert "/theme" not in lines("/t", place="plain")


def test_arguments_are_completed() -> None:
    assert lines("/lang ") == ["/lang en", "/lang zh"]
    assert lines("/params top") == ["/params top-k", "/params top-p"]
    assert lines("/help ret") == ["/help retry"]
    models = {"model": ["/models/a-Q8_0.gguf", "/models/模型 b.gguf"]}
    assert lines("/model b.gg", candidates=lambda name: models.get(name, [])) == ["/model /models/模型 b.gguf"]
    assert lines("/rename x", candidates=lambda name: models.get(name, [])) == []


@given(st.text(max_size=20))
def test_completing_never_fails_and_keeps_the_command(text: str) -> None:
    for line in lines("/" + text):
        assert line.startswith("/" + (text.split(" ")[0] if " " in text else ""))


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("temp 0.7", {"temperature": 0.7}),
        ("top_p=0.9 seed=5", {"top_p": 0.9, "seed": 5}),
        ("top-k: 3, repeat_penalty = 1.1", {"top_k": 3, "repeat_penalty": 1.1}),
        ("--max-tokens 20", {"max_tokens": 20}),
        ("temp 1 temp 2", {"temperature": 2.0}),
        ("greedy seed random", {"temperature": 0.0, "seed": None}),
        ("reset temp", {"temperature": None}),
        ("temp 1 reset top-k seed", {"temperature": 1.0, "top_k": None, "seed": None}),
        ("", {}),
    ],
)
def test_parameters_are_read_as_people_write_them(text: str, changes: dict[str, float | None]) -> None:
    assert params_from(text) == changes


def test_reset_alone_is_for_all_of_them() -> None:
    assert params_from("reset") == dict.fromkeys(
        ["temperature", "top_k", "top_p", "repeat_penalty", "seed", "max_tokens"]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("temp", "temp has no value. Write: /params temp 0.7"),
        ("heat 3", "no parameter heat. There are: temp, top-k"),
        ("temp -1", r"temp: -1.0 is not in the range x>=0. Give a number: 0 or more"),
        ("temp inf", "temp: 'inf' is no number"),
        ("top_p 1.5", r"top-p: 1.5 is not in the range 0<=x<=1. Give a number: 0 to 1"),
        ("repeat-penalty 0", "Give a number: more than 0"),
        ("top-k 1.5", "top-k: '1.5' is not a valid integer"),
        ("seed 4294967295", "seed: 4294967295 is not in the range"),
        ("max-tokens 0", "Give a number: 1 or more"),
    ],
)
def test_parameters_have_the_ranges_of_the_options(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        params_from(text)


@given(st.text(max_size=40))
def test_any_text_is_parameters_or_refused(text: str) -> None:
    try:
        changes = params_from(text)
    except UsageError:
        return
    assert all(value is None or value >= 0 for value in changes.values())
