"""What all dialogs have in common: they go once, however often they are asked to."""

from pathlib import Path
from typing import TypeVar

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen

Result = TypeVar("Result")


class Dialog(ModalScreen[Result]):
    """A screen above the app. Two keys that close it may come in one burst; the second means nothing."""

    CSS_PATH = Path(__file__).with_name("dialogs.tcss")
    is_gone = False  # or about to go: what comes late has no place any more

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        if self.is_gone:
            return AwaitComplete.nothing()  # type: ignore[no-untyped-call, no-any-return]
        self.is_gone = True
        return super().dismiss(result)
