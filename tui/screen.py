"""The chat app's one screen: what stands where, and the keys' texts in the reader's language."""

from collections.abc import Sequence
from dataclasses import replace

from textual.app import ComposeResult
from textual.binding import ActiveBinding
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer

from bq.tui.keys import footer_text, texts
from bq.tui.widgets.help import Entry
from bq.tui.widgets.loading import LoadPanel
from bq.tui.widgets.statusline import StatusLine
from bq.tui.widgets.views import View


class ChatScreen(Screen[None]):
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]

    def __init__(self, file_name: str, views: Sequence[View], first: str) -> None:
        super().__init__()
        self.load_panel = LoadPanel(file_name)
        self.status_line = StatusLine()
        self._views = views
        self._first = first

    def compose(self) -> ComposeResult:
        yield self.load_panel
        with ContentSwitcher(initial=self._first):
            yield from self._views
        yield self.status_line
        yield Footer(show_command_palette=False, compact=True)

    @property
    def active_bindings(self) -> dict[str, ActiveBinding]:
        """As Textual's, with texts for the footer that follow the language."""
        return {
            key: active._replace(binding=replace(active.binding, description=footer_text(active.binding)))
            for key, active in super().active_bindings.items()
        }

    def help_entries(self) -> list[Entry]:
        """Every key of ours as it is bound now, and what it does."""
        keys: dict[str, list[str]] = {}
        for active in super().active_bindings.values():
            if active.binding.id:
                keys.setdefault(active.binding.id, []).append(self.app.get_key_display(active.binding))
        return [(" / ".join(keys[id]), text) for id, text in texts().items() if id in keys]
