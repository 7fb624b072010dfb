"""What all dialogs have in common: they go once, however often they are asked to, and have the help."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from textual.app import App
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.screen import ModalScreen

if TYPE_CHECKING:
    from collections.abc import Sequence

Result = TypeVar("Result")


class Dialog(ModalScreen[Result]):
    """A screen above the app. Two keys that close it may come in one burst; the second means nothing."""

    CSS_PATH = Path(__file__).with_name("dialogs.tcss")
    BINDINGS = [Binding("f1", "help", "Help", id="chat.help", show=False)]
    is_gone = False  # or about to go: what comes late has no place any more
    asks_the_model = False  # by itself: nothing else is to be asked meanwhile

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A key may come before the parts of it are there: all that it can do then is to close it."""
        return self.is_mounted or action in ("dismiss", "leave")

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        if self.is_gone:
            return AwaitComplete.nothing()  # type: ignore[no-untyped-call, no-any-return]
        self.is_gone = True
        return super().dismiss(result)

    def action_help(self) -> None:
        """All keys, above the dialog."""
        from bq.tui.dialogs.help import HelpScreen

        self.app.push_screen(HelpScreen())


def shown_keys(app: App[Any], id: str) -> str:
    """The keys of an action as they are now, for the eye: F5, ^n."""
    from bq.tui.keymap import effective

    keys: Sequence[str] = effective(app._keymap, id)
    return " / ".join(app.get_key_display(Binding(key, "", "")) for key in keys)
