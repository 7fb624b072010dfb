"""The GBNF of JSON's values: strings, names, numbers within bounds, dates.

White space is bounded, so that no answer spends itself on empty lines. Characters that bq does not print as they are
(bq.runtime.grammar.SHOWN) come as escapes.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from bq.runtime.grammar import SHOWN, Ranges, common, inverse, joined

PLAIN = common(common(SHOWN, inverse([(0, 0x1F)])), inverse([(0x22, 0x22), (0x5C, 0x5C)]))  # as they are in a string
ESCAPED = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}
_HIDDEN = re.compile("[^" + "".join(f"{chr(low)}-{chr(high)}" for low, high in SHOWN) + "]")
_MOST_DIGITS = 18  # of a whole number without bounds
_MOST_EXACT = 15  # decimal digits that a double tells apart (DBL_DIG)

NEVER = "[^\\x00-\\U0010FFFF]"
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
_FOURTH = '("0" [48] | [2468] [048] | [13579] [26])'
_YEAR = '([0-9]{3} [1-9] | [0-9]{2} [1-9] "0" | [0-9] [1-9] "00" | [1-9] "000")'
_MONTH_AND_DAY = (
    '(("0" [13578] | "1" [02]) "-" ("0" [1-9] | [12] [0-9] | "3" [01]) | '
    '("0" [469] | "11") "-" ("0" [1-9] | [12] [0-9] | "30") | "02-" ("0" [1-9] | "1" [0-9] | "2" [0-8]))'
)
_DATE = f'({_YEAR} "-" {_MONTH_AND_DAY} | ([0-9]{{2}} {_FOURTH} | {_FOURTH} "00") "-02-29")'  # leap years: every fourth but 100s
_HEX = "[0-9a-fA-F]"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
}


def klass(ranges: Ranges) -> str:
    """A character class of GBNF."""
    if not ranges:
        return NEVER
    return "[" + "".join(_code(low) if low == high else f"{_code(low)}-{_code(high)}" for low, high in ranges) + "]"


def _code(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


# What every grammar of a schema may use.
RULES = {
    "ws": '(" " | "\\n" " "{0,20})?',
    "sp": '" "?',
    "plain": klass(PLAIN),
    # A pair of surrogates would be one character to whoever counts, so none of them comes as an escape.
    "char": f'plain | "\\\\" (["\\\\/bfnrt] | "u" ([0-9a-cefA-CEF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}}))',
    "integer": f'"-"? ("0" | [1-9] [0-9]{{0,{_MOST_DIGITS - 1}}})',
    "number": 'integer ("." [0-9]{1,15})? ([eE] [+-]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "string": '"\\"" char* "\\""',
}


def literal(text: str) -> str:
    """A text as GBNF."""
    escaped = "".join(f"\\{c}" if c in '"\\' else "\\n" if c == "\n" else "\\t" if c == "\t" else c for c in text)
    return f'"{escaped}"'


def value(data: object) -> str:
    """A JSON value as GBNF, written in one way."""
    text = json.dumps(data, ensure_ascii=False)
    return literal(_HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text))


def in_string(ranges: Ranges) -> str:
    """One character of these inside a JSON string; those that need an escape and have no short one are left out."""
    escapes = "".join(c if c not in '"\\' else f"\\{c}" for code, c in ESCAPED.items() if _has(ranges, code))
    plain = common(ranges, PLAIN)
    options = ([klass(plain)] if plain else []) + ([f'"\\\\" [{escapes}]'] if escapes else [])
    return f"({' | '.join(options)})" if options else NEVER


def _has(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)


def name_rules(rule: str, names: Iterable[str]) -> dict[str, str]:
    """Rules for a JSON string that is none of `names` and has no escapes: `rule` and what it needs."""
    tree: dict[str, dict[str, object]] = {"": {}}  # beginning of a name -> the characters that go on
    plain = [name for name in names if all(_has(PLAIN, ord(character)) for character in name)]
    for name in plain:
        for i, character in enumerate(name):
            tree.setdefault(name[:i], {})[character] = None
            tree.setdefault(name[: i + 1], {})
    number = {beginning: f"{rule}-{i}" for i, beginning in enumerate(tree)}
    rules = {rule: f'"\\"" {number[""]}'}
    for beginning, characters in tree.items():
        options = [f"{literal(character)} {number[beginning + character]}" for character in characters]
        other = common(PLAIN, inverse((ord(character), ord(character)) for character in characters))
        options.append(f'{klass(joined(other))} plain* "\\""')
        if beginning not in plain:
            options.append('"\\""')
        rules[number[beginning]] = " | ".join(options)
    return rules


def whole_number(low: int | None, high: int | None) -> str:
    """A whole number from `low` to `high` (None: no bound but 18 digits)."""
    far = 10 ** max(_MOST_DIGITS, len(str(abs(low or 0))), len(str(abs(high or 0)))) - 1
    low, high = (-far if low is None else low), (far if high is None else high)
    options = []
    if high >= 0:
        options += _naturals(max(low, 0), high)
    if low < 0:
        options += [f'"-" {option}' for option in _naturals(max(1, -high), -low)]
    return _one_of(options)


def _naturals(low: int, high: int) -> list[str]:
    """One option for each number of digits and each digit where the bounds part."""
    options = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first, last = max(low, 10 ** (length - 1) if length > 1 else 0), min(high, 10**length - 1)
        if first <= last:
            options.append(_digits_between(str(first), str(last)))
    return options


def _digits_between(low: str, high: str) -> str:
    """Digits of the length of both, not less than one nor more than the other."""
    length = len(low)
    if set(low) <= {"0"} and set(high) <= {"9"}:
        return f"[0-9]{{{length}}}" if length else '""'
    if low[0] == high[0]:
        return f'"{low[0]}" {_digits_between(low[1:], high[1:])}'
    options = [f'"{low[0]}" {_digits_between(low[1:], "9" * (length - 1))}']
    if int(high[0]) - int(low[0]) > 1:
        options.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}] [0-9]{{{length - 1}}}")
    options.append(f'"{high[0]}" {_digits_between("0" * (length - 1), high[1:])}')
    return _one_of(options)


def _one_of(options: list[str]) -> str:
    return f"({' | '.join(options)})" if options else NEVER


@dataclass(frozen=True)
class Bound:
    """A limit of a number; `strict` leaves the limit itself out."""

    at: Decimal
    strict: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether doubles tell it from its neighbours with a digit more or less."""
        return abs(self.at.adjusted()) < _MOST_EXACT and len(self._digits) <= _MOST_EXACT

    @property
    def _digits(self) -> str:
        return f"{abs(self.at):f}".replace(".", "").strip("0")

    @property
    def whole(self) -> int:
        return int(self.at)

    @property
    def fraction(self) -> str:
        return f"{self.at:f}".partition(".")[2].rstrip("0")


def decimal(low: Bound | None, high: Bound | None) -> str:
    """A number without exponent between the bounds."""
    options = []
    if high is None or high.at > 0 or (high.at == 0 and not high.strict):
        options.append(_positive(low if low and low.at >= 0 else Bound(Decimal(0)), high))
    if low is None or low.at < 0:
        least = Bound(-high.at, high.strict) if high and high.at <= 0 else Bound(Decimal(0))
        options.append(f'"-" {_positive(least, Bound(-low.at, low.strict) if low else None)}')
    return _one_of(options)


def _positive(low: Bound, high: Bound | None) -> str:
    bounds = [low, high] if high else [low]
    # No more digits than a double keeps apart, or a number just below a strict bound would be read as the bound.
    room = max(
        1, _MOST_EXACT - max(len(str(bound.whole)) for bound in bounds), *(len(bound.fraction) for bound in bounds)
    )
    any_fraction = f'("." [0-9]{{1,{room}}})?'
    if high is None:
        above = f"{whole_number(low.whole + 1, 10 ** max(_MOST_EXACT, len(str(low.whole)) + 1) - 1)} {any_fraction}"
        return f'("{low.whole}" {_fraction(low, None, room)} | {above})'
    if low.whole == high.whole:
        return f'"{low.whole}" {_fraction(low, high, room)}'
    options = [f'"{low.whole}" {_fraction(low, None, room)}', f'"{high.whole}" {_fraction(None, high, room)}']
    if high.whole - low.whole > 1:
        options.append(f"{whole_number(low.whole + 1, high.whole - 1)} {any_fraction}")
    return _one_of(options)


def _fraction(low: Bound | None, high: Bound | None, room: int) -> str:
    """What may stand after the whole part: nothing, or a point and up to `room` digits between the fractions of the bounds."""
    least = (low.fraction, low.strict) if low else _ZERO
    greatest = (high.fraction, high.strict) if high else None
    digits = _tails(least, greatest, room)
    point = f'"." {_one_of(digits)}' if digits else ""
    if _fits_nothing(least, greatest):
        return f"({point})?" if point else '""'
    return point or NEVER


_Edge = tuple[str, bool]  # digits after the point, strict
_ZERO: _Edge = ("", False)


def _fits_nothing(low: _Edge, high: _Edge | None) -> bool:
    """Whether no further digit, which is zero, is between the bounds."""
    return low == _ZERO and high != ("", True)


def _tails(low: _Edge, high: _Edge | None, room: int) -> list[str]:
    """Options of 1 to `room` digits between the bounds."""
    if room < 1:
        return []
    if high is None and low == _ZERO:
        return [f"[0-9]{{1,{room}}}"]
    if high is not None and not high[0]:
        return [f'"0"{{1,{room}}}'] if low == _ZERO and not high[1] else []
    first = int(low[0][:1] or 0)
    last = int(high[0][0]) if high else 9
    options = []
    for digit in range(first, last + 1):
        below = (low[0][1:], low[1]) if digit == first else _ZERO
        above = (high[0][1:], high[1]) if high and digit == last else None
        options.append(_digit(digit, below, above, room))
    return [option for option in options if option]


def _digit(digit: int, low: _Edge, high: _Edge | None, room: int) -> str:
    """A digit and what may follow it."""
    further = _one_of(tails) if (tails := _tails(low, high, room - 1)) else ""
    if _fits_nothing(low, high):
        return f'"{digit}" {further}?' if further else f'"{digit}"'
    return f'"{digit}" {further}' if further else ""
