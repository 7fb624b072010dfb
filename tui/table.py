"""Plain tables for the terminal, aligned by the width that characters take there: a Chinese one takes two cells."""

import unicodedata
from collections.abc import Sequence


def width(text: str) -> int:
    """Cells that a text takes; a combining character takes none of its own."""
    shown = (character for character in text if not unicodedata.combining(character))
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in shown)


def cut(text: str, cells: int) -> str:
    """As much of the beginning of a text as has room in so many cells."""
    while width(text) > cells:
        text = text[:-1]
    return text


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


def size_text(size: float) -> str:
    """Bytes as a person compares them: "512 B", "64 KiB", "29.9 MiB", "4.32 GiB"."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 1000 * unit else f"{size / unit:,.0f} {name}"
    return f"{size:.0f} B"


def gib(size: float) -> str:
    """Bytes in GiB with two decimals."""
    return f"{size / 2**30:.2f}"
