"""The small dialogs: one of some choices, a line of text, a longer text. Each gives what was chosen, or None for Esc."""

from collections.abc import Callable, Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from bq.runtime.language import say
from bq.tui.dialogs.dialog import Dialog
from bq.tui.harmless import clean
from bq.tui.widgets.boxes import Box, Field
from bq.tui.widgets.line import Line, Text
from bq.tui.widgets.options import Options


class Choice(Dialog[str | None]):
    """One of some options, by their names."""

    BINDINGS = [Binding("escape", "dismiss", "Close", id="dialog.close")]

    def __init__(self, title: Text, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title = title
        self._options = options

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self._title, classes="title")
            yield Options(*(Option(clean(label), id=name) for name, label in self._options), markup=False)

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)


class Entry(Dialog[str | None]):
    """A line of text. `check` gives what is wrong with it, or nothing."""

    BINDINGS = [Binding("escape", "dismiss", "Close", id="dialog.close")]

    def __init__(self, title: Text, text: str = "", check: Callable[[str], str] = lambda text: "") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._check = check
        self._wrong = Line("", classes="wrong")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Line(self._title, classes="title")
            yield Field(self._text)
            yield self._wrong

    @on(Input.Submitted)
    def _enter(self, event: Input.Submitted) -> None:
        text = clean(event.value).strip()
        wrong = self._check(text)
        if wrong:
            self._wrong.change(wrong)
        elif text:
            self.dismiss(text)


class Editor(Dialog[str | None]):
    """A longer text: Ctrl+S takes it. `check` gives what is wrong with it, or nothing."""

    BINDINGS = [
        Binding("ctrl+s", "take", "Take", id="dialog.take", priority=True),
        Binding("escape", "dismiss", "Close", id="dialog.close", priority=True),
    ]

    def __init__(self, title: Text, text: str = "", check: Callable[[str], str] = lambda text: "") -> None:
        super().__init__()
        self._title = title
        self._check = check
        self._wrong = Line("", classes="wrong")
        self._area = Box(text, soft_wrap=True, show_line_numbers=False)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(self._title, classes="title")
            yield self._area
            yield self._wrong
            yield Line(lambda: say("Ctrl+S takes it, Esc leaves it.", "Ctrl+S 确定，Esc 取消。"), classes="more")

    def on_mount(self) -> None:
        self._area.move_cursor(self._area.document.end)

    def action_take(self) -> None:
        text = clean(self._area.text)
        wrong = self._check(text)
        if wrong:
            self._wrong.change(wrong)
        else:
            self.dismiss(text)
