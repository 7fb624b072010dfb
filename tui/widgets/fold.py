"""What a model thought before it spoke: one line that opens and closes, so that the answer is what one sees."""

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical

from bq.runtime.language import say
from bq.tui.widgets.line import Line
from bq.tui.widgets.long_text import OpenText


class ThinkingFold(Vertical):
    """Grows by `add`; a click on its line, or `toggle`, shows the text or hides it."""

    DEFAULT_CSS = """
    ThinkingFold { height: auto; color: $text-muted; margin: 0 0 1 0; }
    ThinkingFold OpenText { padding: 0 2; display: none; }
    ThinkingFold.open OpenText { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._text = ""
        self._done = False
        self._line = Line(self._describe, classes="fold")
        self._body = OpenText()

    def compose(self) -> ComposeResult:
        yield self._line
        yield self._body

    def add(self, text: str) -> None:
        self._text += text
        self._line.refresh()
        if self.has_class("open"):
            self._body.show(self._text.strip("\n"))

    def end(self) -> None:
        """What was thought is whole."""
        self._done = True
        self._line.refresh()

    def toggle(self) -> None:
        self.toggle_class("open")
        self._body.show(self._text.strip("\n"))
        self._line.refresh()

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.toggle()

    def _describe(self) -> str:
        mark = "▾" if self.has_class("open") else "▸"
        count = len(self._text)
        if self._done:
            return f"{mark} " + say(f"Thought ({count} characters)", f"思考过程（{count} 字符）")
        return f"{mark} " + say(f"Thinking … ({count} characters)", f"正在思考……（{count} 字符）")
