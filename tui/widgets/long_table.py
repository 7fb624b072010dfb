"""A Markdown table as text of many lines: Textual would mount a widget for each cell.

A row is a line of the text, its cells apart by tabs, so that what is copied goes into a spreadsheet.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style as RichStyle
from textual.app import ComposeResult
from textual.content import Content
from textual.css.styles import RulesMap
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions
from textual.widgets._markdown import MarkdownTable

from bq.tui.widgets.long_text import LongText, TextLine, content_height, draw_content, first_place

_PADDING = 1  # cells on either side of a cell's text
_PLACES = 1 << 20  # of each cell in its row: those after its text are for the room beside it, wherever one points there
_LEAST = 2 + 2 * _PADDING  # room for any character
_UNBREAKABLE = re.compile(r"[^\s\u2e80-\uffef]+")  # a word; between Han characters a line may break anywhere


class Columns:
    """The widths of a table's columns, in a screen of any width."""

    def __init__(self, rows: Sequence[Sequence[Content]]) -> None:
        columns = [[row[number] for row in rows if number < len(row)] for number in range(len(rows[0]))]
        self._wanted = [2 * _PADDING + max(cell.cell_length for cell in column) for column in columns]
        self._least = [2 * _PADDING + max(map(_longest_word, column)) for column in columns]
        self._found: tuple[int, list[int]] = (0, [])

    def widths(self, width: int) -> list[int]:
        """Those of the columns, without the lines between them, in a table of that width."""
        if self._found[0] != width:
            room = width - len(self._wanted) - 1
            self._found = width, share(room, self._wanted, self._least)
        return self._found[1]


def share(room: int, wanted: Sequence[int], least: Sequence[int]) -> list[int]:
    """Divide the room among columns: what is left over by what they want, what is missing by what they can spare."""
    change = room - sum(wanted)
    spare = [most - few for most, few in zip(wanted, least, strict=True)]
    if change >= 0 or not any(spare):
        weights, base = wanted, wanted
    elif -change <= sum(spare):
        weights, base = spare, wanted
    else:
        weights, base, change = least, least, room - sum(least)
    parts = [one + Fraction(weight * change, sum(weights)) for one, weight in zip(base, weights, strict=True)]
    ends = [0, *(end.__floor__() for end in accumulate(parts))]
    widths = [end - begin for begin, end in pairwise(ends)]
    return [max(width, min(most, _LEAST)) for width, most in zip(widths, wanted, strict=True)]


@dataclass(frozen=True)
class TableRow(TextLine):
    """A row with the line below it; the first one has a line above, too, and its text at the bottom."""

    cells: Sequence[Content]
    columns: Columns
    is_first: bool
    is_last: bool

    def cut(self, start: int, end: int | None) -> str:
        last = len(self.cells) * _PLACES + _PLACES if end is None else end
        parts = (
            cell.plain[max(0, start - place) : max(0, last - place)]
            for cell, place in self._places()
            if start < place + max(1, len(cell)) and last > place
        )
        return "\t".join(parts)

    def height(self, rules: RulesMap, width: int) -> int:
        widths = self.columns.widths(width)
        heights = (
            content_height(cell, rules, width - 2 * _PADDING) for cell, width in zip(self.cells, widths, strict=False)
        )
        return max(heights, default=1) + 1 + self.is_first

    def draw(self, number: int, width: int, style: Style, options: RenderOptions) -> list[Strip]:
        widths = self.columns.widths(width)
        line = (style + options.get_style(".keyline")).rich_style
        bar = Strip([Segment("│", line)])
        cells = self._draw_cells(number, widths, style, options)
        rows = [Strip.join([bar, *(part for cell in row for part in (cell, bar))]) for row in zip(*cells, strict=True)]
        below = self._rule("└┴┘" if self.is_last else "├┼┤", widths, line, number)
        return [*([self._rule("┌┬┐", widths, line, number)] if self.is_first else []), *rows, below]

    def _places(self) -> Iterator[tuple[Content, int]]:
        """The cells, each with the place of its first character."""
        return ((cell, (number + 1) * _PLACES) for number, cell in enumerate(self.cells))

    def _draw_cells(
        self, number: int, widths: Sequence[int], style: Style, options: RenderOptions
    ) -> list[list[Strip]]:
        """The rows of each cell, as many for all of them."""
        drawn = [
            draw_content(cell, (place, number), width - 2 * _PADDING, style, options)
            for (cell, place), width in zip(self._places(), widths, strict=True)
        ]
        height = max(map(len, drawn))
        ends = (place + len(cell) for cell, place in self._places())
        return [
            self._fill(rows, height, Strip.blank(width, style.rich_style), (end, number))
            for rows, width, end in zip(drawn, widths, ends, strict=True)
        ]

    def _fill(self, rows: Sequence[Strip], height: int, blank: Strip, end: tuple[int, int]) -> list[Strip]:
        """A cell of full width and height; what is beside its text has places after it."""
        missing = [blank.apply_offsets(*end)] * (height - len(rows))
        left = blank.crop(0, _PADDING)
        padded = [
            Strip.join([left, row, blank.crop(row.cell_length + _PADDING)]).apply_offsets(
                first_place(row) - _PADDING, end[1]
            )
            for row in rows
        ]
        return missing + padded if self.is_first else padded + missing

    def _rule(self, corners: str, widths: Sequence[int], style: RichStyle, number: int) -> Strip:
        text = corners[0] + corners[1].join("─" * width for width in widths) + corners[2]
        return Strip([Segment(text, style)]).apply_offsets((len(self.cells) + 1) * _PLACES, number)


class TableText(LongText):
    COMPONENT_CLASSES = {"heading", "keyline"}
    DEFAULT_CSS = """
    TableText > .heading { color: $primary; }
    TableText > .keyline { color: $foreground 20%; }
    """

    def __init__(self, headings: Sequence[Content], rows: Sequence[Sequence[Content]]) -> None:
        shown = [[heading.stylize_before(".heading") for heading in headings], *rows]
        columns, last = Columns(shown), len(rows)
        super().__init__(TableRow(row, columns, number == 0, number == last) for number, row in enumerate(shown))


class LongTable(MarkdownTable):
    def compose(self) -> ComposeResult:
        yield TableText(*self._get_headers_and_rows())


def _longest_word(content: Content) -> int:
    words = (cell_len(word) for word in _UNBREAKABLE.findall(content.plain))
    return max(words, default=min(2, content.cell_length))
