"""What stands above the messages until the model is in memory: how far it is, or why it failed and what to do."""

from collections.abc import Callable

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import ProgressBar

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui.widgets.line import Line, Notice


class LoadPanel(Vertical):
    def __init__(self, file_name: Callable[[], str]) -> None:
        super().__init__(id="loading")
        self._file_name = file_name
        self._plan = Line("", classes="remedy")
        self._plan.display = False

    def compose(self) -> ComposeResult:
        yield Line(lambda: say(f"Loading {self._file_name()}", f"正在加载 {self._file_name()}"))
        yield self._plan
        yield ProgressBar(total=1.0, show_eta=False)
        yield Line(lambda: say("Esc stops. You can already write.", "Esc 停止。现在就可以开始输入。"), classes="remedy")

    def progress(self, fraction: float, plan: str = "") -> None:
        """How far it is, and the line that tells how it is loaded, once that is known."""
        self.query_one(ProgressBar).update(progress=fraction)
        if plan and not self._plan.display:
            self._plan.change(plan)
            self._plan.display = True

    async def begin(self) -> None:
        await self.query(Notice).remove()
        self.progress(0.0)
        self._plan.display = False
        self.set_class(False, "failed")
        self.display = True

    async def fail(self, error: BqError) -> None:
        """Shows the error in place of the bar."""
        self.set_class(True, "failed")
        keys = Notice("hint", lambda: say("Ctrl+R loads again, Ctrl+Q quits.", "Ctrl+R 重新加载，Ctrl+Q 退出。"))
        await self.mount(Notice.of(error), keys)

    def finish(self) -> None:
        self.display = False
