"""What a model might have written instead of a token, the likeliest first, to choose from."""

from dataclasses import dataclass

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from bq.runtime.language import say
from bq.tui.completion import Choice, Token
from bq.tui.study import piece_text
from bq.tui.table import width
from bq.tui.widgets.line import Line
from bq.tui.widgets.options import Options

_PIECE_CELLS = 16
_BAR_CELLS = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


class Alternatives(Vertical):
    DEFAULT_CSS = """
    Alternatives { padding: 0 1; }
    Alternatives > .role { text-style: bold; color: $text-muted; }
    Alternatives > .remedy { color: $text-muted; }
    Alternatives OptionList { height: 1fr; border: none; padding: 0; background: $background; }
    """

    @dataclass
    class Taken(Message):
        """The user wants this alternative, counted from 1."""

        rank: int

    def __init__(self) -> None:
        super().__init__()
        self._token: Token | None = None
        self._list = Options(compact=True)
        self._heading = Line(self._title, classes="role")
        self._hint = Line(_nothing_here, classes="remedy")

    def compose(self) -> ComposeResult:
        yield self._heading
        yield self._list
        yield self._hint

    def on_mount(self) -> None:
        self._list.display = False

    def show(self, token: Token | None) -> None:
        if token is self._token:
            return
        self._token = token
        self._heading.refresh()
        self._list.clear_options()
        if token is not None:
            self._list.add_options([self._option(token, rank) for rank in range(1, len(token.alternatives) + 1)])
        self._list.display = token is not None and bool(token.alternatives)
        self._hint.display = not self._list.display

    def _title(self) -> str:
        title = say("Alternatives", "候选词元")
        chosen = self._token.chosen if self._token else None
        return f"{title}  {piece_text(chosen.piece)} {_percent(chosen)}" if chosen else title

    def _option(self, token: Token, rank: int) -> Option:
        choice = token.alternatives[rank - 1]
        is_chosen = token.chosen is not None and choice.piece == token.chosen.piece
        return Option(_row(rank, choice, is_chosen), disabled=choice.text is None)

    @on(OptionList.OptionSelected)
    def _take(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Taken(event.option_index + 1))


def _row(rank: int, choice: Choice, is_chosen: bool) -> Content:
    style = "bold $text-success" if is_chosen else ""
    return Content.assemble(
        (f"{rank:>2} {_fitted(piece_text(choice.piece))} ", style),
        (_bar(choice.probability), "$text-accent"),
        (f"{_percent(choice):>8}", style),
    )


def _fitted(text: str) -> str:
    """The text in just so many cells."""
    if width(text) > _PIECE_CELLS:
        while width(text) >= _PIECE_CELLS:
            text = text[:-1]
        text += "…"
    return text + " " * (_PIECE_CELLS - width(text))


def _bar(fraction: float) -> str:
    eighths = round(8 * _BAR_CELLS * min(max(fraction, 0.0), 1.0))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).ljust(_BAR_CELLS)[:_BAR_CELLS]


def _percent(choice: Choice) -> str:
    return f"{100 * choice.probability:.1f} %"


def _nothing_here() -> str:
    return say(
        "Put the cursor on a token that the model wrote: here is what else it thought of.",
        "把光标移到模型写出的词元上，这里会显示其他候选。",
    )
