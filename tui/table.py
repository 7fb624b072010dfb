"""Plain tables for the terminal, aligned by the width that characters take there: a Chinese one takes two cells."""

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Cells that a text takes; a combining character takes none of its own."""
    shown = (character for character in text if not unicodedata.combining(character))
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in shown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Lines of columns, two spaces apart; those whose numbers are in `right` are set flush right."""
    widths = [max(width(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(_line(row, widths, right) for row in (head, *rows))


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    cells = []
    for i, (text, wide) in enumerate(zip(row, widths, strict=True)):
        gap = " " * (wide - width(text))
        cells.append(gap + text if i in right else text + gap)
    return "  ".join(cells).rstrip()


def gib(size: float) -> str:
    """Bytes in GiB with two decimals."""
    return f"{size / 2**30:.2f}"
