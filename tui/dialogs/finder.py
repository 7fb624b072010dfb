"""One of many things, found by writing a part of its name: the command palette, the themes."""

from collections.abc import Sequence

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from bq.runtime.language import say
from bq.tui.dialogs.dialog import Dialog
from bq.tui.slash import ranked
from bq.tui.widgets.boxes import Field
from bq.tui.widgets.line import Line, Text
from bq.tui.widgets.options import Options


class Finder(Dialog[str | None]):
    """Gives the name of what was chosen. `options` are names and what is shown for them."""

    BINDINGS = [
        Binding("escape", "dismiss", "Close", id="dialog.close", priority=True),
        Binding("down", "move(1)", id="list.down", show=False, priority=True),
        Binding("up", "move(-1)", id="list.up", show=False, priority=True),
    ]

    def __init__(self, title: Text, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title = title
        self._labels = {label: name for name, label in options}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(self._title, classes="title")
            yield Field(placeholder=say("Search…", "搜索…"))
            options = Options(markup=False)
            options.can_focus = False
            yield options

    def on_mount(self) -> None:
        if not self.is_gone:
            self._look()

    @on(Input.Changed)
    def _look(self) -> None:
        options = self.query_one(Options)
        options.set_options(Option(label) for label in ranked(self.query_one(Input).value.strip(), self._labels))
        options.highlighted = 0 if options.option_count else None

    @on(Input.Submitted)
    def _choose(self) -> None:
        options = self.query_one(Options)
        if options.highlighted is not None:
            self._take(options.get_option_at_index(options.highlighted))

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._take(event.option)

    def _take(self, option: Option) -> None:
        self.dismiss(self._labels[str(option.prompt)])

    def action_move(self, step: int) -> None:
        options = self.query_one(Options)
        if options.option_count:
            options.highlighted = min(max((options.highlighted or 0) + step, 0), options.option_count - 1)
