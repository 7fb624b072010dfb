"""The last gate before the terminal: no control character is drawn, wherever it came from.

Textual strips five control codes and lets the rest through, the escape character among them; a percent-encoded one even
comes back out of Markdown's autolinks (`http://x/%1b[31m`). So the whole app draws through this.
"""

import re
from collections.abc import Sequence
from typing import cast

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from bq.tui.harmless import CONTROLS

_CONTROLS = re.compile(f"[{CONTROLS}\t\n]")  # a line that is drawn has no breaks


class NoControls(LineFilter):
    """Takes control characters out of every drawn line. They are counted as 0 cells wide, so nothing moves."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if not any(_CONTROLS.search(segment.text) for segment in segments):
            return segments
        return [
            segment if segment.control else Segment(_CONTROLS.sub("", segment.text), segment.style)
            for segment in segments
        ]


def with_no_controls(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """Those filters after the one that takes control characters out."""
    return [_NO_CONTROLS, *filters]


class Blank:
    """For a container that draws no text of its own: its lines, which are many while an answer grows, need no filter.

    Not a Widget: Textual takes the style sheets of a widget's first base that is one.
    """

    def get_line_filters(self) -> Sequence[LineFilter]:
        return without_no_controls(super().get_line_filters())  # type: ignore[misc]


class Bare(Blank):
    """For one without border and padding, too: one line of spaces is made for all of its lines."""

    def render_lines(self, crop: Region) -> list[Strip]:
        background = cast(Widget, self).background_colors[1]
        line = Strip.blank(crop.width, Style.from_color(bgcolor=background.rich_color))
        for one in self.get_line_filters():
            line = line.apply_filter(one, background)
        return [line] * crop.height


def without_no_controls(filters: Sequence[LineFilter]) -> list[LineFilter]:
    """Those filters but for the one that takes control characters out."""
    return [one for one in filters if one is not _NO_CONTROLS]


_NO_CONTROLS = NoControls()  # one object: Textual caches filtered lines by filter
