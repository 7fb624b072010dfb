"""The chat app with a fake model, in English, without the clipboard of the machine that runs the tests."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

from bq.runtime import language
from tests.support.undrawn import undrawn

from .fake import Fake, LoadOptions
from .session import Session, make_app

Start = Callable[..., AbstractAsyncContextManager[Session]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    fake = Fake()
    module = ModuleType("bq.runtime.loading")
    module.load, module.LoadOptions = fake.load, LoadOptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bq.runtime.loading", module)
    monkeypatch.setattr("bq.tui.remote.start_worker", fake.start_worker)
    monkeypatch.setattr("bq.tui.candidates.examine", fake.examine)
    monkeypatch.setattr("bq.tui.app.copy_natively", lambda text: fake.copied.append(text))
    monkeypatch.setattr("bq.tui.app_answers.LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(language, "_current", "en")
    yield fake
    fake.release()


@pytest.fixture
def start(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Start:
    """`async with start(mode="instruct") as session`: the app is up and, unless the fake holds it, the model loaded.

    It draws when a test looks, unless it is `drawn` all the time, which takes a quarter longer: for a terminal that is not there.
    """

    @asynccontextmanager
    async def run(
        size: tuple[int, int] = (90, 30), load: bool = True, drawn: bool = False, **options: Any
    ) -> AsyncIterator[Session]:
        if not drawn:
            undrawn(monkeypatch)
        app = make_app(**options)
        async with app.run_test(size=size) as pilot:
            session = Session(app, pilot, fake)
            await pilot.pause()
            if load:
                await session.ready()
            try:
                yield session
            finally:
                fake.release()

    return run


@pytest.fixture
def looks_right(snap_compare: Any, fake: Fake) -> Callable[..., bool]:
    """Compares the app after some steps with its snapshot; cursors stand still and no time is shown."""

    def compare(steps: Callable[[Session], Awaitable[None]], size: tuple[int, int] = (80, 32), **options: Any) -> bool:
        app = make_app(**options)
        for desk in app.desks.values():
            desk.page.focus_target.cursor_blink = False

        async def run_before(pilot: Any) -> None:
            session = Session(app, pilot, fake)
            await session.ready()
            await steps(session)
            for box in app.screen.query("Input"):
                box.cursor_blink = False
            await pilot.pause()

        return bool(snap_compare(app, run_before=run_before, terminal_size=size))

    return compare
