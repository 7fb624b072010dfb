"""One mode's work in the app: what was said, where it is shown, and the answer that was begun last."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation
from bq.tui.engine import Answering, Unsent
from bq.tui.harmless import clean
from bq.tui.widgets.page import Page
from bq.tui.widgets.views import View


@dataclass
class Desk:
    """`unsent` is what is being written, counted. The page is made when it is asked for: most people use one mode."""

    conversation: Conversation
    make_page: Callable[[], Page]
    job: Answering | None = None
    unsent: Unsent | None = None
    sent: str = ""  # as it stood in the box, to be given back if nothing comes of it

    @cached_property
    def page(self) -> Page:
        """Where it is shown."""
        return self.make_page()

    @property
    def has_page(self) -> bool:
        """Whether it was shown already."""
        return "page" in vars(self) and self.page.is_attached

    @property
    def is_text(self) -> bool:
        """Whether this is the text mode, whose page has no questions and answers."""
        return self.conversation.mode == "complete"

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
    if desk.is_text:
        return ()
    question, talk = clean(desk.view.question()), desk.conversation
    if not question or desk.view.prompt.text.lstrip().startswith("/"):
        return ()
    if talk.mode == "chat":
        return talk.messages_with(question)
    last = talk.current
    was_sent = last is not None and last.question.content == question  # it stays in its box
    return () if was_sent or is_base else Conversation(system=talk.system).messages_with(question)
