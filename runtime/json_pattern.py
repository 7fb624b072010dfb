"""The `pattern` of a JSON schema: a regular expression becomes the GBNF of a JSON string's inside.

What regular expressions have in common is taken: characters, classes, groups, alternatives, repetitions, ^ and $ at the
ends. What looks around, refers back or depends on Unicode's tables is refused by name. Where JavaScript and Python
disagree on what a class holds (\\d, \\w, \\s), only what both take comes out.
"""

from typing import NoReturn

from bq.runtime.errors import UsageError
from bq.runtime.grammar import Ranges, inverse, joined
from bq.runtime.json_grammar import in_string
from bq.runtime.language import say

_MOST_NESTED = 30
_MOST_REPEATED = 10_000
_BEYOND_ASCII = (0x80, 0x10FFFF)
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES = ((0x09, 0x0D), (0x20, 0x20))
_ALL_SPACES = (
    *_SPACES, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
# A class and all that any dialect counts to it: the latter is what its opposite leaves out.
_CLASSES: dict[str, tuple[Ranges, Ranges]] = {
    "d": (_DIGITS, (*_DIGITS, _BEYOND_ASCII)),
    "w": (_WORD, (*_WORD, _BEYOND_ASCII)),
    "s": (_SPACES, _ALL_SPACES),
}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_NOT_LINES = inverse([(0x0A, 0x0A), (0x0D, 0x0D), (0x85, 0x85), (0x2028, 0x2029)])


def pattern_to_gbnf(pattern: str, place: str) -> str:
    """The inside of a JSON string in which `pattern` is found. Raises UsageError for what it does not know."""
    return _Pattern(pattern, place).whole()


class _Pattern:
    def __init__(self, text: str, place: str) -> None:
        self.text, self.place = text, place
        self.at = 0
        self.depth = 0

    def wrong(self, en: str, zh: str) -> NoReturn:
        raise UsageError(
            say(
                f"The JSON schema's pattern at {self.place} cannot be used: {en} (character {self.at + 1}).",
                f"JSON 模式中 {self.place} 处的 pattern 无法使用：{zh}（第 {self.at + 1} 个字符）。",
            ),
            say(
                "Write it with characters, classes, groups, | and repetitions, ^ and $ at the ends.",
                "请只用字符、字符类、分组、| 与重复，以及首尾的 ^ 和 $。",
            ),
        )

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def whole(self) -> str:
        """Alternatives, each with its own ^ and $; where one is missing anything may stand."""
        options = []
        while True:
            begins = "" if self.take("^") else "char* "
            body = self.sequence()
            options.append(begins + body + ("" if self.take("$") else " char*"))
            if not self.take("|"):
                break
        if self.at < len(self.text):
            self.wrong(f"{self.peek()!r} makes no sense", f"{self.peek()!r} 没有意义")
        return f"({' | '.join(options)})"

    def take(self, sign: str) -> bool:
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) * found
        return found

    def sequence(self) -> str:
        items = []
        while (sign := self.peek()) and sign not in "|)$":
            items.append(self.repeated(self.item()))
        return " ".join(items) or '""'

    def item(self) -> str:
        sign = self.peek()
        if sign == "^":
            self.wrong("'^' stands inside", "'^' 不在开头")
        if sign in "*+?{":
            self.wrong(f"nothing stands before {sign!r}", f"{sign!r} 之前没有内容")
        if sign == "(":
            return self.group()
        if sign == "[":
            return in_string(self.klass())
        self.at += 1
        if sign == ".":
            return in_string(_NOT_LINES)
        if sign == "\\":
            return in_string(joined(self.escape(inverted=False)))
        return in_string(((ord(sign), ord(sign)),))

    def group(self) -> str:
        self.at += 1
        self.depth += 1
        if self.take("?") and not self.take(":"):
            self.wrong("a group with '?' other than '(?:' is not supported", "不支持 '(?:' 以外的 '(?' 组")
        if self.depth > _MOST_NESTED:
            self.wrong("it is nested too deeply", "嵌套过深")
        options = [self.sequence()]
        while self.take("|"):
            options.append(self.sequence())
        if not self.take(")"):
            self.wrong("')' is expected, and '$' only at the end", "此处应为 ')'，且 '$' 只能在结尾")
        self.depth -= 1
        return f"({' | '.join(options)})"

    def repeated(self, item: str) -> str:
        sign = self.peek()
        if not sign or sign not in "*+?{":
            return item
        self.at += 1
        times = self.times() if sign == "{" else sign
        if (again := self.peek()) and again in "*+{":
            self.wrong(f"{again!r} follows a repetition", f"{again!r} 紧跟在重复之后")
        self.take("?")  # as few as possible: what matches stays the same
        return item + times

    def times(self) -> str:
        inside, closed, _ = self.text[self.at :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not _is_count(least) or (most and not _is_count(most)) or (most and int(most) < int(least)):
            self.wrong("a number of times like {2,5} is expected", "此处应为 {2,5} 形式的次数")
        self.at += len(inside) + 1
        return f"{{{int(least)}{comma}{int(most) if most else ''}}}"

    def klass(self) -> Ranges:
        self.at += 1
        inverted = self.take("^")
        ranges: list[tuple[int, int]] = []
        while not self.take("]"):
            low = self.member(inverted)
            if (
                len(low) == 1
                and low[0][0] == low[0][1]
                and self.peek() == "-"
                and self.text[self.at + 1 : self.at + 2] != "]"
            ):
                self.at += 1
                high = self.member(inverted)
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    self.wrong("a range of characters has no sense", "字符范围无效")
                low = ((low[0][0], high[0][0]),)
            ranges.extend(low)
        if not ranges:
            self.wrong("[] names no character", "[] 中没有字符")
        return inverse(ranges) if inverted else joined(ranges)

    def member(self, inverted: bool) -> Ranges:
        sign = self.peek()
        if not sign:
            self.wrong("']' is missing", "缺少 ']'")
        if sign == "[":
            self.wrong("'[' inside a class needs a '\\' before it", "字符类中的 '[' 需要写成 '\\['")
        self.at += 1
        return self.escape(inverted) if sign == "\\" else ((ord(sign), ord(sign)),)

    def escape(self, inverted: bool) -> Ranges:
        """What stands for the letter after a backslash; in an inverted class all that any dialect counts to it."""
        sign = self.peek()
        self.at += 1
        if sign.lower() in _CLASSES and sign:
            narrow, wide = _CLASSES[sign.lower()]
            if sign.islower():
                return wide if inverted else narrow
            return inverse(narrow) if inverted else inverse(wide)
        if sign in _CONTROLS:
            return ((_CONTROLS[sign], _CONTROLS[sign]),)
        if sign and sign in "xu":
            digits = self.text[self.at : self.at + (2 if sign == "x" else 4)]
            if len(digits) == (2 if sign == "x" else 4) and all(c in "0123456789abcdefABCDEF" for c in digits):
                self.at += len(digits)
                return ((int(digits, 16), int(digits, 16)),)
        if not sign or sign.isalnum() or not sign.isascii():
            self.at -= 1
            self.wrong(f"'\\{sign}' is not supported", f"不支持 '\\{sign}'")
        return ((ord(sign), ord(sign)),)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _MOST_REPEATED
