"""The box to write in: it grows with the text, Enter sends, Ctrl+J or Shift+Enter breaks the line.

It never empties itself: whoever takes the text clears it, so that nothing is lost when sending is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from bq.tui.harmless import clean


class Prompt(TextArea):
    # Enter has priority, or TextArea would take it for a line break before bindings are asked.
    BINDINGS = [
        Binding("enter", "send", "Send", id="prompt.send", priority=True, show=False),
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", id="prompt.newline", priority=True, show=False),
        Binding("pageup", "app.scroll(-1)", "Scroll up", id="prompt.page_up", show=False),
        Binding("pagedown", "app.scroll(1)", "Scroll down", id="prompt.page_down", show=False),
    ]

    @dataclass
    class Submitted(Message):
        prompt: "Prompt"

    def __init__(self, hint: Callable[[], str], *, id: str) -> None:
        super().__init__(id=id, soft_wrap=True, show_line_numbers=False, highlight_cursor_line=False)
        self._hint = hint

    def on_mount(self) -> None:
        self.show_hint()

    def show_hint(self) -> None:
        self.placeholder = self._hint()

    def action_send(self) -> None:
        self.post_message(self.Submitted(self))

    def action_newline(self) -> None:
        self.insert("\n")

    def on_paste(self, event: events.Paste) -> None:
        """What is pasted may come from anywhere: its control characters stay out. TextArea inserts it after this."""
        event.text = clean(event.text)
