"""A running chat app in a test: what a user does, and what stands on the screen."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from bq.tui.app import ChatApp
from bq.tui.opening import Opening
from bq.tui.widgets.message import Answer
from bq.tui.widgets.prompt import Prompt
from tests.support.undrawn import drawn, still

from .fake import Fake, LoadOptions

PATIENCE_SECONDS = 60.0  # a machine may be busy with other things


def make_app(**options: Any) -> ChatApp:
    app = ChatApp(Opening(Path("/models/baichuan.gguf"), LoadOptions(), **options))  # type: ignore[arg-type]
    still(app)
    return app


class Session:
    def __init__(self, app: ChatApp, pilot: Pilot[None], fake: Fake) -> None:
        self.app, self.pilot, self.fake = app, pilot, fake

    @property
    def prompt(self) -> Prompt:
        return self.app.desk.view.prompt

    @property
    def answer(self) -> Answer:
        answer = self.app.desk.view.answer
        assert answer is not None
        return answer

    async def press(self, *keys: str) -> None:
        """Presses keys; what they changed on the screen is laid out afterwards."""
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Waits for something to become true, or fails with the screen as it is."""
        end = time.monotonic() + seconds
        while True:
            begun = time.thread_time()
            if condition():
                break
            assert time.monotonic() < end, f"waited in vain; the screen is:\n{self.text()}"
            # To look at the screen is to draw it: most of the time is left to what is waited for.
            await asyncio.sleep(max(0.01, 5 * (time.thread_time() - begun)))
        await self.pilot.pause()

    async def ready(self) -> None:
        await self.until(lambda: not self.app.engine.busy and "follow" not in self._at_work())

    async def ask(self, text: str) -> None:
        """Writes a question, sends it and waits for the end of the answer."""
        await self.send(text)
        await self.ready()

    async def send(self, text: str) -> None:
        self.prompt.load_text(text)
        await self.press("enter")

    def text(self) -> str:
        return drawn(self.app)

    def shows(self, *texts: str) -> bool:
        drawn = self.text()
        return all(text in drawn for text in texts)

    def _at_work(self) -> set[str]:
        return {worker.group for worker in self.app.workers if not worker.is_finished}
