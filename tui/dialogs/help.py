"""The help: every key and what it does, as it is bound now, by the place where it holds; then the commands."""

from collections.abc import Iterable

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll

from bq.runtime.language import say
from bq.tui.dialogs.dialog import Dialog, shown_keys
from bq.tui.keys import Entry, places, texts
from bq.tui.slash import commands
from bq.tui.widgets.line import Line

_ALWAYS = {"complete.take_1": "alt+1"}  # not among those that can have another key


class HelpScreen(Dialog[None]):
    BINDINGS = [Binding("escape,q", "dismiss", "Close", id="help.close", show=False)]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog", id="help"):
            for place, heading in places().items():
                yield Line(heading, classes="title")
                yield from self._rows(self._entries(place))
            yield Line(lambda: say("Commands", "命令"), classes="title")
            yield from self._rows((one.usage, one.does) for one in commands("app"))
            yield Line(_more, classes="more")

    def _entries(self, place: str) -> Iterable[Entry]:
        for id, text in texts().items():
            if id.startswith(f"{place}."):
                yield _ALWAYS.get(id) or shown_keys(self.app, id), text

    def action_help(self) -> None:
        """The key that opened it closes it."""
        self.dismiss(None)

    @staticmethod
    def _rows(entries: Iterable[Entry]) -> ComposeResult:
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
        "Colours: F5, or /theme NAME. high-contrast-dark and high-contrast-light stand out most; with NO_COLOR set there are none.\n"
        "Other keys: F5, Keys. Everything is kept as you write, on this computer alone. Esc closes this help.",
        "用鼠标选中文本，按 Ctrl+C 复制；点击代码块即复制。点击链接会复制其地址，不会打开任何链接。点击消息上方的名称可查看可用操作。\n"
        "单条指令：Tab 从指令框切到输入框。每次运行互不相关。\n"
        "配色：F5，或 /theme 名称。high-contrast-dark 与 high-contrast-light 对比度最高；设置 NO_COLOR 则不用颜色。\n"
        "更换按键：F5 中的“按键”。所有内容随时自动保存，且只保存在本机。Esc 关闭帮助。",
    )
