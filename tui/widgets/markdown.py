"""Markdown of an untrusted text: no markup of Textual, no HTML, no tooltips made from it, and no link opens by itself."""

from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Markdown
from textual.widgets._markdown import MarkdownFence, MarkdownTable, MarkdownTableContent

from bq.tui.blocks import parser
from bq.tui.line_filter import Blank


class _TableContent(MarkdownTableContent):
    """Cells without tooltips: Textual would read the cells' text as markup."""

    def compose(self) -> ComposeResult:
        for cell in super().compose():
            cell.tooltip = None
            yield cell


class _Table(MarkdownTable):
    def compose(self) -> ComposeResult:
        self._headers, self._rows = self._get_headers_and_rows()
        yield _TableContent(self._headers, self._rows)


@dataclass
class CodeClicked(Message):
    """A block of code was clicked, and nothing was selected with it: it is wanted."""

    code: str


class _Fence(MarkdownFence):
    def on_click(self, event: events.Click) -> None:
        if not self.screen.get_selected_text():
            event.stop()
            self.post_message(CodeClicked(self.code))


class AnswerMarkdown(Blank, Markdown):
    """Grows by whole blocks."""

    BLOCKS = {**Markdown.BLOCKS, "table_open": _Table, "fence": _Fence, "code_block": _Fence}

    def __init__(self) -> None:
        super().__init__(parser_factory=parser, open_links=False)

    async def add_blocks(self, text: str) -> None:
        """As `append` for text that starts a new block; `append` would draw the last block before it again, too."""
        async with self.lock:
            await self.mount_all(self._build_from_source(text))
