"""The help: every key of the app and what it does, as it is bound now."""

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll

from bq.runtime.language import say
from bq.tui.dialogs.dialog import Dialog
from bq.tui.keys import Entry
from bq.tui.slash import commands
from bq.tui.widgets.line import Line


class HelpScreen(Dialog[None]):
    BINDINGS = [Binding("escape,f1,q", "dismiss", "Close", id="help.close", show=False)]

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._entries = entries

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog", id="help"):
            yield Line(lambda: say("Keys", "按键"), classes="title")
            yield from self._rows(self._entries)
            yield Line(lambda: say("Commands", "命令"), classes="title")
            yield from self._rows([(one.usage, one.does) for one in commands("app")])
            yield Line(_more, classes="more")

    @staticmethod
    def _rows(entries: Sequence[Entry]) -> ComposeResult:
        for key, text in entries:
            with Horizontal(classes="key"):
                yield Line(key, classes="key-name")
                yield Line(text, classes="key-text")

    def on_click(self) -> None:
        self.dismiss()


def _more() -> str:
    return say(
        "Select text with the mouse and copy it with Ctrl+C; a click on a block of code copies it. A click on a link copies its "
        "address; no link opens. A click on a name above a message shows what can be done with it.\n"
        "Single instruction: Tab goes from the instruction to the input. Each run is on its own.\n"
        "Everything is kept as you write, on this computer alone. Esc closes this help.",
        "用鼠标选中文本，按 Ctrl+C 复制；点击代码块即复制。点击链接会复制其地址，不会打开任何链接。点击消息上方的名称可查看可用操作。\n"
        "单条指令：Tab 从指令框切到输入框。每次运行互不相关。\n"
        "所有内容随时自动保存，且只保存在本机。Esc 关闭帮助。",
    )
