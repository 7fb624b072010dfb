"""The box of a text that a model goes on writing: what the model wrote looks different, undo takes it back as one step.

The text is kept twice, in the widget's document and in the `Completion`; every change goes through both. A row is drawn
from its own part of the line: Textual's way cuts the whole line anew for each row, which takes a third of a second for
one of 20,000 characters.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from rich.text import Text
from textual.document._edit import Edit
from textual.document._history import EditHistory
from textual.expand_tabs import expand_text_tabs_from_widths
from textual.geometry import Offset
from textual.strip import Strip
from textual.widgets import TextArea
from textual.widgets.text_area import EditResult, Location, Selection

from bq.tui.completion import Change, Completion, plain
from bq.tui.harmless import clean
from bq.tui.widgets.boxes import Box


class CompletionEditor(Box):
    COMPONENT_CLASSES = {"completion-editor--generated"}
    DEFAULT_CSS = """
    CompletionEditor { border: round $foreground 30%; background: $background; }
    CompletionEditor:focus { border: round $border; }
    CompletionEditor .completion-editor--generated { color: $text-accent; }
    """

    def __init__(self, hint: Callable[[], str]) -> None:
        super().__init__(soft_wrap=True, highlight_cursor_line=False)
        self.completion = Completion()
        self._hint = hint
        self._kept_history = self.history
        self._kept_selection = self.selection
        self._is_scroll_held = False
        self._runs: dict[int, list[tuple[int, int]]] | None = None  # row -> columns that the model wrote

    def on_mount(self) -> None:
        self.show_hint()

    def show_hint(self) -> None:
        """Say again, in the language of the moment, what belongs here."""
        self.placeholder = self._hint()

    # Offsets

    def offset_at(self, location: Location) -> int:
        """How many characters stand before a place of the document."""
        row, column = location
        return sum(map(len, self.document.lines[:row])) + row + column

    def location_at(self, offset: int) -> Location:
        starts = self._starts()
        row = bisect_right(starts, offset) - 1
        return row, offset - starts[row]

    @property
    def cursor(self) -> int:
        return self.offset_at(self.cursor_location)

    def show_offset(self, offset: int) -> None:
        """Put the cursor there."""
        self.move_cursor(self.location_at(offset))

    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line) + 1 for line in self.document.lines[:-1])]

    # Changes

    def load(self, text: str) -> None:
        """Another text in place of all that there is, without a way back; the cursor is at its end."""
        text = plain(clean(text))
        self.end(None)
        self.completion = Completion(text)
        self.load_text(text)
        self.move_cursor(self.document.end)

    def edit(self, edit: Edit) -> EditResult:
        """As TextArea's, which all that is typed, pasted and deleted goes through: controls stay out, tokens move.

        While the model writes, nothing happens.
        """
        if self.completion.is_running:
            return EditResult(self.cursor_location, "")
        change = self.completion.replacing(
            self.offset_at(edit.top), self.offset_at(edit.bottom), plain(clean(edit.text))
        )
        return super().edit(_Tracked(self.completion, change, edit.top, edit.bottom, edit.maintain_selection_offset))

    def make(self, change: Change) -> None:
        """Make a change of the completion, as one step for undo; the cursor goes to its end."""
        top, bottom = self.location_at(change.start), self.location_at(change.start + len(change.removed))
        self.history.checkpoint()
        super().edit(_Tracked(self.completion, change, top, bottom))
        self.history.checkpoint()

    def begin(self) -> None:
        """The model writes at the cursor from now on, and nobody else anywhere."""
        self.completion.begin(self.cursor)
        self._kept_history, self.history = self.history, _no_history()
        self._kept_selection = self.selection
        self.read_only = True

    def extend(self, text: str) -> None:
        """Show what the model wrote at the completion's point. A cursor or a view that the user moved away stays there."""
        at = self.location_at(self.completion.point - len(text))
        height, (_, row) = self.content_size.height, self._cursor_offset
        is_followed = height == 0 or 0 <= row - self.scroll_offset.y < height
        self._is_scroll_held = True  # TextArea would scroll before it knows that the text has grown
        super().edit(_Streamed(text, at, at, maintain_selection_offset=True))
        self._is_scroll_held = False
        if is_followed:
            self.scroll_cursor_visible()
        else:
            self._cursor_offset = self.wrapped_document.location_to_offset(self.cursor_location)
        self.app.cursor_position = self.cursor_screen_offset

    def end(self, change: Change | None) -> None:
        """The text is the user's again, and what the model wrote is one step for undo."""
        if not self.read_only:
            return
        self.history = self._kept_history
        if change is not None:
            self._record(change)
        self.read_only = False

    def _record(self, change: Change) -> None:
        at = self.location_at(change.start)
        edit = _Tracked(self.completion, change, at, at)
        edit._edit_result = EditResult(self.location_at(change.start + len(change.inserted)), "")
        edit._original_selection = self._kept_selection
        self.history.checkpoint()
        self.history.record(edit)
        self.history.checkpoint()

    # Drawing

    def _build_highlight_map(self) -> None:
        """TextArea calls this after each change."""
        super()._build_highlight_map()
        self._runs = None

    def scroll_cursor_visible(self, center: bool = False, animate: bool = False) -> Offset:
        return Offset(0, 0) if self._is_scroll_held else super().scroll_cursor_visible(center, animate)

    def _render_line(self, y: int) -> Strip:
        rows = self.wrapped_document._offset_to_line_info
        at = y + self.scroll_offset.y
        if at >= len(rows):
            return Strip.blank(self.size.width, self.rich_style)
        text = self._section(*rows[at])
        strip = Strip(text.render(self.app.console), text.cell_len)
        width = self.scrollable_content_region.size.width
        return strip.extend_cell_length(width, self.rich_style).apply_style(self.rich_style)

    def _section(self, row: int, section: int) -> Text:
        """What stands on one row of the screen."""
        line = self.document.get_line(row)
        ends = [*self.wrapped_document.get_offsets(row), len(line)]
        start, end = ends[section - 1] if section else 0, ends[section]
        is_last = section == len(ends) - 1
        text = Text(line[start:end] + " " * is_last, end="", no_wrap=True)  # the cursor may stand behind the last one
        generated = self.get_component_rich_style("completion-editor--generated", partial=True)
        for first, last in self._runs_of(row):
            if first < end and last > start:
                text.stylize(generated, max(first - start, 0), min(last, end) - start)
        self._stylize_selection(text, row, start, end)
        cursor_row, cursor_column = self.cursor_location
        if self._draw_cursor and cursor_row == row and start <= cursor_column < end + is_last:
            style = self.get_component_rich_style("text-area--cursor")
            text.stylize(style, cursor_column - start, cursor_column - start + 1)
        return self._with_tabs(text, row, line[:start].count("\t"))

    def _stylize_selection(self, text: Text, row: int, start: int, end: int) -> None:
        (top, first), (bottom, last) = sorted(self.selection)
        if (top, first) == (bottom, last) or not top <= row <= bottom:
            return
        first = first if row == top else 0
        last = last if row == bottom else len(self.document.get_line(row)) + 1
        if first < end + 1 and last > start:
            style = self.get_component_rich_style("text-area--selection")
            text.stylize(style, max(first - start, 0), last - start)

    def _with_tabs(self, text: Text, row: int, tabs_before: int) -> Text:
        widths = self.wrapped_document.get_tab_widths(row)
        within = text.plain.count("\t")
        return expand_text_tabs_from_widths(text, widths[tabs_before : tabs_before + within])

    def _runs_of(self, row: int) -> list[tuple[int, int]]:
        if self._runs is None:
            self._runs = self._columns_by_row()
        return self._runs.get(row, [])

    def _columns_by_row(self) -> dict[int, list[tuple[int, int]]]:
        found: dict[int, list[tuple[int, int]]] = {}
        starts = self._starts()
        for start, end in self.completion.runs():
            for row in range(bisect_right(starts, start) - 1, bisect_right(starts, end - 1)):
                found.setdefault(row, []).append((max(start - starts[row], 0), end - starts[row]))
        return found


class _Tracked(Edit):
    """A change of the document that the completion makes, too, as often as it is undone and done again."""

    def __init__(
        self, completion: Completion, change: Change, top: Location, bottom: Location, keeps_selection: bool = False
    ) -> None:
        super().__init__(change.inserted, top, bottom, keeps_selection)
        self._completion, self._change = completion, change

    def do(self, text_area: TextArea, record_selection: bool = True) -> EditResult:
        result = super().do(text_area, record_selection)
        self._completion.apply(self._change)
        return result

    def undo(self, text_area: TextArea) -> EditResult:
        result = super().undo(text_area)
        self._completion.revert(self._change)
        return result


class _Streamed(Edit):
    """What the model wrote: the cursor moves along if it was there or behind (Textual's own also moves one before)."""

    def do(self, text_area: TextArea, record_selection: bool = True) -> EditResult:
        kept = text_area.selection
        result = super().do(text_area, record_selection)
        self._updated_selection = Selection(*(self._moved(place, result.end_location) for place in kept))
        return result

    def _moved(self, place: Location, end: Location) -> Location:
        """Where a place is after the text was inserted, which now ends at `end`."""
        (row, column), (top, first), (bottom, last) = place, self.top, end
        if place < self.top:
            return place
        return (row + bottom - top, column + (last - first) * (row == top))


def _no_history() -> EditHistory:
    return EditHistory(max_checkpoints=0, checkpoint_timer=0.0, checkpoint_max_characters=0)
