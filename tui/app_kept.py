"""What the app keeps: conversations, the open answers and drafts in them, the session, the settings; and how one comes back."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bq.runtime.errors import BqError
from bq.tui import app_answers, notes, settings
from bq.tui.conversation import Conversation
from bq.tui.desk import Desk
from bq.tui.engine import Answering
from bq.tui.widgets.line import Notice

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


async def take_up(app: "ChatApp") -> None:
    """What was said before: the session's conversation, or the one to be resumed, and the earlier questions."""
    if app.session is not None:
        await app.show_path(app.desks["chat"], is_new=True)
    elif app.resume is not None:
        await open_conversation(app, app.resume)
    try:
        app.questions = await app.keeper.ask(lambda store: store.questions())
    except BqError as error:
        await app.tell(error)
    app.remember_questions()


async def open_conversation(app: "ChatApp", id: str) -> None:
    """Bring a kept conversation onto the screen, in its mode."""
    shown_already = next((desk for desk in app.desks.values() if desk.conversation.id == id), None)
    if shown_already is not None:
        await app.show_mode(shown_already.conversation.mode)
        return
    try:
        found = await app.keeper.ask(lambda store: store.load(id))
    except BqError as error:
        await app.tell(error)
        return
    if found is None:
        app.hint(notes.no_conversation)
    else:
        await show_conversation(app, found)


async def show_conversation(app: "ChatApp", conversation: Conversation) -> None:
    """Put a conversation in the place of its mode's, which stays kept."""
    keep_drafts(app)
    app.has_chosen_mode = True
    desk = app.desks[conversation.mode]
    app.is_opening = True
    try:
        desk.take(conversation)
        await app.show_mode(conversation.mode)
        await desk.page.forget_notices()
        if desk.is_text:
            text = conversation.draft or "".join(node.content for node in conversation.path())
            app.text_page.view.load(text)
        else:
            desk.view.show_conversation(conversation)
            await app.show_path(desk, is_new=True)
            desk.view.follow()
    finally:
        app.is_opening = False
    app.count_unsent()


async def renew(app: "ChatApp", desk: Desk) -> None:
    """Begin a new conversation on a desk, with the system prompt of the one before."""
    talk = desk.conversation
    desk.take(Conversation(mode=talk.mode, system=talk.system))
    if desk.has_page:
        await desk.page.forget_notices()
        await desk.page.clear()


def keep_drafts(app: "ChatApp") -> None:
    """What is written and not sent."""
    for desk in [] if app.is_opening else app.desks.values():
        draft = desk.page.draft() if desk.has_page else desk.conversation.draft
        if draft != desk.conversation.draft:
            desk.conversation.draft = draft
            app.keep(desk)


def keep_open_answer(app: "ChatApp", desk: Desk) -> None:
    """What of an answer the app had no time to show."""
    job, talk = desk.job, desk.conversation
    if job is None or job.settled or not talk.is_open:
        return
    text = job.take()
    talk.write(text)
    if desk.is_text:
        view = app.text_page.view
        talk.draft = view.prefix() + text + view.text[len(view.prefix()) :]
    app_answers.end(app, desk, job)


async def keep_in_session(app: "ChatApp", desk: Desk) -> None:
    """Where there is a session: its messages, each time. The KV cache, which may be large, is written at the end alone."""
    session, model = app.session, app.engine.model
    if session is None or model is None or desk.conversation.id != app.session_talk:
        return
    try:
        await asyncio.to_thread(session.keep, model, desk.conversation.transcript(), with_cache=False)
    except BqError as error:
        await desk.page.notice(Notice.of(error))


def keep_session(app: "ChatApp") -> None:
    """Write the session with the KV cache, unless nothing was said. Raises BqError if that fails.

    After Ctrl+N it is what was kept last.
    """
    desk, session, model, job = app.desks["chat"], app.session, app.engine.model, app.engine.job
    talk = desk.conversation
    if session is None or model is None:
        return
    is_its_own = talk.id == app.session_talk and bool(talk.last_answer)
    said = talk.transcript() if is_its_own else session.messages
    was_read = isinstance(job, Answering) and said[: len(job.question.messages)] == job.question.messages
    if said:
        session.keep(model, said, with_cache=was_read)


def change_settings(app: "ChatApp", parameters: Mapping[str, float | None] | None = None, **changes: str) -> None:
    """Keep what was changed, beside what another window may have set. Raises BqError if that fails."""
    kept = settings.load().with_parameters(parameters or {})
    others: dict[str, Any] = {name: one for name, one in changes.items() if name in ("theme", "language", "think")}
    app.settings = replace(kept, **others)
    settings.save(app.settings)
