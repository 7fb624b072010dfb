"""Markdown of an untrusted text: no markup of Textual, no HTML, no tooltips made from it, and no link opens by itself."""

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from markdown_it.token import Token
from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.widgets import Markdown
from textual.widgets._markdown import MarkdownFence

from bq.tui.blocks import parser
from bq.tui.line_filter import Bare
from bq.tui.widgets.long_list import BulletList, OrderedList
from bq.tui.widgets.long_table import LongTable
from bq.tui.widgets.long_text import CodeText

if TYPE_CHECKING:
    from textual.highlight import HighlightTheme


@dataclass
class CodeClicked(Message):
    """A block of code was clicked, and nothing was selected with it: it is wanted."""

    code: str


@lru_cache(maxsize=16)
def _highlight(code: str, language: str, ansi: bool, dark: bool) -> Content:
    if ansi:
        return MarkdownFence.highlight(code, language, ansi, dark)
    from textual.highlight import highlight

    return highlight(code, language=language or None, theme=_whole_colours())


@lru_cache(maxsize=1)
def _whole_colours() -> "type[HighlightTheme]":
    """Textual's colours of code, none of them thinned: how far they stand out is the theme's choice."""
    from textual.highlight import HighlightTheme

    thinned = re.compile(r"(\$[a-z-]+) \d+%")

    class Whole(HighlightTheme):
        STYLES = {  # as Textual declares it
            kind: thinned.sub(lambda found: "$text-muted" if found[1] == "$text" else found[1], style)
            for kind, style in HighlightTheme.STYLES.items()
        }

    return Whole


class _Fence(MarkdownFence):
    DEFAULT_CSS = """
    _Fence > CodeText { padding: 1 2; }
    _Fence:ansi > CodeText { padding: 1 0; }
    """

    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        return _highlight(code, language, ansi, dark)

    def compose(self) -> ComposeResult:
        yield CodeText(self._highlighted_code)

    def set_content(self, content: Content) -> None:
        self._content = content
        for shown in self.query_children(CodeText):
            shown.update(content)

    def on_click(self, event: events.Click) -> None:
        if not self.screen.get_selected_text():
            event.stop()
            self.post_message(CodeClicked(self.code))


class AnswerMarkdown(Bare, Markdown):
    """Grows by whole blocks."""

    BLOCKS = {
        **Markdown.BLOCKS,
        "bullet_list_open": BulletList,
        "ordered_list_open": OrderedList,
        "table_open": LongTable,
        "fence": _Fence,
        "code_block": _Fence,
    }

    def __init__(self) -> None:
        super().__init__(parser_factory=parser, open_links=False)

    async def add_blocks(self, text: str) -> None:
        """As `append` for text that starts a new block; `append` would draw the last block before it again, too."""
        ansi, dark = self.app.native_ansi_color, self.app.current_theme.dark
        async with self.lock:
            tokens = await asyncio.to_thread(_read, text, ansi, dark)
            await self.mount_all(list(self._parse_markdown(tokens)))


def _read(text: str, ansi: bool, dark: bool) -> list[Token]:
    """What of the work can be done beside the screen: the parsing, and the colours of code, which are found again."""
    tokens = parser().parse(text)
    for token in tokens:
        if token.type in ("fence", "code_block"):
            _highlight(token.content.rstrip(), token.info, ansi, dark)
    return tokens
