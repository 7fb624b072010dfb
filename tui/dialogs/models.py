"""The model picker: which files there are, what each would take of the memory that is free now, and how it would be loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui.dialogs.dialog import Dialog
from bq.tui.dialogs.small import Entry
from bq.tui.model_lines import model_lines
from bq.tui.user_files import file_named
from bq.tui.widgets.line import Line, Text
from bq.tui.widgets.options import Options

if TYPE_CHECKING:
    from bq.tui.engine import Candidate, Engine

_OTHER = "other"


class ModelsScreen(Dialog[Path | None]):
    """Gives the file to load. `paths` are those that bq knows of; any other can be named."""

    BINDINGS = [Binding("escape", "dismiss", "Close", id="dialog.close")]

    def __init__(self, engine: "Engine", paths: Sequence[Path], current: Path | None, title: Text) -> None:
        super().__init__()
        self._engine = engine
        self._paths = paths
        self._current = current.absolute() if current else None  # as the paths are
        self._title = title
        self._say = Line(lambda: say("Enter loads it.", "Enter 加载。"), classes="more")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(self._title, classes="title")
            yield Options(*self._options({}), markup=False)
            yield self._say

    def on_mount(self) -> None:
        self._examine()

    @work(thread=True)
    def _examine(self) -> None:
        try:
            found = self._engine.examine(self._paths)
        except BqError as error:
            self.app.call_later(self._say.change, str(error))
        else:
            self.app.call_later(self._show, {one.path: one for one in found})

    def _show(self, found: "dict[Path, Candidate]") -> None:
        if not self.is_gone:
            options = self.query_one(OptionList)
            marked = options.highlighted
            options.set_options(self._options(found))
            options.highlighted = marked

    def _options(self, found: "dict[Path, Candidate]") -> list[Option]:
        listed = [
            Option(describe(number + 1, path, found.get(path), path == self._current), id=str(number))
            for number, path in enumerate(self._paths)
        ]
        return [*listed, Option(say("Another file…", "其他文件……"), id=_OTHER)]

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        if event.option.id == _OTHER:
            self._name_file()
        elif event.option.id is not None:
            self.dismiss(self._paths[int(event.option.id)])

    @work
    async def _name_file(self) -> None:
        title = say("Path of a GGUF file", "GGUF 文件的路径")
        name = await self.app.push_screen_wait(Entry(title, check=_missing))
        if name:
            self.dismiss(file_named(name))


def _missing(name: str) -> str:
    try:
        file_named(name)
    except BqError as error:
        return str(error)
    return ""


def describe(number: int, path: Path, known: "Candidate | None", is_current: bool) -> Content:
    """A model in some lines, with its number, which `/model` takes, too."""
    lines = [Content.assemble(*parts) for parts in model_lines(number, path, known, is_current)]
    return Content("\n").join(lines)
