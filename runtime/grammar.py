"""GBNF, llama.cpp's notation for grammars: text in, checked rules out.

llama.cpp's own parser prints to stderr, reads `{5,3}` as 2^64 repetitions, drops an upper bound above 2,000 without a word,
and overlooks left recursion through rules that may be empty, on which it then runs out of memory. Here every such text is
refused in one line that names the place; what is taken means what llama.cpp makes of it. Two differences: a token by its
number (`<[12]>`) is refused, and characters that bq never prints (control characters, marks that reorder text) match nothing.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from bq.runtime.errors import UsageError
from bq.runtime.language import say

ROOT = "root"
MOST_CHARACTERS = 1 << 20
_MOST_NESTED = 50
_MOST_SIGNS = 4  # * + ? { on one item
_MOST_REPEATED = 1_000_000
LAST = 0x10FFFF
# What bq.runtime.text_stream prints as it is; the rest it replaces, and then a text would not be what the grammar says.
SHOWN = ((0x09, 0x0A), (0x20, 0x7E), (0xA0, 0x2029), (0x202F, 0x2065), (0x206A, 0xD7FF), (0xE000, LAST))
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9-]+")
_COUNT = re.compile(r"[0-9]+")
_ESCAPE = re.compile(r'\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([trn"\\\[\]-]))')
_LINE_END = re.compile(r"\r\n?|\n|\Z")
_NAMED_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Chars:
    """One character out of these ranges of code points: sorted, apart from each other, both ends included."""

    ranges: Ranges


@dataclass(frozen=True)
class Ref:
    """What the rule of this name matches."""

    rule: str
    line: int


@dataclass(frozen=True)
class Repeat:
    """`item` at least `least` times, at most `most` times (None: without end)."""

    item: "Node"
    least: int
    most: int | None


@dataclass(frozen=True)
class Sequence:
    """One after the other."""

    items: tuple["Node", ...]


@dataclass(frozen=True)
class Choice:
    """One of several."""

    options: tuple["Node", ...]


Node = Chars | Ref | Repeat | Sequence | Choice


@dataclass(frozen=True)
class Rule:
    """What stands right of `::=`, and the line it begins in."""

    body: Node
    line: int


@dataclass(frozen=True)
class Grammar:
    """The rules by name; there is a `root`, and every name that is used is there."""

    rules: dict[str, Rule]


def parse_grammar(text: str) -> Grammar:
    """Raises UsageError with the line of what is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            say("The grammar is longer than a million characters.", "语法超过一百万个字符。"),
            say("Use a smaller one.", "请使用更小的语法。"),
        )
    parser = _Parser(text)
    rules = parser.rules()
    for rule in rules.values():
        for ref in _refs(rule.body):
            if ref.rule not in rules:
                refuse(ref.line, f"there is no rule {ref.rule!r}", f"没有规则 {ref.rule!r}")
    if ROOT not in rules:
        refuse(None, "there is no rule 'root'", "没有规则 'root'")
    return Grammar(rules)


def refuse(line: int | None, en: str, zh: str) -> NoReturn:
    """Raise the error of a wrong grammar."""
    raise UsageError(
        say(
            f"The grammar is wrong{f' in line {line}' if line else ''}: {en}.",
            f"语法有误{f'（第 {line} 行）' if line else ''}：{zh}。",
        ),
        say(
            'A grammar is llama.cpp\'s GBNF and begins with root, e.g. root ::= "yes" | "no".',
            '语法采用 llama.cpp 的 GBNF，从 root 开始，如 root ::= "是" | "否"。',
        ),
    )


def common(one: Iterable[tuple[int, int]], other: Ranges) -> Ranges:
    """The ranges of what is in both; each side sorted."""
    return tuple(
        (max(low, bottom), min(high, top))
        for low, high in one
        for bottom, top in other
        if max(low, bottom) <= min(high, top)
    )


def joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same characters as few sorted ranges."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def inverse(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All other characters."""
    rest, free = [], 0
    for low, high in joined(ranges):
        if free < low:
            rest.append((free, low - 1))
        free = high + 1
    return tuple([*rest, (free, LAST)] if free <= LAST else rest)


def _refs(node: Node) -> Iterator[Ref]:
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, Ref):
            yield node
        elif isinstance(node, Repeat):
            todo.append(node.item)
        elif isinstance(node, Sequence):
            todo.extend(node.items)
        elif isinstance(node, Choice):
            todo.extend(node.options)


class _Parser:
    """Reads from left to right; `at` is the place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self._line, self._line_at = 1, 0

    def rules(self) -> dict[str, Rule]:
        found: dict[str, Rule] = {}
        self.skip(_SPACE_AND_LINES)
        while self.at < len(self.text):
            line = self.line
            name = self.take(_NAME) or self.wrong("the name of a rule is expected", "此处应为规则名")
            if name in found:
                refuse(line, f"rule {name!r} was there in line {found[name].line} already", f"规则 {name!r} 重复定义")
            self.skip(_SPACE)
            if not self.text.startswith("::=", self.at):
                self.wrong("'::=' is expected", "此处应为 '::='")
            self.at += 3
            self.skip(_SPACE_AND_LINES)
            found[name] = Rule(self.choice(_SPACE), line)
            if (end := _LINE_END.match(self.text, self.at)) is None:
                self.wrong(f"{self.text[self.at]!r} makes no sense", f"{self.text[self.at]!r} 没有意义")
            self.at = end.end()
            self.skip(_SPACE_AND_LINES)
        return found

    @property
    def line(self) -> int:
        """The line of `at`, which only grows."""
        self._line += self.text.count("\n", self._line_at, self.at)
        self._line_at = self.at
        return self._line

    def wrong(self, en: str, zh: str) -> NoReturn:
        refuse(self.line, en, zh)

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match[0]

    skip = take

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def choice(self, space: re.Pattern[str]) -> Node:
        options = [self.sequence(space)]
        while self.peek() == "|":
            self.at += 1
            self.skip(_SPACE_AND_LINES)
            options.append(self.sequence(space))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def sequence(self, space: re.Pattern[str]) -> Node:
        items: list[Node] = []
        while (item := self.item(space)) is not None:
            self.skip(space)
            for _ in range(_MOST_SIGNS):
                if self.peek() not in ("*", "+", "?", "{"):
                    break
                item = Repeat(item, *self.times())
                self.skip(space)
            items.append(item)
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def item(self, space: re.Pattern[str]) -> Node | None:
        sign = self.peek()
        if sign == '"':
            return self.literal()
        if sign == "[":
            return self.chars()
        if sign == ".":
            self.at += 1
            return Chars(SHOWN)
        if sign == "(":
            return self.group()
        if sign and sign in "*+?{":
            self.wrong(f"nothing stands before {sign!r}", f"{sign!r} 之前没有内容")
        if sign and sign in "<!":
            self.wrong(f"{sign!r}: bq takes no tokens by number or name", f"{sign!r}：不支持按编号或名称指定词元")
        line = self.line
        name = self.take(_NAME)
        return Ref(name, line) if name else None

    def literal(self) -> Node:
        self.at += 1
        items: list[Node] = []
        while self.peek() != '"':
            code = self.character()
            items.append(Chars(common([(code, code)], SHOWN)))
        self.at += 1
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def chars(self) -> Chars:
        self.at += 1
        inverted = self.peek() == "^"
        self.at += inverted
        ranges: list[tuple[int, int]] = []
        while self.peek() != "]":
            low = high = self.character()
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                high = self.character()
            if high < low:
                self.wrong("a range of characters runs backwards", "字符范围的起止颠倒")
            ranges.append((low, high))
        self.at += 1
        if not ranges:
            self.wrong("[] names no character", "[] 中没有字符")
        return Chars(joined(common(inverse(ranges) if inverted else joined(ranges), SHOWN)))

    def character(self) -> int:
        if self.at >= len(self.text):
            self.wrong("it ends in the middle of a text or a class", "文本或字符类没有结束")
        if self.peek() != "\\":
            self.at += 1
            return ord(self.text[self.at - 1])
        match = _ESCAPE.match(self.text, self.at)
        if match is None:
            self.wrong(f"there is no escape {self.text[self.at : self.at + 2]!r}", "转义序列无效")
        self.at = match.end()
        if match[4]:
            return ord(_NAMED_ESCAPES.get(match[4], match[4]))
        code = int(match[1] or match[2] or match[3], 16)
        if code > LAST:
            self.wrong(f"there is no character {code:#x}", f"没有字符 {code:#x}")
        return code

    def group(self) -> Node:
        self.depth += 1
        if self.depth > _MOST_NESTED:
            self.wrong("it is nested too deeply", "嵌套过深")
        self.at += 1
        self.skip(_SPACE_AND_LINES)
        inside = self.choice(_SPACE_AND_LINES)
        if self.peek() != ")":
            self.wrong("')' is expected", "此处应为 ')'")
        self.at += 1
        self.depth -= 1
        return inside

    def times(self) -> tuple[int, int | None]:
        sign = self.peek()
        self.at += 1
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        self.skip(_SPACE)
        least = self.count()
        most: int | None = least
        self.skip(_SPACE)
        if self.peek() == ",":
            self.at += 1
            self.skip(_SPACE)
            most = self.count() if self.peek().isdigit() else None
            self.skip(_SPACE)
        if self.peek() != "}":
            self.wrong("'}' is expected", "此处应为 '}'")
        self.at += 1
        if most is not None and most < least:
            self.wrong(f"{{{least},{most}}}: the most is less than the least", f"{{{least},{most}}}：上限小于下限")
        return least, most

    def count(self) -> int:
        digits = self.take(_COUNT) or self.wrong("a number of times is expected", "此处应为次数")
        if len(digits) > 9 or int(digits) > _MOST_REPEATED:
            self.wrong(f"{digits[:12]} times are too many", f"重复次数 {digits[:12]} 过大")
        return int(digits)
