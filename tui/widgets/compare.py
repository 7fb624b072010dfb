"""Two answers to the same question side by side: what they cost, and once both are there, where they differ.

The view knows nothing of the models. Both texts are shown as plain text, whatever stands in them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from textual import events, work
from textual.app import ComposeResult
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from bq.runtime.language import say
from bq.tui.differences import Span, differences, share_in_common
from bq.tui.harmless import clean
from bq.tui.table import gib
from bq.tui.widgets.line import Line, Text

Side = Literal["left", "right"]

_WIDE = 80  # columns: below that the answers stand one above the other (a terminal of 100 leaves the view some 90)
_DIFFERENT = "bold $text-warning on $warning-muted"


@dataclass(frozen=True)
class Figures:
    """What an answer took; what is 0 is not known."""

    tokens_per_second: float
    tokens: int
    memory_bytes: int = 0
    note: Text = ""  # how it ended, where that was not by itself

    def text(self) -> str:
        parts = (
            self.tokens_per_second
            and say(f"{self.tokens_per_second:.1f} tokens/s", f"{self.tokens_per_second:.1f} 词元/秒"),
            self.tokens and say(f"{self.tokens} tokens", f"{self.tokens} 个词元"),
            self.memory_bytes and f"{gib(self.memory_bytes)} GiB",
            self.note if isinstance(self.note, str) else self.note(),
        )
        return "  ".join(part for part in parts if part)


class Column(Vertical):
    """One model's answer."""

    def __init__(self) -> None:
        super().__init__()
        self._heading = Line("", classes="role")
        self._answer = Static(markup=False)
        self._figures = Line("", classes="figures")
        self._scroll = VerticalScroll(self._answer)
        self.text = ""
        self.is_done = False

    def compose(self) -> ComposeResult:
        yield self._heading
        yield self._scroll
        yield self._figures

    def begin(self, name: Text) -> None:
        self.text, self.is_done = "", False
        self._heading.change(name)
        self._figures.change("")
        self._answer.update("")
        self._scroll.anchor()

    def feed(self, text: str) -> None:
        self.text += clean(text)
        self._answer.update(self.text)

    def finish(self, figures: Figures) -> None:
        self.is_done = True
        self._figures.change(figures.text)

    def show(self, content: Content | str) -> None:
        """The same text with what differs made visible, or without."""
        self._answer.update(content)


class CompareView(Vertical):
    DEFAULT_CSS = """
    CompareView > Container { height: 1fr; layout: vertical; }
    CompareView.-wide > Container { layout: horizontal; }
    CompareView Column { width: 1fr; height: 1fr; border: round $foreground 30%; padding: 0 1; }
    CompareView Column > .role { text-style: bold; color: $text-muted; }
    CompareView Column > .figures { color: $text-muted; }
    CompareView VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    CompareView VerticalScroll:focus { background: $boost; }
    CompareView Static { width: 1fr; height: auto; min-height: 100%; }
    CompareView > .verdict { padding: 0 2; color: $text-accent; }
    """

    def __init__(self, *, id: str = "compare") -> None:
        super().__init__(id=id)
        self._columns: dict[Side, Column] = {"left": Column(), "right": Column()}
        self._verdict = Line("", classes="verdict")

    def compose(self) -> ComposeResult:
        with Container():
            yield from self._columns.values()
        yield self._verdict

    def begin(self, side: Side, name: Text) -> None:
        """An answer of this model comes now. After two whole answers it is the first one to another question."""
        if self._is_done:
            self.clear()
        self._columns[side].begin(name)

    def feed(self, side: Side, text: str) -> None:
        """Show more of an answer."""
        self._columns[side].feed(text)

    def finish(
        self, side: Side, tokens_per_second: float, tokens: int, note: Text = "", *, memory_bytes: int = 0
    ) -> None:
        """An answer is over; `note` says how, where that was not by itself. After both are, what differs is shown."""
        self._columns[side].finish(Figures(tokens_per_second, tokens, memory_bytes, note))
        if self._is_done:
            self._compare(self._columns["left"].text, self._columns["right"].text)

    def clear(self) -> None:
        """Two empty columns again."""
        for column in self._columns.values():
            column.begin("")
        self._verdict.change("")

    def text(self, side: Side) -> str:
        return self._columns[side].text

    @property
    def _is_done(self) -> bool:
        return all(column.is_done for column in self._columns.values())

    @work(thread=True, group="compare", exclusive=True)
    def _compare(self, left: str, right: str) -> None:
        self.app.call_later(self._show, left, right, differences(left, right))

    def _show(self, left: str, right: str, spans: Sequence[Span]) -> None:
        """What the comparison found, unless other texts stand there by now."""
        columns = self._columns
        if (columns["left"].text, columns["right"].text) != (left, right) or not self._is_done:
            return
        columns["left"].show(_marked(spans, "left"))
        columns["right"].show(_marked(spans, "right"))
        self._verdict.change(_verdict(spans))

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= _WIDE, "-wide")


def _marked(spans: Sequence[Span], side: Side) -> Content:
    """One side's text, what only it has in another style."""
    mine = [span for span in spans if span.kind in ("same", side)]
    return Content.assemble(*((span.text, "" if span.kind == "same" else _DIFFERENT) for span in mine))


def _verdict(spans: Sequence[Span]) -> Callable[[], str]:
    if all(span.kind == "same" for span in spans):
        return lambda: say("The two answers are the same.", "两个回答完全相同。")
    share = 100 * share_in_common(spans)
    return lambda: say(f"{share:.1f} % of the two answers is the same.", f"两个回答有 {share:.1f} % 相同。")
