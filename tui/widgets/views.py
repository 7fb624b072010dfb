"""The two ways to talk to a model, side by side in the app: a conversation, and one instruction at a time.

Both take a question's place on the screen by `begin`, which gives the `Answer` to write into. They know nothing of the
model; what was asked and answered is kept in `bq.tui.conversation`.
"""

from abc import abstractmethod
from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import Button, Static

from bq.runtime.language import say
from bq.tui.conversation import instruction_text
from bq.tui.widgets.answer import Answer
from bq.tui.widgets.line import Line, Notice
from bq.tui.widgets.prompt import Prompt


class Log(VerticalScroll, can_focus=False):
    """Scrolls, follows its end until the user scrolls up, and leaves the keyboard to the box to write in.

    The inner container is at least as high as the screen has room, or Textual's anchor would push a short text down.
    """

    def __init__(self) -> None:
        self.content = Vertical(classes="content")
        super().__init__(self.content)

    async def add(self, widget: Widget) -> None:
        await self.content.mount(widget)

    async def drop(self, selector: str) -> None:
        await self.content.remove_children(selector)


class Question(Vertical):
    """What the user asked, told apart from the answers by its name and its edge."""

    def __init__(self, text: str) -> None:
        super().__init__(Line(lambda: say("You", "你"), classes="role"), Static(text, markup=False))


class View(Vertical):
    """What the app does with either of them. `prompt` is where writing starts."""

    def __init__(self, *, id: str, prompt: Prompt) -> None:
        super().__init__(id=id)
        self.prompt = prompt
        self.log_area = Log()
        self.answer: Answer | None = None  # the last one on the screen

    @abstractmethod
    def question(self) -> str:
        """What is written, for one question; empty if there is nothing to ask."""

    @abstractmethod
    async def begin(self, question: str, name: Callable[[], str]) -> Answer:
        """Makes room for the answer to a new question."""

    async def begin_again(self, name: Callable[[], str]) -> Answer:
        """Puts an empty answer in the place of the last one."""
        await self.log_area.drop("Notice.error")
        if self.answer:
            await self.answer.remove()
        return await self._new_answer(name)

    def give_back(self, question: str) -> None:
        """A question got no answer: its text must not be lost."""

    async def notice(self, notice: Notice) -> None:
        await self.log_area.add(notice)

    async def clear(self) -> None:
        """An empty screen again, but for what is known of the model."""
        self.answer = None
        await self.log_area.drop("Question, Answer, Notice.error")

    async def _new_answer(self, name: Callable[[], str]) -> Answer:
        self.answer = Answer(name)
        await self.log_area.add(self.answer)
        self.log_area.anchor()
        return self.answer


class ChatView(View):
    def __init__(self) -> None:
        super().__init__(id="chat", prompt=Prompt(lambda: say("Message", "消息"), id="message"))

    def compose(self) -> ComposeResult:
        yield self.log_area
        yield self.prompt

    def question(self) -> str:
        return self.prompt.text.strip()

    async def begin(self, question: str, name: Callable[[], str]) -> Answer:
        await self.log_area.add(Question(question))
        self.prompt.clear()
        return await self._new_answer(name)

    def give_back(self, question: str) -> None:
        """Puts the question back, unless something else is being written already."""
        if not self.prompt.text.strip():
            self.prompt.load_text(question)
            self.prompt.move_cursor(self.prompt.document.end)


class InstructView(View):
    """An instruction, the text that it is about, and the result apart. What is written stays, to be used again."""

    def __init__(self) -> None:
        super().__init__(id="instruct", prompt=Prompt(lambda: say("What to do", "要做什么"), id="instruction"))
        self.material = Prompt(
            lambda: say("The text it is about: paste it here", "要处理的文本，粘贴到这里"), id="material"
        )

    def compose(self) -> ComposeResult:
        with Vertical(id="task"):
            yield Line(lambda: say("Instruction", "指令"), classes="role")
            yield self.prompt
            yield Line(lambda: say("Input (optional)", "输入（可选）"), classes="role")
            yield self.material
        with Vertical(id="outcome"):
            with Horizontal(id="outcome-title"):
                yield Line(lambda: say("Result", "结果"), classes="role")
                yield Button(say("Copy", "复制"), id="copy", compact=True, action="app.copy_answer")
            yield self.log_area

    def question(self) -> str:
        instruction = self.prompt.text.strip()
        return instruction_text(instruction, self.material.text) if instruction else ""

    async def begin(self, question: str, name: Callable[[], str]) -> Answer:
        await self.log_area.drop("Answer, Notice.error")
        return await self._new_answer(name)

    async def clear(self) -> None:
        await super().clear()
        self.prompt.clear()
        self.material.clear()
