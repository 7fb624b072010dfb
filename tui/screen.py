"""The chat app's one screen: what stands where, and the keys' texts in the reader's language."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer

from bq.tui.keys import Entry, footer_text, texts
from bq.tui.line_filter import Blank
from bq.tui.widgets.line import Line
from bq.tui.widgets.loading import LoadPanel
from bq.tui.widgets.message import Said
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
        """As Textual's, with texts for the footer that follow the language."""
        return {
            key: active._replace(binding=replace(active.binding, description=footer_text(active.binding)))
            for key, active in super().active_bindings.items()
        }

    def help_entries(self) -> list[Entry]:
        """Every key of ours as it is bound now, and what it does."""
        from bq.tui.widgets.complete import CompleteView

        keys: dict[str, list[str]] = {}
        elsewhere = [one for kind in (Said, CompleteView) for given in kind.BINDINGS for one in _single(given)]
        here = [active.binding for active in super().active_bindings.values()]
        for binding in (*here, *(one for one in elsewhere if one.id not in {two.id for two in here})):
            if binding.id:
                keys.setdefault(binding.id, []).append(self.app.get_key_display(binding))
        return [(" / ".join(keys[id]), text) for id, text in texts().items() if id in keys]

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


def _single(given: BindingType) -> Iterable[Binding]:
    """A binding of several keys as one for each."""
    return Binding.make_bindings([given])
