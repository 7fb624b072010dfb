"""The chat app's one screen: what stands where, and the keys' texts in the reader's language."""

from collections.abc import Callable
from dataclasses import replace

from textual.app import ComposeResult
from textual.binding import ActiveBinding
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer

from bq.tui.footer import fitting, place
from bq.tui.keys import footer_text
from bq.tui.line_filter import Blank
from bq.tui.widgets.line import Line
from bq.tui.widgets.loading import LoadPanel
from bq.tui.widgets.page import Page
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.statusline import StatusLine


class ChatScreen(Blank, Screen[None]):
    def __init__(self, file_name: Callable[[], str], first: Page) -> None:
        super().__init__()
        self.load_panel = LoadPanel(file_name)
        self.status_line = StatusLine()
        self._first = first

    def compose(self) -> ComposeResult:
        yield self.load_panel
        with ContentSwitcher(initial=self._first.id):
            yield self._first
        yield self.status_line
        yield Footer(show_command_palette=False, compact=True)

    async def show_page(self, page: Page) -> None:
        """Bring a page onto the screen; the first time it is made."""
        switcher = self.query_one(ContentSwitcher)
        if not page.is_attached:
            await switcher.mount(page)
        switcher.current = page.id

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """As Textual's, with texts for the footer that follow the language, and as many of them as it has room for."""
        found = {
            key: active._replace(binding=replace(active.binding, description=footer_text(active.binding)))
            for key, active in super().active_bindings.items()
        }
        room = fitting((active.binding for active in found.values()), self.app.get_key_display, self.size.width)
        return {
            key: active._replace(binding=replace(active.binding, show=active.binding.id in room))
            for key, active in sorted(found.items(), key=lambda one: place(one[1].binding))
        }

    def on_resize(self) -> None:
        self.refresh_bindings()

    def retell(self) -> None:
        """Draw all texts of the app anew, in the language of now."""
        for prompt in self.query(Prompt):
            prompt.show_hint()
        for page in self.query(Page):  # type: ignore[type-abstract]
            page.retell()
        for line in self.query(Line):
            line.refresh(layout=True)
        self.status_line.refresh()
        self.refresh_bindings()
