"""The conversations that are kept: found by any text in them, opened, renamed, exported, deleted and brought back."""

import asyncio
import time
from typing import TYPE_CHECKING

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui.deletions import Deletions
from bq.tui.dialogs.dialog import Dialog
from bq.tui.dialogs.small import Entry
from bq.tui.harmless import clean
from bq.tui.keeper import Keeper
from bq.tui.widgets.boxes import Field
from bq.tui.widgets.line import Line
from bq.tui.widgets.options import Options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bq.tui.store import Listed, Store

    StoreWork = Callable[[Store], None]
    Leave = Callable[[str], Awaitable[bool]]  # take a conversation off the screen, if it is there and can be

_SEARCH_AFTER_SECONDS = 0.12


class ConversationsScreen(Dialog[str | None]):
    """Gives the id of the conversation to open. Writing searches; the arrow keys go through the list."""

    BINDINGS = [
        Binding("escape", "dismiss", "Close", id="dialog.close", priority=True),
        Binding("down", "move(1)", id="list.down", show=False, priority=True),
        Binding("up", "move(-1)", id="list.up", show=False, priority=True),
        Binding("pagedown", "move(10)", id="list.page_down", show=False, priority=True),
        Binding("pageup", "move(-10)", id="list.page_up", show=False, priority=True),
        Binding("f2", "rename", "Rename", id="list.rename", priority=True),
        Binding("f8,ctrl+delete", "delete", "Delete", id="list.delete", priority=True),
        Binding("ctrl+z", "bring_back", "Undo", id="list.undo", priority=True),
        Binding("ctrl+s", "export", "Export", id="list.export", priority=True),
    ]

    def __init__(self, keeper: Keeper, current: str, leave: "Leave", deletions: Deletions, search: str = "") -> None:
        super().__init__()
        self._keeper = keeper
        self._current = current
        self._leave = leave
        self._search = search
        self._deletions = deletions
        self._found: list[Listed] = []
        self._pause: Timer | None = None
        self._hint = Line(self._describe, classes="more")

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog tall"):
            yield Line(lambda: say("Conversations", "对话"), classes="title")
            yield Field(self._search, placeholder=say("Search in all texts…", "搜索全部内容…"))
            options = Options(markup=False)
            options.can_focus = False
            yield options
            yield self._hint

    def on_mount(self) -> None:
        self._look()

    @on(Input.Changed)
    def _typed(self) -> None:
        if self._pause is not None:
            self._pause.stop()
        self._pause = self.set_timer(_SEARCH_AFTER_SECONDS, self._look)

    @work(exclusive=True, group="search")
    async def _look(self) -> None:
        if self.is_gone:
            return
        text = self.query_one(Input).value.strip()
        try:
            self._found = await self._keeper.ask(lambda store: store.listed(text))
        except BqError as error:
            self._hint.change(str(error))
            return
        if self.is_gone:
            return
        options = self.query_one(OptionList)
        marked = self._marked()
        options.set_options(
            Option(describe(one, one.id == self._current, None if text else number), id=one.id)
            for number, one in enumerate(self._found, 1)
        )
        names = [one.id for one in self._found]
        if names:
            options.highlighted = names.index(marked) if marked in names else 0
        self._hint.change(self._describe)

    @on(Input.Submitted)
    def _open(self) -> None:
        if marked := self._marked():
            self.dismiss(marked)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = min(max((options.highlighted or 0) + step, 0), options.option_count - 1)

    @work
    async def action_rename(self) -> None:
        marked = next((one for one in self._found if one.id == self._marked()), None)
        if marked is None:
            return
        title = await self.app.push_screen_wait(Entry(lambda: say("New title", "新标题"), clean(marked.heading)))
        if title:
            await self._change(lambda store: store.rename(marked.id, title))

    async def action_delete(self) -> None:
        marked = self._marked()
        if marked and await self._leave(marked):
            await self._change(lambda store: store.delete(marked), lambda: self._deletions.add(marked))
        elif marked:
            self._hint.change(
                lambda: say(
                    "An answer is being written in this one: Esc, Esc stops it.", "此对话正在回答：连按 Esc 停止。"
                )
            )

    @work
    async def action_export(self) -> None:
        """Write the marked conversation to a file."""
        from bq.tui import by_hand
        from bq.tui.transfer import suggested_name

        marked = self._marked()
        talk = await self._keeper.ask(lambda store: store.load(marked)) if marked else None
        if talk is None:
            return
        title = say("Export to a .md or .json file", "导出为 .md 或 .json 文件")
        name = await self.app.push_screen_wait(Entry(title, suggested_name(talk, ".md")))
        if name:
            try:
                path = await asyncio.to_thread(by_hand.export, talk, name, False)
            except BqError as error:
                self._hint.change(error.cause)  # its remedy is the command's
            else:
                self._hint.change(lambda: say(f"Written: {path}", f"已写入：{path}"))

    async def action_bring_back(self) -> None:
        last = self._deletions.last
        if last is not None:
            await self._change(lambda store: store.restore(last), lambda: self._deletions.forget(last))

    async def _change(self, work: "StoreWork", done: "Callable[[], None]" = lambda: None) -> None:
        try:
            await self._keeper.ask(work)
        except BqError as error:
            self._hint.change(str(error))
        else:
            done()
            self._look()

    def _marked(self) -> str | None:
        options = self.query_one(OptionList)
        if options.highlighted is None or not options.option_count:
            return None
        return options.get_option_at_index(options.highlighted).id

    def _describe(self) -> str:
        keys = say("Enter opens, F2 renames, F8 deletes, Ctrl+S exports", "Enter 打开，F2 重命名，F8 删除，Ctrl+S 导出")
        undo = say(", Ctrl+Z brings back", "，Ctrl+Z 撤销删除") if self._deletions.last else ""
        none = say("Nothing was found. ", "没有找到。") if not self._found else ""
        return none + keys + undo


def describe(listed: "Listed", is_current: bool, number: int | None) -> Content:
    """An entry of the list: its number, which `/open` takes, where all are listed; when, what, how long; below it what was found."""
    modes = {"chat": "", "instruct": say("single  ", "单条  "), "complete": say("text  ", "续写  ")}
    count = say(f"{listed.rounds} rounds", f"{listed.rounds} 轮") if listed.rounds != 1 else say("1 round", "1 轮")
    mark = "● " if is_current else ""
    line = "" if number is None else f"{number:>3}  "
    line += f"{when(listed.changed)}  {modes[listed.mode]}{mark}{clean(listed.heading) or say('(empty)', '（空）')}"
    content = Content.assemble(line, (f"  {count}", "$text-muted"))
    if listed.snippet:
        content = Content.assemble(content, "\n", (f"    {clean(listed.snippet)}", "$text-muted"))
    return content


def when(moment: float) -> str:
    """A time as one reads it in a list: today's by the clock, others by the day."""
    then, now = time.localtime(moment), time.localtime()
    return time.strftime("%H:%M     " if then[:3] == now[:3] else "%Y-%m-%d", then)
