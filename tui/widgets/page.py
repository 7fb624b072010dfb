"""What every way of working has on the screen: a page, with what is said of the model, and a log that scrolls."""

import asyncio
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass

from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widget import Widget

from bq.tui.line_filter import Bare
from bq.tui.widgets.line import Line, Notice

_MOUNT_SECONDS = 5


class Content(Bare, Vertical):
    """What a log scrolls."""


class Log(Bare, VerticalScroll, can_focus=False):
    """Scrolls, follows its end until the user scrolls up, and leaves the keyboard to the box to write in.

    The inner container is at least as high as the screen has room, or Textual's anchor would push a short text down.
    """

    def __init__(self) -> None:
        self.content = Content(classes="content")
        super().__init__(self.content)

    async def drop(self, selector: str) -> None:
        await self.content.remove_children(selector)


class Earlier(Line):
    """Stands above the messages that are shown when there are more: a click shows them."""

    @dataclass
    class Wanted(Message):
        pass

    def on_click(self) -> None:
        self.post_message(self.Wanted())


class Page(Bare, Vertical):
    """What the app does with any way of working. `focus_target` is where writing starts."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._mounted = asyncio.Event()

    def on_mount(self) -> None:
        self._mounted.set()

    async def ready(self) -> None:
        """Wait until its parts are there: it may have been brought onto the screen just now."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._mounted.wait(), _MOUNT_SECONDS)

    @property
    @abstractmethod
    def focus_target(self) -> Widget: ...

    @property
    @abstractmethod
    def notices(self) -> Widget:
        """Where notices stand."""

    @abstractmethod
    async def clear(self) -> None:
        """An empty page again, but for what is known of the model."""

    @abstractmethod
    def draft(self) -> str:
        """What is written and not sent."""

    @abstractmethod
    def insert_text(self, text: str) -> None:
        """Write a text at the cursor."""

    def retell(self) -> None:
        """The language has changed: what is not asked for at every drawing is told anew."""

    async def notice(self, notice: Notice) -> None:
        """Say something about the model or an answer."""
        await self.ready()
        await self.notices.mount(notice)

    async def notice_of_model(self, notice: Notice) -> None:
        """Say something that holds until another model is loaded."""
        notice.add_class("of-model")
        await self.notice(notice)

    async def forget_notices(self) -> None:
        """Take away what was said of another conversation: all but what holds for the model."""
        await self.ready()
        said = [one for one in self.notices.query_children(Notice) if not one.has_class("of-model")]
        await self.notices.remove_children(said)

    async def forget_model(self) -> None:
        """Take away what was said of the model before."""
        await self.ready()
        await self.notices.remove_children(".of-model")

    @abstractmethod
    def scroll_pages(self, pages: int) -> None: ...
