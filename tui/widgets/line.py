"""Small texts of the app itself: looked up when they are drawn, so that they follow the language."""

from collections.abc import Callable
from typing import Literal

from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget

from bq.runtime.errors import BqError


class Line(Widget):
    """A text that is asked for at every drawing. Nothing in it is markup."""

    DEFAULT_CSS = "Line { height: auto; width: 1fr; }"

    def __init__(self, text: Callable[[], str], *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._text = text

    def render(self) -> Content:
        return Content(self._text())

    def change(self, text: Callable[[], str]) -> None:
        self._text = text
        self.refresh(layout=True)


Kind = Literal["hint", "warning", "error"]


class Notice(Vertical):
    """Something that the app says among the messages: what is the matter, and what to do about it."""

    def __init__(self, kind: Kind, text: Callable[[], str], remedy: Callable[[], str] | None = None) -> None:
        lines = [Line(text, classes="cause")] + ([Line(remedy, classes="remedy")] if remedy else [])
        super().__init__(*lines, classes=kind)

    @classmethod
    def of(cls, error: BqError) -> "Notice":
        remedy = error.remedy
        return cls("error", lambda: error.cause, (lambda: remedy) if remedy else None)
