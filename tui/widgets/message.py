"""A message on the screen: its text, who said it, and what can be done with it.

An answer is rendered block by block while it is written. The block that is still open is plain text, which costs next to
nothing; the blocks before it are Markdown, once. At the end the whole is rendered anew only where that makes a difference.
Messages take the keyboard only when asked to (Ctrl+Up): a click never takes it from the box to write in.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Literal

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static

from bq.runtime.language import say
from bq.tui.blocks import OpenBlock, fences, same_rendering
from bq.tui.conversation import Node
from bq.tui.harmless import clean
from bq.tui.line_filter import Blank
from bq.tui.shown import Standing
from bq.tui.thinking import ThinkingStream, split_thinking
from bq.tui.widgets.fold import ThinkingFold
from bq.tui.widgets.line import Line
from bq.tui.widgets.long_text import OpenText
from bq.tui.widgets.markdown import AnswerMarkdown

_MOUNT_SECONDS = 5
Wish = Literal["menu", "edit", "fork", "pin", "copy", "code", "before", "after", "side", "fold"]


class Said(Blank, Vertical, can_focus=True):
    FOCUS_ON_CLICK: ClassVar[bool] = False
    BINDINGS = [
        Binding("up,k", "move(-1)", id="message.up", show=False),
        Binding("down,j", "move(1)", id="message.down", show=False),
        Binding("enter", "wish('menu')", "Menu", id="message.menu"),
        Binding("c", "wish('copy')", "Copy", id="message.copy"),
        Binding("b", "wish('code')", "Code", id="message.code"),
        Binding("e", "wish('edit')", "Edit", id="message.edit"),
        Binding("f", "wish('fork')", "Fork", id="message.fork"),
        Binding("p", "wish('pin')", "Pin", id="message.pin"),
        Binding("left,left_square_bracket", "wish('before')", "Version", id="message.before", show=False),
        Binding("right,right_square_bracket", "wish('after')", "Version", id="message.after", show=False),
        Binding("v", "wish('side')", "Versions", id="message.side", show=False),
        Binding("t", "wish('fold')", "Thoughts", id="message.fold", show=False),
        Binding("escape,tab", "leave", "Back", id="message.leave"),
    ]

    @dataclass
    class Wants(Message):
        """Something is to be done with a message."""

        said: "Said"
        wish: Wish

    @dataclass
    class Left(Message):
        """The keyboard goes back to the box to write in."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node
        self.standing = Standing()
        self._role = Line(self._describe, classes="role")

    def stand(self, standing: Standing) -> None:
        """Show how it stands now."""
        if standing != self.standing:
            self.standing = standing
            self.set_class(standing.is_left_out, "left-out")
        self._role.refresh()

    def on_click(self, event: events.Click) -> None:
        if event.widget is self._role:
            event.stop()
            self.post_message(self.Wants(self, "menu"))

    def action_wish(self, wish: Wish) -> None:
        self.post_message(self.Wants(self, wish))

    def action_leave(self) -> None:
        self.post_message(self.Left())

    def action_move(self, step: int) -> None:
        """To the message before or after; after the last one comes the box to write in."""
        around = [one for one in (self.parent.children if self.parent else ()) if isinstance(one, Said)]
        at = around.index(self) + step
        if at >= len(around):
            self.action_leave()
        elif at >= 0:
            around[at].focus()
            around[at].scroll_visible(animate=False)

    def _describe(self) -> str:
        standing = self.standing
        notes = [self._who(), *self._notes()]
        if standing.versions > 1:
            notes.insert(1, f"‹{standing.version}/{standing.versions}›")
        if standing.is_left_out:
            notes.append(say("not sent: no room", "放不下，不发送"))
        return " · ".join(notes)

    def _who(self) -> str:
        raise NotImplementedError

    def _notes(self) -> list[str]:
        return []


class Question(Said):
    """What the user asked, told apart from the answers by its name and its edge."""

    def compose(self) -> ComposeResult:
        yield self._role
        yield Static(clean(self.node.content), markup=False)

    def _who(self) -> str:
        return say("You", "你")

    def _notes(self) -> list[str]:
        return [say("pinned", "已固定")] if self.node.pinned else []


class Answer(Said):
    """The model's name, what it thought, the text, and how it ended when that was not by itself.

    One that is verbatim is shown as the characters that it is made of: JSON is no Markdown.
    """

    def __init__(self, node: Node, is_verbatim: bool = False) -> None:
        super().__init__(node)
        self._is_verbatim = is_verbatim
        self._markdown = AnswerMarkdown()
        self._tail = OpenText(classes="tail")
        self._mark = Line(lambda: "", classes="mark")
        self._fold: ThinkingFold | None = None
        self._thinking = ThinkingStream()
        self._open = OpenBlock()
        self._parts: list[str] = []
        self._copied = -1
        self._mounted = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield self._role
        yield self._markdown
        yield self._tail
        yield self._mark

    def on_mount(self) -> None:
        self._tail.display = self._mark.display = False
        self._mounted.set()

    async def ready(self) -> None:
        """Wait until text can be shown in it: its parts are mounted after itself."""
        with suppress(asyncio.TimeoutError):  # taken away before it was there
            await asyncio.wait_for(self._mounted.wait(), _MOUNT_SECONDS)

    async def feed(self, text: str) -> None:
        """Show more of the text."""
        await self._take(*self._thinking.add(text))
        self._show_tail()

    async def finish(self, mark: Callable[[], str] | None = None) -> None:
        """Show what is left as Markdown, and the mark."""
        await self._take(*self._thinking.take())
        if self._fold:
            self._fold.end()
        if self._is_verbatim:
            self._show_tail()
        else:
            await self._render_whole()
        self.mark(mark)
        self._role.refresh()

    async def _render_whole(self) -> None:
        rest = self._open.take()
        whole = "".join(self._parts) + rest
        is_same = await asyncio.to_thread(same_rendering, [*self._parts, rest], whole)
        with self.app.batch_update():  # at no time are both on the screen, or neither
            await (self._markdown.add_blocks(rest) if is_same else self._markdown.update(whole))
            self._show_tail()
        self._parts = [whole]

    def mark(self, mark: Callable[[], str] | None) -> None:
        """Say below the text how it ended; None says nothing."""
        self._mark.change(mark or (lambda: ""))
        self._mark.display = mark is not None

    async def replace(self, text: str) -> None:
        """Show this text instead."""
        thought, said = split_thinking(text)
        self._thinking = ThinkingStream()
        self._open.take()
        if thought:
            await self._think(thought)
        if self._is_verbatim:
            self._open.text = said
        else:
            self._parts = [said]
            await self._markdown.update(said)
        self._show_tail()

    async def reopen(self) -> None:
        """Show the text as it stands, as what more text will be added to."""
        text = self.node.content
        self._parts = []
        self._open.take()
        self.mark(None)
        await self._markdown.update("")
        self._thinking = ThinkingStream()
        if self._fold:
            await self._fold.remove()
            self._fold = None
        await self.feed(text)

    def codes(self) -> list[str]:
        """The blocks of code in the text."""
        return fences(split_thinking(self.node.content)[1])

    def next_code(self, count: int) -> int:
        """The number of the block that is copied next, of so many."""
        self._copied = (self._copied + 1) % count
        return self._copied

    def toggle_thinking(self) -> None:
        if self._fold:
            self._fold.toggle()

    async def _take(self, thought: str, said: str) -> None:
        if thought:
            await self._think(thought)
        if said and self._fold:
            self._fold.end()
        if self._is_verbatim:
            self._open.text += said  # one block, which is never closed
            return
        closed = self._open.add(said) if said else ""
        if closed:
            self._parts.append(closed)
            await self._markdown.add_blocks(closed)

    async def _think(self, text: str) -> None:
        if self._fold is None:
            self._fold = ThinkingFold()
            await self.mount(self._fold, after=self._role)
        self._fold.add(text)

    def _show_tail(self) -> None:
        """The open block as plain text."""
        shown = self._open.text.strip("\n")
        self._tail.show(shown)
        self._tail.display = bool(shown.strip())

    def _who(self) -> str:
        return clean(self.node.model) or say("Answer", "回答")

    def _notes(self) -> list[str]:
        node = self.node
        if not node.tokens or not node.seconds:
            return []
        speed = f"{node.tokens / node.seconds:.1f}"
        return [say(f"{node.tokens} tokens, {speed} tok/s", f"{node.tokens} 词元，{speed} 词元/秒")]
