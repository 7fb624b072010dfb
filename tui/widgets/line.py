"""Small texts of the app itself: looked up when they are drawn, so that they follow the language."""

from collections.abc import Callable
from typing import Literal

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget

from bq.runtime.errors import BqError

Text = str | Callable[[], str]  # what others say, or what the app says in the language of the moment


class Line(Widget):
    """A text that is asked for at every drawing. Nothing in it is markup."""

    DEFAULT_CSS = "Line { height: auto; width: 1fr; }"

    def __init__(self, text: Text, *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self._text = text

    def render(self) -> Content:
        return Content(self._text if isinstance(self._text, str) else self._text())

    def change(self, text: Text) -> None:
        self._text = text
        self.refresh(layout=True)


class Notice(Vertical):
    """Something that the app says among the messages: what is the matter, and what to do about it."""

    def __init__(self, kind: Literal["hint", "warning", "error"], cause: Text, remedy: Text | None = None) -> None:
        lines = [Line(cause, classes="cause")] + ([Line(remedy, classes="remedy")] if remedy else [])
        super().__init__(*lines, classes=kind)

    @classmethod
    def of(cls, error: BqError) -> "Notice":
        return cls("error", error.cause, error.remedy)
