"""The app's keys, and what those do that open a dialog or work on the page. The dialogs are imported with the first one."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from textual.binding import Binding

from bq.runtime.errors import BqError
from bq.tui import app_answers, notes
from bq.tui.machine_error import of_machine
from bq.tui.widgets.message import Said

if TYPE_CHECKING:
    from types import ModuleType

    from bq.tui.app import ChatApp

    OpenDialog = Callable[[ModuleType], Awaitable[None]]

BINDINGS = [
    Binding("f1", "help", "Help", id="chat.help"),
    Binding("f2", "switch", "Mode", id="chat.mode"),
    Binding("f3,ctrl+l", "conversations", "Chats", id="chat.list"),
    Binding("f4", "models", "Model", id="chat.model"),
    Binding("f5", "settings", "Settings", id="chat.settings", show=False),
    Binding("escape", "stop", "Stop", id="chat.stop"),
    Binding("ctrl+n", "new", "New", id="chat.new"),
    Binding("ctrl+r", "again", "Again", id="chat.again", show=False),
    Binding("ctrl+g", "go_on", "Go on", id="chat.go_on", show=False),
    Binding("ctrl+o", "copy_answer", "Copy", id="chat.copy", show=False),
    Binding("ctrl+s", "save_result", "Save", id="chat.save", show=False),
    Binding("f6", "input_file", "File", id="chat.file", show=False, priority=True),
    Binding("f7", "form", "Output", id="chat.form", show=False, priority=True),
    Binding("ctrl+t", "templates", "Templates", id="chat.templates", show=False),
    Binding("ctrl+up", "messages", "Messages", id="chat.messages", show=False, priority=True),
    Binding("ctrl+p", "command_palette", "Commands", id="chat.palette", show=False, priority=True),
    Binding("ctrl+q", "quit", "Quit", id="chat.quit", priority=True),
    Binding("ctrl+c", "help_quit", show=False, system=True),
]


class DialogKeys:
    """Not an App itself: Textual takes the style sheets of an app's first base that is one."""

    _has_dialog = False

    def open_dialog(self, open_it: "OpenDialog") -> None:
        """Have a dialog take the keyboard until it is closed; a second one is not opened meanwhile.

        No worker is ever cancelled for it: one that changes the screen would take the app's own tasks with it.
        """
        app = _app(self)
        if not self._has_dialog and len(app.screen_stack) == 1:
            self._has_dialog = True
            app.run_worker(self._in_dialog(open_it), group="dialog")

    async def _in_dialog(self, open_it: "OpenDialog") -> None:
        from bq.tui import app_dialogs

        try:
            await open_it(app_dialogs)
        except BqError as error:
            await _app(self).tell(error)
        except OSError as error:
            await _app(self).tell(of_machine(error))
        finally:
            self._has_dialog = False
            app_answers.send_held(_app(self))

    def action_conversations(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.conversations(self))

    def action_models(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.models(self))

    def action_settings(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.settings(self))

    def action_templates(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.templates(self))

    def action_form(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.form(self))

    def action_input_file(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.input_file(self))

    def action_save_result(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.save_result(self))

    def action_compare(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.compare(self))

    def action_command_palette(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.palette(self))

    def action_change_theme(self) -> None:
        self.open_dialog(lambda dialogs: dialogs.theme(self))


class PageKeys:
    """What keys do with the page on the screen. Not an App itself either."""

    def action_messages(self) -> None:
        """To the last message."""
        app = _app(self)
        messages = list(app.desk.page.query(Said))
        if messages and len(app.screen_stack) == 1:
            messages[-1].focus()
            messages[-1].scroll_visible(animate=False)

    def action_again(self) -> None:
        app = _app(self)
        if app.engine.model is None and not app.engine.busy:
            app.load()
        else:
            app_answers.again(app, app.desk)

    def action_go_on(self) -> None:
        app_answers.go_on(_app(self), _app(self).desk)

    def action_copy_answer(self) -> None:
        _app(self).copy_text(_app(self).desk.conversation.last_answer)

    def action_scroll(self, pages: int) -> None:
        _app(self).desk.page.scroll_pages(pages)

    def action_help(self) -> None:
        from bq.tui.dialogs.help import HelpScreen

        _app(self).push_screen(HelpScreen())

    def action_help_quit(self) -> None:
        _app(self).hint(notes.how_to_quit)


def _app(keys: DialogKeys | PageKeys) -> "ChatApp":
    return cast("ChatApp", keys)
