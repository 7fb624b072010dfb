"""Two answers side by side: two versions of one, or what two models say to the same question, one after the other in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.tui import app_answers, app_sampling, notes
from bq.tui.conversation import Node
from bq.tui.dialogs.dialog import Dialog
from bq.tui.engine import Answering, Loading, Question
from bq.tui.harmless import clean
from bq.tui.widgets.compare import CompareView, Side
from bq.tui.widgets.line import Line, Text

if TYPE_CHECKING:
    from bq.tui.app import ChatApp

_SEED = 1  # the same for both, where none was chosen


class VersionsScreen(Dialog[None]):
    """Two versions of a message and their difference."""

    BINDINGS = [Binding("escape,v,q", "dismiss", "Close", id="dialog.close")]

    def __init__(self, left: Node, right: Node, numbers: tuple[int, int]) -> None:
        super().__init__()
        self._versions: dict[Side, tuple[int, Node]] = {"left": (numbers[0], left), "right": (numbers[1], right)}

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall wide"):
            yield CompareView()

    def on_mount(self) -> None:
        if self.is_gone:
            return
        view = self.query_one(CompareView)
        for side, (number, node) in self._versions.items():
            view.begin(side, _version_name(number, node))
            view.feed(side, node.content)
            view.finish(side, node.tokens / node.seconds if node.seconds else 0.0, node.tokens)


def _version_name(number: int, node: Node) -> Text:
    return lambda: say(f"Version {number}", f"版本 {number}") + (f" · {clean(node.model)}" if node.model else "")


class CompareScreen(Dialog[None]):
    """The model in use answers, then the other one; then the first is loaded again. Esc stops and closes at any stage."""

    BINDINGS = [Binding("escape", "leave", "Close", id="dialog.close", priority=True)]

    asks_the_model = True

    def __init__(self, app: "ChatApp", asked: tuple[Message, ...], other: Path) -> None:
        super().__init__()
        self._chat = app
        self._asked = asked
        self._other = other
        self._first = app.path
        self._is_left = False
        self._is_going_back = False  # to the first model: this alone is not stopped
        self._error: BqError | None = None  # the first thing that went wrong
        self._state = Line("", classes="more")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall wide"):
            yield Line(self._asked[-1].content.replace("\n", " ")[:200], classes="title")
            yield CompareView()
            yield self._state

    def on_mount(self) -> None:
        if not self.is_gone:
            self._compare()

    def action_leave(self) -> None:
        """What runs is stopped; the screen goes when the first model is there again."""
        if self._chat.engine.busy:
            self._is_left = True
            if not self._is_going_back:
                self._chat.engine.stop()
        else:
            self.dismiss(None)

    @work
    async def _compare(self) -> None:
        await self._answer("left")
        if not self._is_left and await self._load(self._other):
            await self._answer("right")
        if self._chat.engine.model is None or self._chat.engine.model.path != self._first:
            self._is_going_back = True
            await self._load(self._first)
        if self._is_left:
            self.dismiss(None)
        self._state.change(str(self._error) if self._error else lambda: say("Esc closes.", "Esc 关闭。"))

    async def _load(self, path: Path) -> bool:
        """Load a model; False if that failed or was stopped, saying so."""
        loading = Loading(path)
        self._chat.start(loading)
        await self._watch(loading, lambda: self._say_loading(path, loading))
        self._chat.settle(loading)
        self._error = self._error or loading.error
        return loading.error is None

    def _say_loading(self, path: Path, loading: Loading) -> None:
        name, percent = clean(path.name), int(100 * loading.progress)
        self._state.change(lambda: say(f"Loading {name} {percent}%", f"正在加载 {name} {percent}%"))

    async def _answer(self, side: Side) -> None:
        view, engine = self.query_one(CompareView), self._chat.engine
        model = engine.model
        if model is None:
            return
        name = f"{clean(model.info.name)} {model.info.mixture}"
        job = Answering(self._question())
        view.begin(side, name)
        self._chat.start(job)
        self._state.change(lambda: say(f"{name} answers …", f"{name} 正在回答……"))
        await self._watch(job, lambda: view.feed(side, job.take()))
        self._chat.settle(job)
        stats = job.stats
        speed, tokens = (stats.tokens_per_second, stats.tokens) if stats else (0.0, 0)
        view.finish(side, speed, tokens, self._end_note(job), memory_bytes=model.info.size_bytes)
        self._error = self._error or job.error

    @staticmethod
    def _end_note(job: Answering) -> str:
        texts = {"cancel": notes.stopped, "length": notes.cut_off, "error": notes.broken_off}
        return texts[job.stop]() if job.stop in texts else ""

    def _question(self) -> Question:
        sampling = app_sampling.sampling(self._chat) or app_sampling.default_sampling(self._chat)
        if sampling is not None and sampling.seed is None:
            sampling = replace(sampling, seed=_SEED)
        return Question(
            messages=self._asked, sampling=sampling, max_tokens=app_sampling.max_tokens(self._chat), force=True
        )

    @staticmethod
    async def _watch(job: Answering | Loading, look: Callable[[], None]) -> None:
        done = False
        while not done:
            await asyncio.sleep(app_answers.LOOK_EVERY_SECONDS)
            done = job.done
            look()
