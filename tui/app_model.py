"""From a file to a model that answers: loaded, followed, and what is to be said of it. One that fails gives way to the last."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui import app_answers, notes
from bq.tui.chosen_model import remember_model
from bq.tui.conversation import Mode
from bq.tui.engine import Loading
from bq.tui.harmless import clean
from bq.tui.widgets.line import Notice

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


def load(app: "ChatApp", path: Path) -> None:
    """Have a model loaded in the place of the one before; the session comes with the first."""
    app.path = path
    loading = Loading(path, app.session if not app.engine.was_loaded else None)
    app.start(loading)
    app.run_worker(_follow(app, loading), group="follow")


async def _follow(app: "ChatApp", loading: Loading) -> None:
    panel = app.chat_screen.load_panel
    await panel.begin()
    while not loading.done:
        await asyncio.sleep(app_answers.LOOK_EVERY_SECONDS)
        panel.progress(loading.progress, loading.plan)
        app.show_status()
    back = app.loaded_path if loading.path != app.loaded_path else None
    if loading.error is None:
        panel.finish()
        await _loaded(app, loading)
    elif back is not None:
        panel.finish()
        await app.tell(loading.error)
    else:
        await panel.fail(loading.error)
    app.settle(loading)
    app.count_unsent()
    if loading.error is not None and back is not None:
        load(app, back)


async def _loaded(app: "ChatApp", loading: Loading) -> None:
    """What the user should know of this file before the first question, and what it took."""
    is_switched = app.loaded_path not in (None, loading.path)
    app.loaded_path = loading.path
    if is_switched:
        await _note_switch(app)
    if loading.path != app.first_path:
        await asyncio.to_thread(remember_model, loading.path)
    if not app.has_chosen_mode and app.engine.model:
        await _follow_variant(app, app.engine.model.info.variant)
    for mode, desk in app.desks.items():
        if desk.has_page:
            await desk.page.forget_model()
            await tell_of_model(app, mode)
    if not app.desk.conversation.nodes:
        await app.desk.page.notice_of_model(Notice("hint", notes.welcome(app.desk_mode), loading.fit))


async def _note_switch(app: "ChatApp") -> None:
    """From here on another model answers: what the one before took is no figure of its, and the conversations say so."""
    info = app.engine.model.info if app.engine.model else None
    name = clean(f"{info.name} {info.mixture}").strip() if info else ""
    for desk in app.desks.values():
        desk.job = None
        if desk.has_page and not desk.is_text and desk.conversation.path():
            await desk.page.notice(Notice("hint", lambda: say(f"From here on: {name}", f"此后由 {name} 回答")))
            desk.view.follow()


async def tell_of_model(app: "ChatApp", mode: Mode) -> None:
    """What is wrong with the file, or to be known of it, on the page of this mode."""
    page, model = app.desks[mode].page, app.engine.model
    for warning in model.warnings if model else ():
        await page.notice_of_model(Notice("warning", warning))
    if mode == "chat" and app.is_base:
        await page.notice_of_model(Notice("warning", notes.base_cause, notes.base_remedy))
    if mode == "chat" and app.session and app.session.note:
        await page.notice_of_model(Notice("hint", app.session.note))


async def _follow_variant(app: "ChatApp", variant: str) -> None:
    """The mode for which the file was made, unless something was begun already."""
    fits: Mode = "complete" if variant == "base" else "instruct" if variant == "instruct" else "chat"
    begun = any(desk.conversation.nodes for desk in app.desks.values())
    if not begun and not app.desk.page.draft():
        await app.show_mode(fits)
