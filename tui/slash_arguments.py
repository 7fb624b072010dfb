"""What follows a slash command, made into what it means: the app and the line mode read the same."""

import re
from collections.abc import Sequence
from pathlib import Path

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.tui.answer_form import AnswerForm
from bq.tui.conversation import Conversation, Mode, Node, Round
from bq.tui.user_files import is_there, path_named

MODES: tuple[Mode, ...] = ("chat", "instruct", "complete")
_KINDS = {"choices": "choices", "schema": "json_schema", "json_schema": "json_schema", "grammar": "grammar"}
_MOST_DIGITS = 6


def mode_named(text: str) -> Mode:
    """The mode of this name. Raises UsageError if there is none."""
    found = next((mode for mode in MODES if mode == text.lower()), None)
    if found is None:
        raise UsageError(say(f"There is no mode {text}.", f"没有模式 {text}。"), "/mode chat | instruct | complete")
    return found


def place_in(number: str, count: int, shows: str) -> int:
    """The place, from 0, of a number of a list that counts from 1. Raises UsageError if the list has none; `shows` shows it."""
    if not number.isdecimal() or len(number) > _MOST_DIGITS or not 1 <= int(number) <= count:
        raise UsageError(
            say(f"{number} is no number of the list.", f"{number} 不是列表中的编号。"),
            say(f"{shows} shows the list.", f"{shows} 显示列表。"),
        )
    return int(number) - 1


def round_named(talk: Conversation, number: str) -> Round:
    """The round of this number, the last one for "". Raises UsageError if there is none."""
    rounds = talk.rounds
    if not rounds:
        raise BqError(say("Nothing was asked yet.", "还没有提问。"))
    if not number:
        return rounds[-1]
    if not number.isdecimal() or len(number) > _MOST_DIGITS or not 1 <= int(number) <= len(rounds):
        raise UsageError(
            say(f"There is no round {number}.", f"没有第 {number} 轮。"),
            say(f"They are numbered from 1 to {len(rounds)}.", f"编号为 1 至 {len(rounds)}。"),
        )
    return rounds[int(number) - 1]


def versions_of(talk: Conversation) -> tuple[Node, Sequence[Node]]:
    """The last answer and its versions; where there is one alone, the last question and its. Raises BqError if nothing was asked."""
    last = round_named(talk, "")
    if last.answer is not None and len(versions := talk.versions(last.answer.id)) > 1:
        return last.answer, versions
    if len(asked := talk.versions(last.question.id)) > 1:
        return last.question, asked
    node = last.answer or last.question
    return node, talk.versions(node.id)


def form_from(text: str) -> AnswerForm | None:
    """What `/form` sets: `none`, `choices yes, no`, `schema FILE` or the JSON itself, `grammar FILE`. Raises UsageError."""
    from bq.tui.commands.structured import read_text
    from bq.tui.templates import check_form

    word, _, rest = text.partition(" ")
    if word in ("none", "free"):
        return None
    kind, given = _KINDS.get(word), rest.strip()
    if kind is None or not given:
        raise UsageError(
            say(f"There is no such form: {text[:60]}", f"没有这样的格式：{text[:60]}"),
            "/form none | choices A, B | schema FILE | grammar FILE",
        )
    if kind != "choices" and is_there(path_named(given)):
        given = read_text(str(path_named(given)))
    form = AnswerForm(kind, given.strip())  # type: ignore[arg-type]  # one of the three
    check_form(form)
    return form


def form_text(form: AnswerForm | None) -> str:
    """What an answer has to look like, in a line."""
    if form is None:
        return say("Output: free text.", "输出：自由文本。")
    kind = {
        "choices": say("one of", "选项之一"),
        "json_schema": say("JSON by", "JSON，模式"),
        "grammar": say("by", "语法"),
    }
    brief = " ".join(form.text.split())
    return f"{say('Output: ', '输出：')}{kind[form.kind]} {brief[:80]}{'…' if len(brief) > 80 else ''}"


def file_and_text(argument: str) -> tuple[Path, str]:
    """The file that `/file` names and the text behind it: a path with spaces stands alone, or in quotes. Raises UsageError."""
    whole = path_named(argument)
    if is_there(whole):
        return whole, ""
    found = re.match(r"\s*(\"[^\"]*\"|'[^']*'|\S+)\s*(.*)", argument, re.DOTALL)
    if found is None:
        raise UsageError(say("The file is missing.", "缺少文件。"), "/file FILE")
    return path_named(found[1].strip("\"'")), found[2]


def words(argument: str) -> tuple[str, str]:
    """The first word and what follows it."""
    first, _, rest = argument.strip().partition(" ")
    return first, rest.strip()
