"""Complete mode: one text that the model goes on writing from the cursor, and what else it might have written.

The view knows nothing of the model. It says by `GoOn` that the user wants more text; whoever has the model reads
`prefix()`, calls `begin`, then `feed` with the tokens as they come, and `finish` in the end, however it ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import TextArea

from bq.runtime.language import say
from bq.tui.completion import Token
from bq.tui.widgets.alternatives import Alternatives
from bq.tui.widgets.completion_editor import CompletionEditor
from bq.tui.widgets.line import Line, Text

if TYPE_CHECKING:
    from bq.runtime.generation import Step

_ALT_DIGITS = (
    "inverted_exclamation_mark",
    "trade_mark_sign",
    "pound_sign",
    "cent_sign",
    "infinity",
    "section_sign",
    "pilcrow_sign",
    "bullet",
    "ª",
)
_WIDE = 100  # columns: from there on the alternatives stand beside the text


class CompleteView(Vertical):
    # Alt with a digit comes as a printable character, which TextArea would insert before bindings are asked: from most
    # terminals as the character that a Mac's keyboard has there (textual/_ansi_sequences.py).
    BINDINGS = [
        Binding("ctrl+g", "go_on", "Go on", id="complete.go"),
        Binding("alt+left", "jump(False)", "Token before", id="complete.left", show=False),
        Binding("alt+right", "jump(True)", "Token after", id="complete.right", show=False),
        *(
            Binding(f"alt+{rank},{key}", f"take({rank})", "Take", id=f"complete.take_{rank}", show=False, priority=True)
            for rank, key in enumerate(_ALT_DIGITS, 1)
        ),
    ]
    DEFAULT_CSS = """
    CompleteView CompletionEditor { height: 1fr; }
    CompleteView Alternatives { height: 8; }
    CompleteView .mark { color: $text-warning; text-style: italic; padding: 0 1; }
    CompleteView #writing { height: 1fr; }
    CompleteView.-wide { layout: horizontal; }
    CompleteView.-wide #writing { width: 1fr; }
    CompleteView.-wide Alternatives { width: 40; height: 1fr; }
    """

    @dataclass
    class GoOn(Message):
        """The model is to go on from `view.prefix()`."""

        view: "CompleteView"

    def __init__(self, *, id: str = "complete") -> None:
        super().__init__(id=id)
        self.editor = CompletionEditor(_what_to_write)
        self._alternatives = Alternatives()
        self._mark = Line("", classes="mark")
        self._token: Token | None = None  # the one whose alternatives are shown

    def compose(self) -> ComposeResult:
        with Vertical(id="writing"):
            yield self.editor
            yield self._mark
        yield self._alternatives

    def on_mount(self) -> None:
        self._mark.display = False

    @property
    def text(self) -> str:
        return self.editor.completion.text

    @property
    def is_running(self) -> bool:
        """Whether the model writes."""
        return self.editor.completion.is_running

    def prefix(self) -> str:
        """What the model is to go on from: the text up to the cursor, and what it wrote already."""
        return self.editor.completion.prefix() if self.is_running else self.text[: self.editor.cursor]

    def load(self, text: str) -> None:
        """Show another text in place of all that there is; an answer under way has no place any more."""
        self.editor.load(text)
        self._say(None)
        self._show_token(None)
        self.refresh_bindings()

    def clear(self) -> None:
        self.load("")

    def begin(self) -> None:
        """The model writes at the cursor from now on; the user reads until `finish`."""
        self._say(None)
        self.editor.begin()
        self.refresh_bindings()

    async def feed(self, steps: "Sequence[Step]") -> None:
        """Show what has come; nothing, if another text was loaded since `begin`."""
        if self.is_running and (text := self.editor.completion.feed(steps)):
            self.editor.extend(text)

    def finish(self, mark: Text | None = None) -> None:
        """The text is the user's again; `mark` says how the model ended, where that was not by itself."""
        if self.is_running:
            self.editor.end(self.editor.completion.finish())
            self._say(mark)
            self.refresh_bindings()

    def action_go_on(self) -> None:
        self.post_message(self.GoOn(self))

    def action_take(self, rank: int) -> None:
        change = self.editor.completion.taking(self._token, rank) if self._token else None
        if change is not None:
            self.editor.make(change)
            self.post_message(self.GoOn(self))

    def action_jump(self, forward: bool) -> None:
        completion, cursor = self.editor.completion, self.editor.cursor
        token = (completion.next if forward else completion.previous)(cursor, self._token)
        if token is not None:
            self.editor.show_offset(token.start)
            self._show_token(token)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While the model writes, the keys that would have it write elsewhere are grey."""
        if action == "take" and self._token is None:
            return False  # the character is meant
        return None if self.is_running and action in ("go_on", "take") else True

    @on(Alternatives.Taken)
    def _taken(self, event: Alternatives.Taken) -> None:
        event.stop()
        if not self.is_running:
            self.action_take(event.rank)
            self.editor.focus()

    @on(TextArea.Changed)
    @on(TextArea.SelectionChanged)
    def _look(self) -> None:
        """Shows the token at the cursor; of those in one place the one that was jumped to."""
        completion, cursor = self.editor.completion, self.editor.cursor
        was_jumped_to = self._token is not None and self._token.start == cursor
        if not was_jumped_to or completion.index(self._token) is None:
            self._show_token(completion.at(cursor))

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= _WIDE, "-wide")

    def _show_token(self, token: Token | None) -> None:
        self._token = token
        self._alternatives.show(token)

    def _say(self, mark: Text | None) -> None:
        self._mark.change(mark or "")
        self._mark.display = mark is not None


def _what_to_write() -> str:
    return say(
        "Write the beginning of a text. Ctrl+G has the model go on from the cursor.",
        "写下一段文本的开头，按 Ctrl+G 让模型从光标处续写。",
    )
