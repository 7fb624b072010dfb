"""The line above the keys: the model's state, or for a moment something that the app has to say."""

from collections.abc import Callable

from textual.content import Content
from textual.reactive import reactive
from textual.timer import Timer
from textual.widget import Widget

from bq.tui.status import Status, parts

_HINT_SECONDS = 4


class StatusLine(Widget):
    status: reactive[Status] = reactive(Status())

    def __init__(self) -> None:
        super().__init__()
        self._hint: Callable[[], str] | None = None
        self._timer: Timer | None = None

    def hint(self, text: Callable[[], str]) -> None:
        """Shows a text in place of the state for some seconds; a later one takes its place, none pile up."""
        self._hint = text
        if self._timer:
            self._timer.stop()
        self._timer = self.set_timer(_HINT_SECONDS, self._forget)
        self.refresh()

    def _forget(self) -> None:
        self._hint = None
        self.refresh()

    def render(self) -> Content:
        if self._hint:
            return Content.styled(self._hint(), "$text-warning")
        pieces: list[Content] = [Content.styled(text, style) for text, style in parts(self.status)]
        return Content("  ").join(pieces)
