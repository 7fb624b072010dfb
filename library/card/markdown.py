"""Texts from files as Markdown and YAML that say just those texts, whatever is in them."""

import re
from collections.abc import Sequence

# What Markdown or HTML could read as more than text; an underscore within a word, as names have it, is none.
_MARKS = re.compile(r"([\\`*\[\]<>|~&$@:]|(?<![^\W_])_|_(?![^\W_])|(?<=www)\.)", re.IGNORECASE)
_LONGEST = 200
_SURROGATES = re.compile("[\ud800-\udfff]")


def plain(text: str) -> str:
    """The text as nothing but text."""
    return _MARKS.sub(r"\\\1", _line(text))


def code(text: str) -> str:
    """The text in a code span. A bar would end a cell of a table even there."""
    text = _line(text).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    gap = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{gap}{text}{gap}{fence}"


def block(text: str, language: str = "") -> str:
    """Lines in a code block that they cannot end."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def link(text: str, address: str) -> str:
    """A link to an address that bq.library.licence.is_web_address takes."""
    return f"[{plain(text)}](<{address}>)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns in `right` are set flush right."""
    rule = ["---:" if i in right else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def scalar(text: str) -> str:
    """The text as a double-quoted YAML scalar (YAML 1.1, 5.7: escapes of what cannot be printed)."""
    text = _SURROGATES.sub("\ufffd", text)
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def _line(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text[:_LONGEST].split())))
