"""Text of many lines as one widget: what of it is on the screen is drawn, the rest is only measured.

A widget for each line, or drawing all of a text whenever a line is added, takes longer than the screen has time for.
A selection counts lines, not the rows that they are wrapped to, as in Textual's own text.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from textual.content import Content
from textual.css.styles import RulesMap
from textual.geometry import Offset, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual
from textual.widget import Widget
from textual.widgets import Markdown

_NOTHING = Content()


class TextLine(ABC):
    """A line of a text, in which a place is a number."""

    @abstractmethod
    def cut(self, start: int, end: int | None) -> str:
        """What a selection from one place to another takes of it."""

    @abstractmethod
    def height(self, rules: RulesMap, width: int) -> int:
        """How many rows it is wrapped to."""

    @abstractmethod
    def draw(self, number: int, width: int, style: Style, options: RenderOptions) -> list[Strip]:
        """Its rows, each character with its place and the line's number, by which the mouse finds it."""


@dataclass(frozen=True)
class HangingLine(TextLine):
    """A lead (indentation, a bullet) and text beside it, which stays beside it when wrapped."""

    lead: Content
    body: Content

    def cut(self, start: int, end: int | None) -> str:
        return (self.lead.plain + self.body.plain)[start:end]

    def height(self, rules: RulesMap, width: int) -> int:
        return content_height(self.body, rules, max(1, width - self.lead.cell_length))

    def draw(self, number: int, width: int, style: Style, options: RenderOptions) -> list[Strip]:
        indent = self.lead.cell_length
        rows = draw_content(self.body, (len(self.lead), number), max(1, width - indent), style, options)
        if not indent:
            return rows
        first, *others = rows
        bullet = draw_content(self.lead, (0, number), indent, style, options)[0]
        blank = Strip.blank(1, style.rich_style)
        return [
            Strip.join([bullet, first]),
            *(Strip.join([*[blank.apply_offsets(first_place(row), number)] * indent, row]) for row in others),
        ]


class LongText(Widget):
    """Shows lines. Click on a link in them, and the Markdown around tells of it."""

    DEFAULT_CSS = "LongText { width: 1fr; height: auto; }"

    def __init__(self, lines: Iterable[TextLine] = (), classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._lines: list[TextLine] = list(lines)
        self._width = 0
        self._bottoms: list[int] = []  # of the lines, in rows, at this width
        self._drawn: dict[int, list[Strip]] = {}

    @property
    def lines(self) -> Sequence[TextLine]:
        return self._lines

    def replace_from(self, number: int, lines: Iterable[TextLine]) -> None:
        """Have these lines from that number on. The screen is laid out anew only if the height changes by it."""
        del self._lines[number:], self._bottoms[number:]
        self._lines += lines
        width, height = self.size
        self.refresh(layout=not width or self._measure(width) != height)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._measure(width)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y >= self._measure(width):
            return Strip.blank(width, self.visual_style.rich_style)
        number = bisect_right(self._bottoms, y)
        rows = self._rows(number, width)
        return rows[y - (self._bottoms[number - 1] if number else 0)]

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        spans = ((line, selection.get_span(number)) for number, line in enumerate(self._lines))
        return "\n".join(line.cut(span[0], span[1] if span[1] >= 0 else None) for line, span in spans if span), "\n"

    async def action_link(self, href: str) -> None:
        self.post_message(Markdown.LinkClicked(self.query_ancestor(Markdown), href))

    def _measure(self, width: int) -> int:
        """The height at this width; only lines that are new, or all at a new width, are measured."""
        if width != self._width:
            self._width, self._bottoms = width, []
            self._drawn.clear()
        bottoms, rules = self._bottoms, cast(RulesMap, self.styles)  # Textual itself passes them so
        for line in self._lines[len(bottoms) :] if width else ():
            bottoms.append((bottoms[-1] if bottoms else 0) + line.height(rules, width))
        return bottoms[-1] if bottoms else 0

    def _rows(self, number: int, width: int) -> list[Strip]:
        if self._dirty_regions:  # set by whatever changes the look, as for Textual's own cache of a widget's lines
            self._drawn.clear()
            self._dirty_regions.clear()
        if number not in self._drawn:
            line = _Numbered(self._lines[number], number)
            self._drawn[number] = Visual.to_strips(self, line, width, None, self.visual_style)
        return self._drawn[number]


class OpenText(LongText):
    """Plain text that grows."""

    def __init__(self, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self.text = ""

    def show(self, text: str) -> None:
        """Show this text; of one that goes on only what is new costs time."""
        kept = max(0, len(self.lines) - 1) if text.startswith(self.text) else 0
        start = self.text.rfind("\n") + 1 if kept else 0
        if text != self.text:
            self.text = text
            self.replace_from(kept, (HangingLine(_NOTHING, Content(line)) for line in text[start:].split("\n")))


class CodeText(LongText):
    """Lines as they are, however long: for what scrolls sideways."""

    DEFAULT_CSS = "CodeText { width: auto; }"

    def __init__(self, content: Content) -> None:
        super().__init__(_plain_lines(content))

    def update(self, content: Content) -> None:
        self.replace_from(0, _plain_lines(content))

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return max(container.width, *(line.body.cell_length for line in self.lines if isinstance(line, HangingLine)))


def _plain_lines(content: Content) -> list[TextLine]:
    return [HangingLine(_NOTHING, line) for line in content.expand_tabs().split("\n", allow_blank=True)]


@dataclass(frozen=True)
class _Numbered(Visual):
    line: TextLine
    number: int

    def render_strips(self, width: int, height: int | None, style: Style, options: RenderOptions) -> list[Strip]:
        return self.line.draw(self.number, width, style, options)

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:
        return container_width

    def get_height(self, rules: RulesMap, width: int) -> int:
        return self.line.height(rules, width)


def content_height(content: Content, rules: RulesMap, width: int) -> int:
    """How many rows a line is wrapped to; most need none."""
    is_short = len(content) <= width and "\t" not in content.plain and content.cell_length <= width
    return 1 if is_short else content.get_height(rules, width)


def draw_content(
    content: Content, place: tuple[int, int], width: int, style: Style, options: RenderOptions
) -> list[Strip]:
    """The rows of a content that stands at this place (character, number of the line) of a text."""
    start, number = place
    selection = _within(options.selection, start, len(content), number)
    strips = content.render_strips(width, None, style, replace(options, selection=selection))
    return [strip.apply_offsets(start + first_place(strip), number) for strip in strips]


def _within(selection: Selection | None, start: int, length: int, number: int) -> Selection | None:
    """What of a selection falls on so many characters from there on, as a selection of a line of their own."""
    span = selection.get_span(number) if selection else None
    if span is None:
        return None
    end = length if span[1] < 0 else min(length, span[1] - start)
    begin = max(0, span[0] - start)
    return Selection(Offset(begin, 0), Offset(end, 0)) if begin < end else None


def first_place(strip: Strip) -> int:
    """The place of a row's first character."""
    for segment in strip:
        if segment.style and "offset" in segment.style.meta:
            return int(segment.style.meta["offset"][0])
    return 0
