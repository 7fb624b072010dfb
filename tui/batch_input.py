"""The input of a batch: one JSON value per line, every line checked before a model is loaded.

A line is an instruction (a string, or {"instruction", "input"?, "system"?}), a conversation ({"messages": [...]}) or a
text to go on with ({"text"}); each may carry an "id". The file is read once and kept as bytes: what is done to it
afterwards changes nothing.
"""

import hashlib
import json
import math
import sys
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message

MAX_LINE_BYTES = 16 << 20
MAX_INPUT_BYTES = 1 << 30
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_ROLES = ("system", "user", "assistant")
_KINDS = ("instruction", "messages", "text")
_KEYS = {*_KINDS, "input", "system", "id"}


class BadLine(ValueError):
    """What is wrong with one line."""


@dataclass(frozen=True)
class Task:
    """One line: a conversation to answer, or a `text` to go on with. `head` holds its id, if it has one."""

    line: int
    messages: tuple[Message, ...] = ()
    text: str | None = None
    head: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """What the command line says for all lines: an instruction whose input each line is ("" if none), a system text."""

    instruction: str = ""
    system: str = ""


class Batch:
    """The checked lines of an input; `digest` tells it from every other."""

    def __init__(self, lines: list[tuple[int, bytes]], digest: str, template: Template) -> None:
        self._lines, self._template = lines, template
        self.digest = digest
        self.numbers = [number for number, _ in lines]
        self.unread: set[str] = set()
        self.has_chat = False

    def check(self, name: str) -> None:
        """Read every line once. Raises UsageError for the first that is wrong."""
        for number, data in self._lines:
            try:
                task = parse_line(data, number, self._template)
            except BadLine as error:
                raise UsageError(
                    say(f"{name}, line {number}: {error}.", f"{name} 第 {number} 行：{error}。"),
                    say("Mend the line; nothing was run.", "请改正该行；尚未运行任何内容。"),
                ) from None
            self.unread.update(task.unread)
            self.has_chat = self.has_chat or task.text is None

    def tasks(self, done: Container[int]) -> Iterator[Task]:
        """The lines that are not done yet, in order."""
        for number, data in self._lines:
            if number not in done:
                yield parse_line(data, number, self._template)


def read_batch(source: str, template: Template) -> Batch:
    """The lines of a file, or of stdin for "-", all checked. Raises UsageError for a file or a line that is wrong."""
    name = say("stdin", "标准输入") if source == "-" else source
    if source == "-":
        lines, digest = _read_lines(sys.stdin.buffer, name)
    else:
        with _open(Path(source).expanduser()) as file:
            lines, digest = _read_lines(file, name)
    if not lines:
        raise UsageError(
            say(f"There are no lines in {name}.", f"{name} 中没有内容。"),
            say('Write one JSON value per line: {"instruction": "…"}', '每行写一个 JSON 值：{"instruction": "…"}'),
        )
    batch = Batch(lines, digest, template)
    batch.check(name)
    return batch


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(
            say(f"{path} cannot be read: {error.strerror}.", f"无法读取 {path}：{error.strerror}。"),
            say("Give a JSONL file, or - for stdin.", "请给出 JSONL 文件，或用 - 表示标准输入。"),
        ) from None


def _read_lines(file: BinaryIO, name: str) -> tuple[list[tuple[int, bytes]], str]:
    """The lines that are not blank, with their numbers from 1, and the hash of all bytes."""
    lines: list[tuple[int, bytes]] = []
    digest = hashlib.sha256()
    size = number = 0
    while data := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        size += len(data)
        digest.update(data)
        if number == 1:
            _refuse_utf16(data, name)
            data = data.removeprefix(_BOM)
        data = data.rstrip(b"\r\n")
        if len(data) > MAX_LINE_BYTES:
            raise UsageError(
                say(f"{name}, line {number}: longer than 16 MiB.", f"{name} 第 {number} 行：超过 16 MiB。"),
                say("Split it; no context is that long.", "请拆分；没有这么长的上下文。"),
            )
        if size > MAX_INPUT_BYTES:
            raise UsageError(
                say(f"{name} is larger than 1 GiB.", f"{name} 超过 1 GiB。"),
                say("Split it into several files.", "请拆分为多个文件。"),
            )
        if data.strip():
            lines.append((number, data))
    return lines, digest.hexdigest()


def _refuse_utf16(data: bytes, name: str) -> None:
    if data.startswith(_UTF16_BOMS):
        raise UsageError(
            say(f"{name} is UTF-16.", f"{name} 是 UTF-16 编码。"), say("Save it as UTF-8.", "请另存为 UTF-8。")
        )


def parse_line(data: bytes, number: int, template: Template) -> Task:
    """The task of one line. Raises BadLine."""
    value = _load(data)
    if isinstance(value, str):
        value = {"input" if template.instruction else "instruction": value}
    if not isinstance(value, dict):
        raise BadLine(say("a JSON object or string is expected", "应为 JSON 对象或字符串"))
    head = {"id": value["id"]} if "id" in value else {}
    unread = tuple(key for key in value if key not in _KEYS)
    kind = _kind(value, template)
    if kind == "text":
        return Task(number, text=_text(value, "text"), head=head, unread=unread)
    messages = _messages(value["messages"]) if kind == "messages" else (Message("user", _content(value, template)),)
    return Task(number, _with_system(messages, value, template), head=head, unread=unread)


def _load(data: bytes) -> Any:
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no character
    except UnicodeDecodeError as error:
        raise BadLine(say(f"byte {error.start + 1} is no UTF-8", f"第 {error.start + 1} 字节不是 UTF-8")) from None
    except UnicodeEncodeError:
        raise BadLine(
            say("half of a surrogate pair (\\ud800 to \\udfff)", "单独的代理码位（\\ud800 至 \\udfff）")
        ) from None
    except json.JSONDecodeError as error:
        raise BadLine(
            say(f"no valid JSON at column {error.colno} ({error.msg})", f"第 {error.colno} 列 JSON 无效（{error.msg}）")
        ) from None
    except RecursionError:
        raise BadLine(say("nested too deeply", "嵌套过深")) from None
    except BadLine:
        raise
    except ValueError:  # an integer of thousands of digits
        raise BadLine(say("a number is too long", "数字过长")) from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadLine(say(f"the key {_short(name)} stands twice", f"键 {_short(name)} 重复"))
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise BadLine(say(f"{text} is no JSON number", f"{text} 不是 JSON 数字"))


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(_short(text))


def _kind(value: dict[str, Any], template: Template) -> str:
    """Which of the three forms an object has. Raises BadLine if it has none, or parts of several."""
    kinds = [kind for kind in _KINDS if kind in value]
    if template.instruction:
        if kinds:
            raise BadLine(
                say(
                    f'"{kinds[0]}" beside the INSTRUCTION of the command line; a line then holds its "input"',
                    f'命令行已有 INSTRUCTION，不能再有 "{kinds[0]}"；此时每行只含 "input"',
                )
            )
        return "instruction"
    if len(kinds) != 1:
        raise BadLine(
            say('one of "instruction", "messages", "text" is expected', '应有 "instruction"、"messages"、"text" 之一')
        )
    beside = [key for key in ("input", "system") if key in value and (kinds[0] == "text" or key == "input")]
    if kinds[0] != "instruction" and beside:
        raise BadLine(say(f'"{beside[0]}" does not go with "{kinds[0]}"', f'"{beside[0]}" 不能与 "{kinds[0]}" 合用'))
    if kinds[0] == "text" and template.system:
        raise BadLine(say('a "text" has no system prompt (--system)', '"text" 没有系统提示（--system）'))
    return kinds[0]


def _content(value: dict[str, Any], template: Template) -> str:
    instruction = template.instruction or _text(value, "instruction")
    below = _text(value, "input", needed=bool(template.instruction))
    return f"{instruction}\n\n{below}" if below else instruction


def _text(value: dict[str, Any], key: str, needed: bool = True) -> str:
    text = value.get(key, "" if not needed else None)
    if not isinstance(text, str):
        raise BadLine(say(f'"{key}" must be a text', f'"{key}" 必须是文本'))
    if needed and not text.strip():
        raise BadLine(say(f'"{key}" is empty', f'"{key}" 为空'))
    return text


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadLine(say('"messages" must be a list that is not empty', '"messages" 必须是非空列表'))
    messages = tuple(_message(one, place) for place, one in enumerate(value, 1))
    if any(message.role == "system" for message in messages[1:]):
        raise BadLine(say("a system message stands only at the beginning", "系统消息只能位于开头"))
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise BadLine(say('"messages" has no user message', '"messages" 中没有用户消息'))
    return messages


def _message(value: Any, place: int) -> Message:
    if not isinstance(value, dict) or value.get("role") not in _ROLES or not isinstance(value.get("content"), str):
        raise BadLine(
            say(
                f'message {place} needs a "role" ({", ".join(_ROLES)}) and a "content"',
                f'第 {place} 条消息需要 "role"（{"、".join(_ROLES)}）与 "content"',
            )
        )
    return Message(value["role"], value["content"])


def _with_system(messages: tuple[Message, ...], value: dict[str, Any], template: Template) -> tuple[Message, ...]:
    """The line's own system text, else the one of the command line, in front; a conversation may bring its own."""
    if messages[0].role == "system":
        if "system" in value:
            raise BadLine(say("two system texts", "有两个系统文本"))
        return messages
    system = _text(value, "system", needed=False) if "system" in value else template.system
    return (Message("system", system), *messages) if system else messages


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
