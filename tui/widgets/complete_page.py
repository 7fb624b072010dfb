"""The text mode's page: the text with its alternatives, below what is to be said of the model."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget

from bq.tui.widgets.complete import CompleteView
from bq.tui.widgets.page import Page


class CompletePage(Page):
    """A text that goes on from the cursor, with what else might have come."""

    def __init__(self) -> None:
        super().__init__(id="complete")
        self.view = CompleteView(id="text")
        self._notices = Vertical(classes="notices")

    def compose(self) -> ComposeResult:
        yield self._notices
        yield self.view

    @property
    def focus_target(self) -> Widget:
        return self.view.editor

    @property
    def notices(self) -> Widget:
        return self._notices

    def draft(self) -> str:
        return self.view.text

    def insert_text(self, text: str) -> None:
        if not self.view.is_running:
            self.view.editor.insert(text)

    def retell(self) -> None:
        self.view.editor.show_hint()

    async def clear(self) -> None:
        self.view.clear()

    def scroll_pages(self, pages: int) -> None:
        (self.view.editor.action_cursor_page_up if pages < 0 else self.view.editor.action_cursor_page_down)()
