"""What the bundled model tells of bq is what bq has: its commands and their options, each and no other."""

import re
from collections.abc import Iterator

import click
import pytest

from bq.demo.corpus import load_corpus
from bq.tui.cli import COMMANDS, cli

_CODE = re.compile(r"`([^`]+)`")
_CALL = re.compile(r"\bbq ([a-z]+)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_OF_OTHER_PROGRAMS = {"--install", "--no-cache-dir"}  # xcode-select, pip
_EVERYWHERE = {"--help", "--lang", "--debug", "--version"}


def _options(command: click.Command) -> set[str]:
    """The options of a command and of those below it."""
    own = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return own.union(_EVERYWHERE, *(_options(one) for one in below))


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    context = click.Context(cli)
    found = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = _options(command)
    return found


def _pieces_of_code() -> Iterator[tuple[str, str]]:
    """Each piece of code that the model may say, and the answer that it stands in."""
    corpus = load_corpus()
    answers = [item.answer for item in (*corpus.questions, *corpus.dialogues)]
    answers += [past.answer for item in corpus.dialogues for past in item.history]
    for answer in answers:
        for code in _CODE.findall(answer):
            yield code, answer


def test_no_answer_names_a_command_that_is_not_there() -> None:
    unknown = {
        call: answer for code, answer in _pieces_of_code() for call in _CALL.findall(code) if call not in COMMANDS
    }
    assert not unknown


def test_every_command_is_named_in_both_languages() -> None:
    for lang in ("en", "zh"):
        answers = " ".join(one.answer for one in load_corpus().questions if one.lang == lang)
        assert set(_CALL.findall(answers)) >= set(COMMANDS)


def test_every_option_in_an_answer_is_one_of_its_command(options: dict[str, set[str]]) -> None:
    anyones = set.union(_OF_OTHER_PROGRAMS, *options.values())
    for code, answer in _pieces_of_code():
        call = _CALL.search(code)
        known = options[call[1]] if call else anyones
        assert set(_OPTION.findall(code)) <= known, answer


def test_no_wording_asks_for_two_answers() -> None:
    """Else the model could not be right, whatever it said."""
    seen: dict[str, str] = {}
    for question in load_corpus().questions:
        for wording in (*question.ask, question.held_out):
            plain = wording.lower().rstrip("?？.。!！ ")
            assert seen.setdefault(plain, question.answer) == question.answer, wording
