"""The box to write in: it grows with the text, Enter sends, Ctrl+J or Shift+Enter breaks the line.

A long text that is pasted becomes a note in it, and is whole again in `full_text`. Up on the first line brings earlier
questions back. A box of a conversation is empty once Enter is pressed, so that what is typed next is another text; whoever
refuses what was sent gives it back.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets.text_area import EditResult

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.widgets.boxes import Box
from bq.tui.widgets.suggestions import Suggestions

_LONG_PASTE_CHARACTERS, _LONG_PASTE_LINES = 2000, 20


class Prompt(Box):
    BINDINGS = [
        Binding("enter", "send", "Send", id="prompt.send", show=False),
        Binding("tab", "complete", "Complete", id="prompt.complete", show=False),
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", id="prompt.newline", show=False),
        Binding("pageup", "app.scroll(-1)", "Scroll up", id="prompt.page_up", show=False),
        Binding("pagedown", "app.scroll(1)", "Scroll down", id="prompt.page_down", show=False),
    ]

    @dataclass
    class Submitted(Message):
        """`text` is whole, `raw` is as it stood in the box when it was sent: other things may stand there by now."""

        prompt: "Prompt"
        text: str
        raw: str

    def __init__(
        self, hint: Callable[[], str], *, id: str, suggestions: Suggestions | None = None, is_emptied: bool = False
    ) -> None:
        super().__init__(id=id, soft_wrap=True, show_line_numbers=False, highlight_cursor_line=False)
        self._hint = hint
        self._suggestions = suggestions
        self._is_emptied = is_emptied
        self._looked_at = ""  # the text that the suggestions are for
        self.take_back: Callable[[], bool] = lambda: False  # brings a message back that waits to be sent
        self._pasted: dict[str, str] = {}  # what stands for a long text, and the text
        self._earlier: Sequence[str] = ()
        self._at = -1  # in `_earlier`; -1 is what is being written
        self._unsent = ""

    def on_mount(self) -> None:
        self.show_hint()

    def show_hint(self) -> None:
        self.placeholder = self._hint()

    @property
    def full_text(self) -> str:
        """What is written, with what was pasted in the place of its notes."""
        if not self._pasted:
            return self.text
        notes = re.compile("|".join(map(re.escape, self._pasted)))
        return notes.sub(lambda found: self._pasted[found[0]], self.text)

    @property
    def draft(self) -> str:
        """What is being written, also while an earlier question stands in its place."""
        return self._unsent if self._at >= 0 else self.full_text

    def remember(self, questions: Sequence[str]) -> None:
        """Earlier questions, the newest first."""
        if self._at < 0:
            self._earlier = questions

    def write(self, text: str) -> None:
        """Put a text in the place of what is written, and the cursor at its end."""
        self._at, self._unsent = -1, ""
        self.load_text(text)
        self.move_cursor(self.document.end)

    def clear(self) -> EditResult:
        self._at, self._unsent = -1, ""
        return super().clear()

    def on_text_area_changed(self) -> None:
        if self._at >= 0 and self.text != clean(self._earlier[self._at]):
            self._at = -1  # it was changed: it is what is being written now
        self._look()

    def _look(self) -> None:
        """Have the suggestions fit the text: of keys in a burst, the message that it has changed comes late."""
        if self._suggestions and self._looked_at != self.text:
            self._looked_at = self.text
            self._suggestions.look(self.text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Tab goes to the next box where there is nothing to complete."""
        return action != "complete" or bool(self._marked)

    @property
    def _marked(self) -> str | None:
        self._look()
        return self._suggestions.marked if self._suggestions else None

    def action_complete(self) -> None:
        if line := self._marked:
            self.write(line + " ")

    def give_back(self, raw: str) -> None:
        """What was sent is not wanted: it stands before what was written since."""
        if self._is_emptied:
            self.write(raw + self.text)

    def take(self, raw: str) -> None:
        """Take away what was sent, if it did not go by itself; what was written since stays."""
        if self._is_emptied:
            return
        rest = self.text[len(raw) :] if self.text.startswith(raw) else ""
        self.clear()
        self.insert(rest)

    def action_send(self) -> None:
        line = self._marked
        if line and " " not in self.text.strip() and line.split()[0] != self.text.strip():
            self.write(line + " ")  # half a command: it is completed first, and sent by the next Enter
        else:
            self._submit()

    def _submit(self) -> None:
        sent = self.Submitted(self, self.full_text, self.text)
        if self._is_emptied and sent.text.strip():
            self.clear()
        self.post_message(sent)

    def action_newline(self) -> None:
        start, end = self.selection
        self._replace_via_keyboard("\n", start, end)  # undone by itself, as what Enter inserts elsewhere

    def action_cursor_up(self, select: bool = False) -> None:
        if self._suggestions and self._marked:
            self._suggestions.move(-1)
        elif select or self._row() > 0 or not (self.take_back() or self._recall(1)):
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self._suggestions and self._marked:
            self._suggestions.move(1)
        elif select or self._row() < self.wrapped_document.height - 1 or not self._recall(-1):
            super().action_cursor_down(select)

    def on_paste(self, event: events.Paste) -> None:
        """What is pasted may come from anywhere: its control characters stay out. TextArea inserts it after this."""
        event.text = self._brief(clean(event.text))

    def put(self, text: str) -> None:
        """Write a text at the cursor, a long one as a note."""
        self.insert(self._brief(text))

    def _brief(self, text: str) -> str:
        """The text, or the note that stands for a long one."""
        lines = text.count("\n") + 1
        if len(text) <= _LONG_PASTE_CHARACTERS and lines <= _LONG_PASTE_LINES:
            return text
        number = len(self._pasted) + 1
        note = say(
            f"[pasted {number}: {len(text)} characters, {lines} lines]",
            f"[粘贴 {number}：{len(text)} 字符，{lines} 行]",
        )
        self._pasted[note] = text
        return note

    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y

    def _recall(self, step: int) -> bool:
        """Show an earlier question, or a later one; False if there is none that way."""
        at = self._at + step
        if not -1 <= at < len(self._earlier):
            return False
        unsent = self.text if self._at == -1 else self._unsent
        self.write(unsent if at == -1 else clean(self._earlier[at]))
        self._at, self._unsent = at, unsent
        return True
