"""How what a file holds is put into words: nothing of it can control the terminal, and nothing long fills the screen."""

import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from bq.runtime.language import say
from bq.tui.table import width

_WIDEST = 110  # cells of a line that is read, not scanned
_LONGEST_TEXT, _FIRST_ITEMS = 60, 6


def printable(text: str) -> str:
    """The text with everything that is no visible character written as an escape, such as \\x1b or \\n."""
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8 (surrogateescape)
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shown(text: str, most: int = _LONGEST_TEXT) -> str:
    """The text made harmless and cut, saying how long it is."""
    if len(text) <= most:
        return printable(text)
    return printable(text[:most]) + say(f"… ({len(text):,} characters)", f"……（{len(text):,} 字符）")


def piece_text(piece: str, most: int = 24) -> str:
    """A piece of the vocabulary; its spaces can be seen."""
    return shown(piece.replace(" ", "\u2420"), most)


def value_text(value: Any, most: int = _LONGEST_TEXT) -> str:
    """A value of the metadata in a line."""
    if isinstance(value, list):
        first = ", ".join(_item(one) for one in value[:_FIRST_ITEMS])
        rest = ", …" if len(value) > _FIRST_ITEMS else ""
        return say(f"{len(value):,}: {first}{rest}", f"{len(value):,} 项：{first}{rest}")
    return shown(value, most) if isinstance(value, str) else _item(value)


def _item(value: Any) -> str:
    if isinstance(value, str):
        return shown(value, 24)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.7g}" if isinstance(value, float) else shown(str(value))


def flag_text(value: bool | None) -> str:
    """A flag, or that it is not set."""
    return say("not set", "未设置") if value is None else "true" if value else "false"


def comma() -> str:
    """What stands between the items of a list."""
    return say(", ", "，")


def rows_text(rows: Iterable[Sequence[str]]) -> str:
    """Lines of a label and what it labels, wrapped beside the label; rows that say nothing are left out."""
    kept = [(label, text) for label, text in rows if text]
    indent = max((width(label) for label, _ in kept), default=0) + 2
    room = max(30, min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns) - indent)
    lines = []
    for label, text in kept:
        first, *rest = wrapped(text, room)
        lines.append(label + " " * (indent - width(label)) + first)
        lines += [" " * indent + line for line in rest]
    return "\n".join(lines)


def wrapped(text: str, room: int) -> list[str]:
    """The text in lines of at most so many cells, broken at spaces, and where there are none between any characters."""
    lines, start, space, cells, at = [], 0, -1, 0, 0
    while at < len(text):
        cells += width(text[at])
        if cells > room and at > start:
            end = space if space > start else at
            lines.append(text[start:end].rstrip())
            start = at = end + (text[end] == " ")
            space, cells = -1, 0
            continue
        if text[at] == " " or width(text[at]) == 2:
            space = at + (text[at] != " ")
        at += 1
    return [*lines, text[start:]]
