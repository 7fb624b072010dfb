"""Keeps control characters out of texts, whatever their source: a model, a file, the clipboard.

None of them can move the cursor, write the clipboard or turn the direction of writing. What is drawn goes through
bq.tui.line_filter besides.
"""

import re

# C0 and C1 controls, and the bidirectional overrides and isolates, which can make a line read as another.
CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069"
_CONTROLS_IN_TEXT = re.compile(f"[{CONTROLS}]")


def clean(text: str) -> str:
    """The text with line breaks as newlines, and without control characters other than newline and tab."""
    return _CONTROLS_IN_TEXT.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """The text in one line, for what a hub, a file's name or an error says: it can add no line of its own to what is shown."""
    return "".join(filter(str.isprintable, " ".join(text.split())))
