"""Keeps control characters away from the terminal, whatever the text's source.

Textual strips five control codes and lets the rest through, the escape character among them; a percent-encoded one even
comes back out of Markdown's autolinks (`http://x/%1b[31m`). So the whole app draws through `NoControls`: no text of a
model, a file or the clipboard can move the cursor, write the clipboard or turn the direction of writing.
"""

import re
from collections.abc import Sequence

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

# C0 and C1 controls, and the bidirectional overrides and isolates, which can make a line read as another.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CONTROLS_IN_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text with line breaks as newlines, and without control characters other than newline and tab."""
    return _CONTROLS_IN_TEXT.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


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


_NO_CONTROLS = NoControls()  # one object: Textual caches filtered lines by filter
