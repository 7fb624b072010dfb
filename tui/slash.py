"""Lines that begin with a slash, and what they may become: the app and the line mode understand the same ones.

A line is a command only if a word of the letters a to z follows the slash, and then nothing or a space: a path
(`/etc/passwd`) and `/ text` are text. A word that is no command is refused where it stands alone or is nearly one; a
text that begins with a slash can always be sent by writing two.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bq.runtime.errors import UsageError
from bq.runtime.language import LANGUAGES, say
from bq.runtime.prompt_format import THINK_MODES, Think
from bq.runtime.values import ModelInfo
from bq.tui.settings import describe_parameters, parameter_named, parse_parameter
from bq.tui.slash_commands import COMMANDS, Place
from bq.tui.slash_commands import Slash as Slash  # where it is looked for

_LINE = re.compile(r"/([a-z]+)(!?)(?:\s+(.*))?", re.DOTALL)
_NEAR = 0.75  # of difflib's ratio: a word and a letter that is wrong or missing
_BETWEEN = re.compile(r"[=:,;：，；]")
_ALSO = {  # what other programs call them, for the hint alone
    "exit": "quit", "bye": "quit", "q": "quit", "regen": "retry", "regenerate": "retry", "load": "model",
    "models": "model", "set": "params", "resume": "open", "sessions": "list", "history": "list", "search": "find",
    "reset": "clear", "branch": "fork", "output": "form", "read": "file", "title": "rename", "language": "lang", "h": "help",
}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """What was typed: the command's name, what follows it, and whether a `!` says to overwrite."""

    name: str
    argument: str = ""
    force: bool = False


@dataclass(frozen=True)
class Completion:
    """A whole line that what is typed may become, and what it would do."""

    line: str
    does: str = ""


_BY_NAME = {one.name: one for one in COMMANDS}


def commands(place: Place) -> list[Slash]:
    """Those that work there, in the order of the help."""
    return [one for one in COMMANDS if place in one.places]


def command_named(name: str, place: Place) -> Slash:
    """The command, with or without its slash. Raises UsageError if there is none of this name here."""
    word = name.strip().removeprefix("/")
    if word not in _BY_NAME:
        raise _unknown(word, place)
    found = _BY_NAME[word]
    if place not in found.places:
        raise UsageError(
            say(
                f"/{word} works in the app alone: here nothing is coloured.",
                f"/{word} 只能在完整界面中使用：此处不显示颜色。",
            ),
            say("Start bq chat without --plain.", "请不加 --plain 启动 bq chat。"),
        )
    return found


def parse(line: str, place: Place = "app") -> Command | None:
    """The command that a line is, None for text. Raises UsageError for one that does not exist, or not so."""
    match = _LINE.fullmatch(line.rstrip())
    if match is None:
        return None
    word, force, argument = match[1], bool(match[2]), (match[3] or "").strip()
    if word not in _BY_NAME and argument and not _nearest(word, place):
        return None
    found = command_named(word, place)
    if force and not found.forced:
        raise UsageError(say(f"/{word} has no `!`.", f"/{word} 没有 `!`。"), _as_text())
    if argument and found.takes == "nothing":
        raise UsageError(say(f"Nothing follows /{word}.", f"/{word} 后面不带内容。"), _as_text())
    if not argument and found.takes == "something":
        raise UsageError(say(f"/{word} needs more.", f"/{word} 缺少内容。"), say("Write: ", "写法：") + found.usage)
    return Command(word, argument, force)


def message_text(line: str) -> str:
    """A text as it is sent: of two slashes at its beginning one is meant."""
    return line[1:] if line.startswith("//") else line


def completions(
    text: str, place: Place = "app", candidates: Callable[[str], Sequence[str]] = lambda name: ()
) -> list[Completion]:
    """What a line that is being typed may become: commands, then their arguments; the best first.

    `candidates` gives the arguments for a command that only the caller knows: models, templates, conversations, themes.
    """
    if not re.match(r"/[a-z]*(\s|$)", text) or "\n" in text:
        return []
    word, space, begun = text[1:].partition(" ")
    if not space:
        names = {one.name: one for one in commands(place)}
        return [Completion(f"/{name}", names[name].does) for name in ranked(word, names)]
    if word not in _BY_NAME or place not in _BY_NAME[word].places:
        return []
    known = _arguments(word, place)
    given = known or dict.fromkeys(candidates(word), "")
    return [Completion(f"/{word} {one}", given[one]) for one in ranked(begun.lstrip(), given)]


def ranked(begun: str, names: Iterable[str]) -> list[str]:
    """The names that begin so, then those that have these letters in this order, close together first."""
    wanted = begun.lower()
    first, then = [], []
    for name in names:
        if name.lower().startswith(wanted):
            first.append(name)
        elif (length := _span(wanted, name.lower())) is not None:
            then.append((length, name))
    return [*first, *(name for _, name in sorted(then, key=lambda one: one[0]))]


def params_from(text: str) -> dict[str, float | None]:
    """What `/params` changes, None for a parameter that is to be as the model has it. Raises UsageError.

    `temp 0.7`, `top_p=0.9 seed=5`, `greedy`, `reset`, `reset temp`.
    """
    words = iter(_BETWEEN.sub(" ", text).split())
    changes: dict[str, float | None] = {}
    for word in words:
        if word.lower() == "reset":
            named = [parameter_named(one) for one in words] or [one.name for one in describe_parameters()]
            changes |= dict.fromkeys(named)
        elif word.lower() == "greedy":
            changes["temperature"] = 0.0
        else:
            name = parameter_named(word)
            changes[name] = _value(name, next(words, None), word)
    return changes


def think_from(text: str, model: ModelInfo) -> Think:
    """The mode that `/think` sets. Raises UsageError for one that does not exist, or that the model does not know."""
    wanted = next((mode for mode in THINK_MODES if mode == text.lower()), None)
    if wanted is None:
        raise UsageError(say(f"There is no thinking mode {text}.", f"没有思考模式 {text}。"), "/think on | off | auto")
    if wanted != "auto" and not model.thinks:
        from bq.runtime.file_prompt import think_refusal

        raise think_refusal(model.name)
    return wanted


def think_text(think: Think) -> str:
    """What a thinking mode means, in a line."""
    return {
        "on": say("The model thinks before each answer.", "模型每次回答前都会思考。"),
        "off": say("The model answers without thinking.", "模型不思考，直接回答。"),
        "auto": say("The model decides by itself whether it thinks.", "是否思考由模型自行决定。"),
    }[think]


def _value(name: str, text: str | None, word: str) -> float | None:
    if text is None:
        raise UsageError(
            say(f"{word} has no value.", f"{word} 没有值。"),
            say("Write: /params temp 0.7 top-p=0.9", "写法：/params temp 0.7 top-p=0.9"),
        )
    return None if text.lower() in ("reset", "default", "random") else parse_parameter(name, text)


def _arguments(word: str, place: Place) -> Mapping[str, str]:
    """The arguments that are the same everywhere."""
    if word == "params":
        return {one.option: f"{one.range}. {one.does}" for one in describe_parameters()} | {"reset": ""}
    if word == "mode":
        return dict.fromkeys(("chat", "instruct", "complete"), "")
    if word == "form":
        return dict.fromkeys(("none", "choices", "schema", "grammar"), "")
    if word == "think":
        return dict.fromkeys(THINK_MODES, "")
    if word == "lang":
        return dict.fromkeys(LANGUAGES, "")
    if word == "help":
        return {one.name: one.does for one in commands(place)}
    return {}


def _span(letters: str, text: str) -> int | None:
    """How many characters of the text the letters stretch over, in their order; None if they are not all there."""
    start = end = text.find(letters[:1])
    for letter in letters[1:]:
        end = text.find(letter, end + 1) if end >= 0 else -1
    return end - start + 1 if end >= 0 else None


def _nearest(word: str, place: Place) -> str | None:
    """The command that was probably meant."""
    names = [one.name for one in commands(place)]
    near = difflib.get_close_matches(word, names, 1, _NEAR)
    return near[0] if near else None


def _unknown(word: str, place: Place) -> UsageError:
    also = _ALSO.get(word)
    names = [one.name for one in commands(place)]
    mixed = [name for name in names if sorted(name) == sorted(word)]  # /modle is /model before it is /mode
    near = [also] if also else mixed or difflib.get_close_matches(word, names, 1, 0.5)
    meant = say(f"Did you mean /{near[0]}? ", f"是否想用 /{near[0]}？") if near else ""
    return UsageError(
        say(f"There is no command /{word}.", f"没有命令 /{word}。"),
        meant + say("/help shows them all. ", "/help 列出全部命令。") + _as_text(),
    )


def _as_text() -> str:
    return say("A text that begins with / is written with //.", "以 / 开头的普通文字请写成 //。")
