"""A conversation as Markdown for people: the path on the screen, readable in any viewer, and back without loss.

Each part begins with a comment that no viewer shows, and the texts stand between as they are. The comments are told from
texts by a mark that occurs in none of them, which the first line names:

    <!-- bq conversation 1 chat -->
    # The title
    <!-- bq user -->
    ## You

A code block that a text leaves open is closed below it, and the comment says so: what follows stays readable.
A Markdown file from elsewhere is read by its headings, such as `## You` and `## Assistant`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import cast, get_args

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message, Role
from bq.tui.conversation import Conversation, Mode

VERSION = 1
MAX_MESSAGES = 100_000
_MARK = re.compile(r"<!-- (bq\d*) ")
_FIRST_LINE = re.compile(r"<!-- (?P<mark>bq\d*) conversation (?P<version>\d{1,9}) (?P<mode>\w+) -->\r?\n")
_COMMENT = r"^<!-- {mark} (?P<name>\w+)(?: closed (?P<fence>`{{3,}}|~{{3,}}))? -->(?:\n|\Z)"
_HEADING_AND_BLANK = re.compile(r"#+ [^\n]*\n\n")
_SPECIAL = re.compile(r"[\\`*_\[\]<>#]")

_SAID = ("system", "user", "assistant")
_ORDER = {"title": 0, "about": 1, "system": 2, "user": 3, "assistant": 3, "end": 4}

_FENCE = re.compile(r"(`{3,})[^`]*\Z|(~{3,})")
_CLOSING = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*\Z")
_LINE_END = re.compile(r"\r\n?|\n")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*)")
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "system prompt", "系统", "系统提示", "系统提示词"), "system"),
    **dict.fromkeys(("you", "user", "human", "me", "prompt", "question", "q"), "user"),
    **dict.fromkeys(("你", "您", "我", "用户", "提问", "问题", "问"), "user"),
    **dict.fromkeys(("assistant", "ai", "bot", "model", "response", "answer", "a", "chatgpt", "baichuan"), "assistant"),
    **dict.fromkeys(("助手", "助理", "模型", "回答", "回复", "答", "百川"), "assistant"),
}


@dataclass(frozen=True)
class _Part:
    """What stands below a comment, or below the heading of a file from elsewhere; `line` is that one's number."""

    name: str
    text: str
    line: int


# Writing


def to_markdown(conversation: Conversation) -> str:
    """Title, date, model, system prompt and the rounds of the path, texts as they are."""
    about, path = _about(conversation), conversation.path()
    texts = [conversation.heading, about, conversation.title, conversation.system, *(node.content for node in path)]
    mark = _free_mark(texts)
    labels = {"user": say("You", "你"), "assistant": say("Assistant", "助手")}
    parts = [f"<!-- {mark} conversation {VERSION} {conversation.mode} -->\n"]
    if conversation.title:
        parts.append(_part(mark, "title", "# ", conversation.title))
    elif conversation.heading:
        parts.append(f"# {conversation.heading}\n\n")
    parts.append(_part(mark, "about", "", about))
    if conversation.system:
        parts.append(_part(mark, "system", f"## {say('System prompt', '系统提示')}\n\n", conversation.system))
    parts += [_part(mark, node.role, f"## {labels[node.role]}\n\n", node.content) for node in path]
    return "".join(parts) + f"<!-- {mark} end -->\n"


def _about(conversation: Conversation) -> str:
    """When it began and which models answered, in a line."""
    models = dict.fromkeys(" ".join(node.model.split()) for node in conversation.path())
    try:
        began = datetime.fromtimestamp(conversation.created).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, OSError, ValueError):  # a time that this system's calendar does not have
        began = ""
    facts = [fact for fact in (began, *models) if fact]
    return "*" + " · ".join(_SPECIAL.sub(r"\\\g<0>", fact) for fact in facts) + "*" if facts else ""


def _free_mark(texts: Iterable[str]) -> str:
    """The first of bq, bq2, bq3, … that begins no comment in the texts."""
    taken = {mark for text in texts for mark in _MARK.findall(text)}
    number = 1
    while (mark := "bq" if number == 1 else f"bq{number}") in taken:
        number += 1
    return mark


def _part(mark: str, name: str, above: str, text: str) -> str:
    fence = _open_fence(text)
    said, closing = (f" closed {fence}", f"\n{fence}") if fence else ("", "")
    return f"<!-- {mark} {name}{said} -->\n{above}{text}{closing}\n\n"


def _open_fence(text: str) -> str:
    """The fence of a code block that is not closed at the end of the text, "" if there is none."""
    fence = ""
    for line in _LINE_END.split(text):
        fence = _fence_after(fence, line)
    return fence


def _fence_after(fence: str, line: str) -> str:
    """The fence that is open after a line, if `fence` was before it. An indented one belongs to a list and ends with it."""
    if fence:
        closing = _CLOSING.match(line)
        return "" if closing and closing[1].startswith(fence) else fence
    found = _FENCE.match(line)
    return (found[1] or found[2]) if found else ""


# Reading


def from_markdown(text: str) -> Conversation:
    """The conversation of a Markdown file. Raises UsageError that names the line if it is none."""
    first = _FIRST_LINE.match(text)
    if first is None:
        return _from_elsewhere(text.replace("\r\n", "\n"))
    if first[0].endswith("\r\n"):  # an editor has changed all line ends
        text = text.replace("\r\n", "\n")
    mode = _mode(first["mode"])
    if int(first["version"]) != VERSION:
        raise _wrong(1, say("it was written by a newer bq", "由更新版本的 bq 写入"))
    parts = list(_parts(text, first["mark"]))
    _check_number(parts)
    _check_order(parts)
    made = Conversation.of([Message(_ROLES[part.name], part.text) for part in parts if part.name in _SAID], mode)
    made.title = next((part.text for part in parts if part.name == "title"), "")
    return made


def _mode(name: str) -> Mode:
    if name not in get_args(Mode):
        raise _wrong(1, say(f"there is no mode {name}", f"没有模式 {name}"))
    return cast(Mode, name)


def _parts(text: str, mark: str) -> Iterator[_Part]:
    """The parts of a file of ours, with their texts exactly as they were. Raises UsageError for one that is unknown."""
    comments = list(re.finditer(_COMMENT.format(mark=mark), text, re.MULTILINE))
    ends = [one.start() for one in comments[1:]] + [len(text)]
    line, counted = 1, 0
    for comment, end in zip(comments, ends, strict=False):
        line, counted = line + text.count("\n", counted, comment.start()), comment.start()
        if comment["name"] not in _ORDER:
            raise _wrong(line, say(f"there is no part {comment['name']}", f"没有 {comment['name']} 这样的部分"))
        yield _Part(comment["name"], _text_of(comment, text[comment.end() : end]), line)


def _text_of(comment: re.Match[str], body: str) -> str:
    """The text of a part: without the heading above it, the blank line below it and the fence that was closed for it."""
    text = body.removesuffix("\n\n")
    if comment["fence"]:
        text = text.removesuffix("\n" + comment["fence"])
    if comment["name"] == "title":
        return text.removeprefix("# ")
    above = _HEADING_AND_BLANK.match(text) if comment["name"] in _SAID else None
    return text[above.end() :] if above else text


def _check_order(parts: Sequence[_Part]) -> None:
    """Raise UsageError unless the parts stand in the order in which they are written, up to the end."""
    for before, part in pairwise(parts):
        is_twice = part.name == before.name and part.name not in ("user", "assistant")
        if is_twice or _ORDER[part.name] < _ORDER[before.name]:
            raise _wrong(part.line, say(f"{part.name} does not belong here", f"{part.name} 不应出现在此处"))
    last = parts[-1] if parts else _Part("", "", 1)
    if last.name != "end":
        raise _wrong(last.line, say("what follows was cut off, the end is missing", "后面的内容被截断，缺少结尾"))
    if last.text.strip():
        raise _wrong(last.line, say("there is text after the end", "结尾之后还有文本"))


def _check_number(parts: Sequence[_Part]) -> None:
    if len(parts) > MAX_MESSAGES:
        raise _wrong(parts[MAX_MESSAGES].line, say(f"more than {MAX_MESSAGES} messages", f"超过 {MAX_MESSAGES} 条消息"))


def _from_elsewhere(text: str) -> Conversation:
    """The messages below the headings that name a role, all of the level of the first such heading."""
    title, parts = _below_headings(text.split("\n"))
    _check_number(parts)
    said: list[tuple[Role, list[str]]] = []
    for part in parts:
        role = _ROLES[part.name]
        if role == "system" and said:
            raise _wrong(part.line, say("a system prompt stands only at the beginning", "系统提示只能位于开头"))
        if role == "assistant" and (not said or said[-1][0] == "system"):
            raise _wrong(part.line, say("an answer before the first question", "回答出现在第一个问题之前"))
        if role == "assistant" and said[-1][0] == role:  # one answer in two parts
            said[-1][1].append(part.text)
        else:
            said.append((role, [part.text]))
    if not said or said[-1][0] == "system":
        raise _wrong(
            1,
            say("from here on, no heading such as `## You` begins a question", "此后没有 `## 你` 这样的标题来开始问题"),
        )
    made = Conversation.of([Message(role, "\n\n".join(texts)) for role, texts in said])
    made.title = title
    return made


def _below_headings(lines: Sequence[str]) -> tuple[str, list[_Part]]:
    """The title, and what stands below each heading that names a role. What has no text is left out."""
    title, found, level = "", list[tuple[str, int]](), 0
    for number, depth, words in _headings(lines):
        name = _role_name(words)
        if name in _ROLES and level in (0, depth):
            level = depth
            found.append((name, number))
        elif not found and not title:
            title = words.strip()
    ends = [number - 1 for _, number in found[1:]] + [len(lines)]
    parts = [
        _Part(name, "\n".join(lines[number:end]).strip("\n"), number)
        for (name, number), end in zip(found, ends, strict=False)
    ]
    return title, [part for part in parts if part.text.strip()]


def _headings(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Number of line, level and words of the headings outside code blocks."""
    fence = ""
    for number, line in enumerate(lines, 1):
        before, fence = fence, _fence_after(fence, line)
        heading = _HEADING.match(line)
        if heading and not before:
            yield number, len(heading[1]), heading[2]


def _role_name(words: str) -> str:
    """What a heading names, without signs and what is in brackets: `**You:**`, `Assistant (7B)`."""
    return re.sub(r"[\W_]+", " ", re.split(r"[(（·]", words)[0]).strip().casefold()


def _wrong(line: int, what: str) -> UsageError:
    return UsageError(
        say(f"Line {line}: {what}.", f"第 {line} 行：{what}。"),
        say("Nothing was imported.", "未导入任何内容。"),
    )
