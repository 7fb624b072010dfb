"""One mode's work in the app: what was said, where it is shown, and the answer that was begun last."""

from collections.abc import Sequence
from dataclasses import dataclass

from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation
from bq.tui.engine import Answering, Unsent
from bq.tui.harmless import clean
from bq.tui.widgets.views import Page, View


@dataclass
class Desk:
    """`unsent` is what is being written, counted."""

    conversation: Conversation
    page: Page
    job: Answering | None = None
    unsent: Unsent | None = None

    @property
    def view(self) -> View:
        """The page of a mode with questions and answers."""
        assert isinstance(self.page, View)
        return self.page

    def take(self, conversation: Conversation) -> None:
        """Another conversation lies here now."""
        self.conversation, self.job, self.unsent = conversation, None, None


def to_send(desk: Desk, is_base: bool) -> Sequence[Message]:
    """What the model would have to read if what is written were sent now; nothing if there is nothing, or it was sent already."""
    if not isinstance(desk.page, View):
        return ()
    question, talk = clean(desk.view.question()), desk.conversation
    if not question or question.startswith("/"):
        return ()
    if talk.mode == "chat":
        return talk.messages_with(question)
    last = talk.current
    was_sent = last is not None and last.question.content == question  # it stays in its box
    return () if was_sent or is_base else Conversation(system=talk.system).messages_with(question)
