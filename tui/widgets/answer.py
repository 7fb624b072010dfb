"""One answer of the model on the screen, cheap to grow and safe to draw.

The block that is being written is plain text; blocks that nothing can change any more are rendered as Markdown, once.
At the end the whole is rendered anew only where that makes a difference. The text is untrusted: no markup of Textual,
no HTML, no tooltips made from it, and no link opens by itself.
"""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static
from textual.widgets._markdown import MarkdownTable, MarkdownTableContent

from bq.tui.blocks import OpenBlock, parser, same_rendering
from bq.tui.widgets.line import Line


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


class AnswerMarkdown(Markdown):
    """Markdown of an untrusted text that grows by whole blocks."""

    BLOCKS = {**Markdown.BLOCKS, "table_open": _Table}

    def __init__(self) -> None:
        super().__init__(parser_factory=parser, open_links=False)

    async def add_blocks(self, text: str) -> None:
        """As `append` for text that starts a new block; `append` would draw the last block before it again, too."""
        async with self.lock:
            await self.mount_all(self._build_from_source(text))


class Answer(Vertical):
    """The model's name, the text, and how it ended when that was not by itself."""

    def __init__(self, name: Callable[[], str]) -> None:
        super().__init__()
        self._name_line = Line(name, classes="role")
        self._markdown = AnswerMarkdown()
        self._tail = Static(markup=False, classes="tail")
        self._mark = Line(lambda: "", classes="mark")
        self._open = OpenBlock()
        self._parts: list[str] = []

    def compose(self) -> ComposeResult:
        yield self._name_line
        yield self._markdown
        yield self._tail
        yield self._mark

    def on_mount(self) -> None:
        self._tail.display = self._mark.display = False

    async def feed(self, text: str) -> None:
        """Shows more of the text."""
        closed = self._open.add(text)
        if closed:
            self._parts.append(closed)
            await self._markdown.add_blocks(closed)
        self._show_tail()

    async def finish(self, mark: Callable[[], str] | None = None) -> None:
        """Shows what is left as Markdown, and the mark."""
        rest = self._open.take()
        whole = "".join(self._parts) + rest
        if same_rendering([*self._parts, rest], whole):
            await self._markdown.add_blocks(rest)
        else:
            await self._markdown.update(whole)
        self._parts = [whole]
        self._show_tail()
        self.mark(mark)

    def mark(self, mark: Callable[[], str] | None) -> None:
        """Says below the text how it ended; None says nothing."""
        self._mark.change(mark or (lambda: ""))
        self._mark.display = mark is not None

    async def replace(self, text: str) -> None:
        """Shows this text instead."""
        self._open.take()
        self._parts = [text]
        await self._markdown.update(text)
        self._show_tail()

    def _show_tail(self) -> None:
        text = self._open.text.strip("\n")
        self._tail.update(text)
        self._tail.display = bool(text.strip())
