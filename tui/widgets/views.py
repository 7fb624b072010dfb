"""The ways to talk to a model, one at a time on the screen: a conversation, and one instruction at a time.

A view is told what stands in the conversation by `sync`, which mounts what is new and takes away what is gone, and gives
the widget of the open answer to write into. It knows nothing of the model, the engine or the store.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.widget import Widget

from bq.runtime.language import say
from bq.tui.answer_form import AnswerForm
from bq.tui.conversation import Conversation, Node
from bq.tui.notes import end_of
from bq.tui.shown import Shown
from bq.tui.widgets.message import Answer, Question, Said
from bq.tui.widgets.page import Earlier, Log, Page
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.suggestions import Candidates, Suggestions
from bq.tui.widgets.waiting import Held, WaitingLine

SHOWN_MESSAGES = 24  # of a conversation that is opened; the earlier ones come when asked for
_MOST_MESSAGES = 120  # on the screen; above that the earliest go, so that a long talk stays quick


class View(Page):
    """The two that are made of questions and answers. `prompt` is where writing starts."""

    def __init__(self, *, id: str, prompt: Prompt) -> None:
        super().__init__(id=id)
        self.prompt = prompt
        self.prompt.take_back = self.take_back
        self.log_area = Log()
        self.waiting = WaitingLine()
        self._first = 0  # message of the path that is shown
        self._path: Sequence[Shown] = ()
        self._mounting = asyncio.Lock()

    @property
    def focus_target(self) -> Widget:
        return self.prompt

    @property
    def answer(self) -> Answer | None:
        """The last one on the screen."""
        answers = list(self.log_area.content.query_children(Answer))
        return answers[-1] if answers else None

    @abstractmethod
    def question(self) -> str:
        """What is written, for one question; empty if there is nothing to ask."""

    @abstractmethod
    def show_draft(self, text: str) -> None:
        """Put a text back into the box, unless something else is being written already."""

    @abstractmethod
    def hold(self, message: Held) -> None:
        """Keep a message until it can be sent."""

    @abstractmethod
    def take_back(self) -> bool:
        """Put the message that waits back into the box; False if none does."""

    @property
    def form(self) -> AnswerForm | None:
        """What an answer has to look like."""
        return None

    async def sync(self, path: Sequence[Shown], is_new: bool = False) -> Answer | None:
        """Show this path, of a conversation not shown before if `is_new`; gives the open answer's widget, if there is one."""
        self._path = path
        if is_new:
            await self.ready()
            await self.log_area.drop("Said")
            await self.forget_notices()
        if is_new or len(path) < self._first:
            self._first = max(0, len(path) - SHOWN_MESSAGES)
        if len(path) - self._first > _MOST_MESSAGES:
            self._first = len(path) - _MOST_MESSAGES // 2
        await self._mount_missing()
        return self._opened()

    async def show_earlier(self) -> bool:
        """Show more messages above; False if there are none."""
        if not self._first:
            return False
        self.log_area.release_anchor()
        height = self.log_area.content.size.height
        self._first = max(0, self._first - SHOWN_MESSAGES)
        await self._mount_missing()
        self.call_after_refresh(self._keep_place, height)
        return True

    def restand(self, path: Sequence[Shown]) -> None:
        """Show how the messages stand now."""
        self._path = path
        standings = {shown.node.id: shown.standing for shown in path}
        for said in self.log_area.content.query_children(Said):
            if said.node.id in standings:
                said.stand(standings[said.node.id])

    def scroll_pages(self, pages: int) -> None:
        (self.log_area.scroll_page_up if pages < 0 else self.log_area.scroll_page_down)(animate=False)
        if pages < 0 and self.log_area.scroll_y <= 0:
            self.call_later(self.show_earlier)

    def insert_text(self, text: str) -> None:
        self.prompt.put(text)

    def follow(self) -> None:
        """Go to the end and stay there while it grows."""
        self.log_area.anchor()

    @property
    def notices(self) -> Widget:
        return self.log_area.content

    def show_conversation(self, conversation: Conversation) -> None:
        """Put what is written in this conversation into the boxes."""

    async def clear(self) -> None:
        await self.sync((), is_new=True)

    def _keep_place(self, height_before: int) -> None:
        grown = self.log_area.content.size.height - height_before
        self.log_area.scroll_to(y=self.log_area.scroll_y + grown, animate=False)

    async def _mount_missing(self) -> None:
        """Have exactly the messages from the first shown one on, in order; those that are there already stay."""
        await self.ready()
        async with self._mounting:
            await self._mount_wanted(self._path[self._first :])

    async def _mount_wanted(self, wanted: Sequence[Shown]) -> None:
        names = {shown.node.id for shown in wanted}
        content = self.log_area.content
        gone: list[Widget] = [one for one in content.query_children(Said) if one.node.id not in names]
        gone += content.query_children("Notice.error, Earlier")
        with self.app.batch_update():
            await content.remove_children(gone)
            there = {said.node.id: said for said in content.query_children(Said)}
            last: Widget | None = None
            for shown in wanted:
                said = there.get(shown.node.id) or await self._mount(shown, last)
                said.stand(shown.standing)
                last = said
            if self._first:
                await content.mount(Earlier(self._describe_earlier), before=0)

    async def _mount(self, shown: Shown, last: Widget | None) -> Said:
        said = self._widget(shown.node)
        content = self.log_area.content
        there = list(content.query_children(Said))
        if not there or last is there[-1]:
            await content.mount(said)  # below what was said of the one before
        elif last is not None:
            await content.mount(said, after=last)
        else:
            await content.mount(said, before=there[0])
        if isinstance(said, Answer):
            await said.ready()
        if isinstance(said, Answer) and said.node.content and said.node.stop:
            await said.replace(said.node.content)
            said.mark(end_of(said.node))
        return said

    def _widget(self, node: Node) -> Said:
        return Question(node) if node.role == "user" else Answer(node)

    def _opened(self) -> Answer | None:
        return next((one for one in self.log_area.content.query_children(Answer) if not one.node.stop), None)

    def _describe_earlier(self) -> str:
        return say(
            f"▲ {self._first} earlier messages: click, or Page Up at the top",
            f"▲ 更早的 {self._first} 条消息：点击，或在顶部按 Page Up",
        )


def _chat_hint() -> str:
    return say("Message, or / for commands", "消息，输入 / 查看命令")


class ChatView(View):
    """`candidates` gives the arguments of commands that only the app knows."""

    def __init__(self, candidates: Candidates) -> None:
        self.suggestions = Suggestions(candidates)
        prompt = Prompt(_chat_hint, id="message", suggestions=self.suggestions, is_emptied=True)
        super().__init__(id="chat", prompt=prompt)

    def compose(self) -> ComposeResult:
        yield self.log_area
        yield self.waiting
        yield self.suggestions
        yield self.prompt

    def question(self) -> str:
        return self.prompt.full_text.strip()

    def draft(self) -> str:
        """With the message that waits, which is not said yet."""
        waiting, written = self.waiting.message, self.prompt.draft
        return "\n".join(one for one in (waiting.question if waiting else "", written) if one)

    def hold(self, message: Held) -> None:
        self.waiting.hold(message)

    def take_back(self) -> bool:
        message = self.waiting.release()
        if message is not None:
            self.prompt.write("\n".join(one for one in (message.raw, self.prompt.text) if one))
        return message is not None

    async def clear(self) -> None:
        await super().clear()
        self.waiting.hold(None)
        self.prompt.clear()

    def show_draft(self, text: str) -> None:
        if not self.prompt.text.strip():
            self.prompt.write(text)

    def show_conversation(self, conversation: Conversation) -> None:
        self.waiting.hold(None)
        self.prompt.write(conversation.draft)
