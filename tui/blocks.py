"""Markdown as a chat needs it: HTML as plain text, line breaks kept, and streamed text cut into closed blocks.

While an answer is written, only its last block can still change. `OpenBlock` gives the blocks before it out once, so
that the screen renders each of them once, and `same_rendering` tells at the end whether the pieces mean what the whole
means (they do not when a link is defined further down).
"""

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

_NEWLINE = re.compile(r"\r\n?|\n")  # as markdown-it counts lines
_PARSE_ALWAYS_BELOW = 2000  # characters
_PARSE_AFTER_GROWTH = 8  # above that: again after the block has grown by an eighth, so that all parsing stays linear


def parser() -> MarkdownIt:
    """GitHub's Markdown without HTML: a tag in an answer is text to read."""
    markdown = MarkdownIt("gfm-like", {"html": False})
    markdown.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    return markdown


def _keep_line_breaks(state: StateCore) -> None:
    """A line break that the model wrote stays one: as a space it would stand between two Han characters."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


def _block_parser() -> MarkdownIt:
    markdown = MarkdownIt("gfm-like", {"html": False})
    markdown.core.ruler.enableOnly(["normalize", "block"])
    return markdown


_BLOCKS = _block_parser()


def closed_length(text: str) -> int:
    """How many characters at the start of `text` are blocks that no text to come can change.

    Only whole lines count: a half-written one may turn out to continue the block before it.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in _BLOCKS.parse(whole) if token.level == 0 and token.map]
    if len(starts) < 2:
        return 0
    ends_of_lines = [match.end() for match in _NEWLINE.finditer(whole)]
    return ends_of_lines[starts[-1] - 1]


class OpenBlock:
    """The end of a text that is still growing: `add` gives back the blocks that are closed by what came."""

    def __init__(self) -> None:
        self.text = ""
        self._parse_at = 0

    def add(self, text: str) -> str:
        self.text += text
        if "\n" not in text or len(self.text) < self._parse_at:
            return ""
        length = closed_length(self.text)
        closed, self.text = self.text[:length], self.text[length:]
        size = len(self.text)
        self._parse_at = size + size // _PARSE_AFTER_GROWTH if size > _PARSE_ALWAYS_BELOW else 0
        return closed

    def take(self) -> str:
        """What is left, when nothing more will come."""
        rest, self.text, self._parse_at = self.text, "", 0
        return rest


def same_rendering(parts: Sequence[str], whole: str) -> bool:
    """Whether the parts, each parsed alone, make the same document as the whole text."""
    if [part for part in parts if part] == [whole]:
        return True
    markdown = parser()
    pieces = [shape for part in parts for shape in _shapes(markdown.parse(part))]
    return pieces == _shapes(markdown.parse(whole))


def _shapes(tokens: Sequence[Token]) -> list[tuple[Any, ...]]:
    """What of each token is drawn: all but its place in the source."""
    return [
        (
            *(token.type, token.tag, token.level, token.info, token.content, token.hidden),
            *token.attrs.items(),
            *_shapes(token.children or ()),
        )
        for token in tokens
    ]


def fences(text: str) -> list[str]:
    """The blocks of code in a text, in order."""
    return [token.content.rstrip("\n") for token in parser().parse(text) if token.type in ("fence", "code_block")]
