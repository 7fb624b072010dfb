"""The one message that was sent before the model was ready: it stands above the box until its turn comes, and can be had back."""

from dataclasses import dataclass

from bq.runtime.language import say
from bq.tui.harmless import clean
from bq.tui.widgets.line import Line

_BRIEF_CHARACTERS = 60


@dataclass(frozen=True)
class Held:
    """A question, and what stood in the box for it."""

    question: str
    raw: str


class WaitingLine(Line):
    DEFAULT_CSS = "WaitingLine { color: $text-accent; padding: 0 1; display: none; }"

    def __init__(self) -> None:
        super().__init__(self._describe)
        self.message: Held | None = None

    def hold(self, message: Held | None) -> None:
        """Show a message, or none any more."""
        self.message = message
        self.display = message is not None
        self.refresh(layout=True)

    def release(self) -> Held | None:
        """Give the message away."""
        message = self.message
        self.hold(None)
        return message

    def _describe(self) -> str:
        if self.message is None:
            return ""
        text = " ".join(clean(self.message.question).split())
        brief = text if len(text) <= _BRIEF_CHARACTERS else text[: _BRIEF_CHARACTERS - 1] + "…"
        return say("Waiting to be sent (Esc or Up takes it back): ", "等待发送（Esc 或 ↑ 取回）：") + brief
