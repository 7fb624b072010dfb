"""The single-instruction mode: a task, the text that it is about, and the result apart."""

import json
from collections.abc import Sequence

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Button

from bq.runtime.language import say
from bq.tui.answer_form import AnswerForm
from bq.tui.conversation import Conversation, Node, instruction_text
from bq.tui.shown import Shown
from bq.tui.widgets.line import Line
from bq.tui.widgets.message import Answer, Said
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.suggestions import Candidates, Suggestions
from bq.tui.widgets.views import View
from bq.tui.widgets.waiting import Held

_WIDE = 100  # columns: from there on the result stands beside the task


class InstructView(View):
    """An instruction, the text that it is about, and the result apart. What is written stays, to be used again."""

    def __init__(self, candidates: Candidates) -> None:
        self.suggestions = Suggestions(candidates)
        prompt = Prompt(_hint, id="instruction", suggestions=self.suggestions)
        super().__init__(id="instruct", prompt=prompt)
        self.material = Prompt(
            lambda: say(
                "The text it is about: paste it here, or F6 for a file",
                "要处理的文本：粘贴到这里，或按 F6 选文件",
            ),
            id="material",
        )
        self._form: AnswerForm | None = None
        self._formed: set[str] = set()  # the answers that had to have a form
        self._form_line = Line(self._describe_form, classes="form")
        self._form_line.display = False

    def compose(self) -> ComposeResult:
        with Vertical(id="task"):
            with Horizontal(classes="bar"):
                yield Line(lambda: say("Instruction", "指令"), classes="role")
                yield self._button("templates")
                yield self._button("form")
            yield self.suggestions
            yield self.prompt
            with Horizontal(classes="bar"):
                yield Line(lambda: say("Input (optional)", "输入（可选）"), classes="role")
                yield self._button("input_file")
            yield self.material
            yield self._form_line
        with Vertical(id="outcome"):
            with Horizontal(classes="bar"):
                yield Line(lambda: say("Result", "结果"), classes="role")
                yield self._button("copy_answer")
                yield self._button("save_result")
            yield self.log_area
            yield self.waiting

    @staticmethod
    def _button(action: str) -> Button:
        button = Button(_labels()[action], id=action.replace("_", "-"), compact=True, action=f"app.{action}")
        button.can_focus = False
        return button

    def retell(self) -> None:
        for action, label in _labels().items():
            button = self.query_one(f"#{action.replace('_', '-')}", Button)
            button.label = label
            button.refresh(layout=True)

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= _WIDE, "-wide")

    @property
    def form(self) -> AnswerForm | None:
        return self._form

    @form.setter
    def form(self, form: AnswerForm | None) -> None:
        self._form = form
        self._form_line.display = form is not None
        self._form_line.refresh()

    def question(self) -> str:
        instruction = self.prompt.full_text.strip()
        if instruction.startswith("//"):
            from bq.tui.slash import message_text

            instruction = message_text(instruction)
        return instruction_text(instruction, self.material.full_text) if instruction else ""

    def draft(self) -> str:
        return instruction_text(self.prompt.draft.strip(), self.material.full_text)

    def restand(self, path: Sequence[Shown]) -> None:
        super().restand([shown for shown in path if shown.node.role == "assistant"])

    def show_draft(self, text: str) -> None:
        """It was never taken away, unless a command took its place."""
        if not self.draft().strip():
            self._write(text)

    def hold(self, message: Held) -> None:
        """It stays in its boxes, too."""
        self.waiting.hold(message)

    def take_back(self) -> bool:
        message = self.waiting.release()
        if message is not None:
            self.show_draft(message.question)
        return message is not None

    def show_conversation(self, conversation: Conversation) -> None:
        self.waiting.hold(None)
        last = conversation.current
        self._write(conversation.draft or (last.question.content if last else ""))

    def _write(self, text: str) -> None:
        """The instruction is what stands before the first empty line."""
        instruction, _, material = text.partition("\n\n")
        self.prompt.write(instruction)
        self.material.write(material)

    async def clear(self) -> None:
        await super().clear()
        self.waiting.hold(None)
        self.prompt.clear()
        self.material.clear()

    async def sync(self, path: Sequence[Shown], is_new: bool = False) -> Answer | None:
        """The question stands in its boxes: only the answer is shown."""
        return await super().sync([shown for shown in path if shown.node.role == "assistant"], is_new)

    def _widget(self, node: Node) -> Said:
        if self._form is not None and not node.stop:
            self._formed.add(node.id)
        return Answer(node, is_verbatim=node.id in self._formed or _is_json(node.content))

    def _describe_form(self) -> str:
        form = self._form
        if form is None:
            return ""
        kind = {
            "choices": say("one of", "选项之一"),
            "json_schema": say("JSON by the schema", "符合模式的 JSON"),
            "grammar": say("by the grammar", "符合语法"),
        }[form.kind]
        brief = " ".join(form.text.split())
        return say("Output: ", "输出：") + f"{kind} {brief[:80]}{'…' if len(brief) > 80 else ''}"


def _hint() -> str:
    return say("What to do, or / for commands", "要做什么，输入 / 查看命令")


def _is_json(text: str) -> bool:
    """Whether it was written by a form, of an answer from another day."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _labels() -> dict[str, str]:
    """The buttons' texts, by the app's action."""
    return {
        "templates": say("Templates", "模板"),
        "form": say("Output", "输出格式"),
        "input_file": say("File", "文件"),
        "copy_answer": say("Copy", "复制"),
        "save_result": say("Save", "保存"),
    }
