"""The help: every key of the app and what it does, as it is bound now."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen

from bq.runtime.language import say
from bq.tui.widgets.line import Line

Entry = tuple[str, str]  # key, what it does


class HelpScreen(ModalScreen[None]):
    BINDINGS = [Binding("escape,f1,q", "dismiss", "Close", id="help.close", show=False)]

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._entries = entries

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Line(lambda: say("Keys", "按键"), classes="title")
            for key, text in self._entries:
                with Horizontal(classes="key"):
                    yield Line(key, classes="key-name")
                    yield Line(text, classes="key-text")
            yield Line(_more, classes="more")

    def on_click(self) -> None:
        self.dismiss()


def _more() -> str:
    return say(
        "Select text with the mouse and copy it with Ctrl+C. A click on a link copies its address; no link opens.\n"
        "Single instruction: Tab goes from the instruction to the input. Each run is on its own.\n"
        "Esc closes this help.",
        "用鼠标选中文本，按 Ctrl+C 复制。点击链接会复制其地址，不会打开任何链接。\n"
        "单条指令：Tab 从指令框切到输入框。每次运行互不相关。\n"
        "Esc 关闭帮助。",
    )
