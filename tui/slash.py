"""The commands that begin with a slash, as data: the app and the line mode offer the same ones.

A line is a command only if a word of the letters a to z follows the slash, and then nothing or a space: a path
(`/etc/passwd`) and `/ text` are text. A word that is no command is refused where it stands alone or is nearly one; a
text that begins with a slash can always be sent by writing two.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bq.runtime.errors import UsageError
from bq.runtime.language import LANGUAGES, say
from bq.tui.settings import describe_parameters, parameter_named, parse_parameter

Place = Literal["app", "plain"]
Takes = Literal["nothing", "perhaps", "something"]

_LINE = re.compile(r"/([a-z]+)(!?)(?:\s+(.*))?", re.DOTALL)
_NEAR = 0.75  # of difflib's ratio: a word and a letter that is wrong or missing
_BETWEEN = re.compile(r"[=:,;：，；]")
_ALSO = {  # what other programs call them, for the hint alone
    "exit": "quit", "bye": "quit", "q": "quit", "regen": "retry", "regenerate": "retry", "load": "model",
    "models": "model", "set": "params", "resume": "open", "sessions": "list", "history": "list", "search": "find",
    "reset": "clear", "branch": "fork", "title": "rename", "language": "lang", "h": "help",
}  # fmt: skip


@dataclass(frozen=True)
class Slash:
    """A command. `shape` is how its argument is written, in both languages; `forced`: a `!` behind it overwrites."""

    name: str
    shape: tuple[str, str]
    text: tuple[str, str]
    takes: Takes = "perhaps"
    places: tuple[Place, ...] = ("app", "plain")
    forced: bool = False

    @property
    def usage(self) -> str:
        """`/export FILE`, in the language in use."""
        return f"/{self.name} {say(*self.shape)}".rstrip()

    @property
    def does(self) -> str:
        """What it does, in the language in use."""
        return say(*self.text)


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


_NOTHING = ("", "")

COMMANDS: tuple[Slash, ...] = (
    Slash("help", ("[COMMAND]", "[命令]"), ("Show the commands, or one of them.", "显示全部命令，或其中一个。")),
    Slash("new", _NOTHING, ("Begin another conversation.", "开始新的对话。"), "nothing"),
    Slash("list", ("[TEXT]", "[文字]"), ("Show the conversations, those with this text.", "列出对话，可按文字筛选。")),
    Slash(
        "open", ("NUMBER", "编号"), ("Go on with a conversation of the list.", "继续列表中的一个对话。"), "something"
    ),
    Slash("find", ("TEXT", "文字"), ("Search all conversations.", "搜索所有对话。"), "something"),
    Slash("rename", ("TITLE", "标题"), ("Give the conversation a title.", "为对话命名。"), "something"),
    Slash(
        "delete", ("[NUMBER]", "[编号]"), ("Delete this conversation, or one of the list.", "删除当前或列表中的对话。")
    ),
    Slash(
        "retry",
        _NOTHING,
        ("Answer the last question anew; the old answer is kept.", "重新回答，旧回答保留。"),
        "nothing",
    ),
    Slash(
        "continue",
        _NOTHING,
        ("Go on with an answer that was cut off or stopped.", "续写被截断或停止的回答。"),
        "nothing",
    ),
    Slash(
        "edit",
        ("[TEXT]", "[文字]"),
        ("Ask the last question in other words; the old one is kept.", "修改上一个问题后重新提问，旧的保留。"),
    ),
    Slash("undo", _NOTHING, ("Take the last question and its answer back.", "撤回最后一问一答。"), "nothing"),
    Slash("clear", _NOTHING, ("Take all questions and answers back.", "撤回全部问答。"), "nothing"),
    Slash(
        "fork",
        _NOTHING,
        ("Go on in a copy; this conversation stays as it is.", "在副本中继续，原对话不变。"),
        "nothing",
    ),
    Slash(
        "pin",
        _NOTHING,
        ("Keep the last round in the context, or no longer.", "让最后一轮始终留在上下文中，或取消。"),
        "nothing",
    ),
    Slash("copy", _NOTHING, ("Copy the last answer.", "复制最后的回答。"), "nothing"),
    Slash(
        "system",
        ("[TEXT | -]", "[文字 | -]"),
        ("Show or set the system prompt; - for none.", "查看或设置系统提示；- 清除。"),
    ),
    Slash(
        "params",
        ("[temp 0.7 | reset]", "[temp 0.7 | reset]"),
        ("Show or set how answers are drawn.", "查看或设置采样参数。"),
    ),
    Slash("template", ("[NAME TEXT]", "[名称 文字]"), ("Give a ready-made instruction.", "使用指令模板。")),
    Slash(
        "context",
        _NOTHING,
        ("Show what the context holds and would leave out.", "查看上下文的占用与取舍。"),
        "nothing",
    ),
    Slash(
        "model",
        ("[NUMBER | FILE]", "[编号 | 文件]"),
        ("Show the models, or load another one.", "列出模型，或加载另一个。"),
    ),
    Slash(
        "compare",
        ("[FILE]", "[文件]"),
        ("Ask two models the same and see both answers.", "让两个模型回答同一问题并对照。"),
        places=("app",),
    ),
    Slash(
        "save",
        ("[TITLE]", "[标题]"),
        ("Save now, under a title (each message is saved anyway).", "立即保存并命名（每条消息都会自动保存）。"),
    ),
    Slash(
        "export",
        ("[FILE]", "[文件]"),
        (
            "Write the conversation to a .md or .json file; export! replaces one.",
            "导出为 .md 或 .json 文件；export! 可覆盖。",
        ),
        forced=True,
    ),
    Slash(
        "import",
        ("FILE", "文件"),
        ("Read a conversation from a .md or .json file.", "从 .md 或 .json 文件导入对话。"),
        "something",
    ),
    Slash("lang", ("en | zh", "en | zh"), ("Choose the language.", "选择界面语言。"), "something"),
    Slash("theme", ("[NAME]", "[名称]"), ("Choose the colours.", "选择配色。"), places=("app",)),
    Slash("quit", _NOTHING, ("Quit.", "退出。"), "nothing"),
)
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
            say(f"/{word} works in the app alone.", f"/{word} 只能在完整界面中使用。"),
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
    near = [also] if also else difflib.get_close_matches(word, [one.name for one in commands(place)], 1, 0.5)
    meant = say(f"Did you mean /{near[0]}? ", f"是否想用 /{near[0]}？") if near else ""
    return UsageError(
        say(f"There is no command /{word}.", f"没有命令 /{word}。"),
        meant + say("/help shows them all. ", "/help 列出全部命令。") + _as_text(),
    )


def _as_text() -> str:
    return say("A text that begins with / is written with //.", "以 / 开头的普通文字请写成 //。")
