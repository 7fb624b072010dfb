"""From a question to its answer on the screen: asked, followed while it is written, ended, kept all the while."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from bq.runtime.errors import Cancelled
from bq.tui import app_counts, app_kept, app_sampling, notes
from bq.tui.conversation import Conversation, Node
from bq.tui.desk import Desk
from bq.tui.engine import Answering, Question
from bq.tui.harmless import clean
from bq.tui.widgets.line import Notice
from bq.tui.widgets.message import Answer
from bq.tui.widgets.prompt import Prompt
from bq.tui.widgets.waiting import Held

if TYPE_CHECKING:
    from bq.tui.app import ChatApp
    from bq.tui.widgets.complete_page import CompletePage

LOOK_EVERY_SECONDS = 1 / 12
KEEP_EVERY_SECONDS = 0.6  # of an answer that is being written
_SLOWER = 6  # while someone writes: what is typed comes first
ALTERNATIVES = 8  # per token, in the text mode


async def send(app: "ChatApp", desk: Desk, event: Prompt.Submitted) -> None:
    """What was written: a command is done, all else put to the model, or held until there is one that is free."""
    is_chat, prompt = desk.conversation.mode == "chat", desk.view.prompt
    text, raw = (event.text, event.raw) if event.prompt is prompt else (prompt.full_text, prompt.text)
    line = clean(text.strip())
    if line.startswith("/") and await _is_command(app, desk, line, raw):
        return
    question = _as_sent(line) if is_chat else clean(desk.view.question())
    if not question:
        return
    if app.engine.busy:
        _hold(app, desk, Held(question, raw))
    elif app.refuse():
        prompt.give_back(raw)
    else:
        _put(app, desk, Held(question, raw))


async def _is_command(app: "ChatApp", desk: Desk, line: str, raw: str) -> bool:
    """Runs a line that is a command."""
    from bq.tui.app_commands import run_command

    return await run_command(app, desk, line, raw)


def _as_sent(line: str) -> str:
    if not line.startswith("//"):
        return line
    from bq.tui.slash import message_text

    return message_text(line)


def _put(app: "ChatApp", desk: Desk, message: Held) -> None:
    desk.sent = message.raw
    app.remember_question(message.question)
    ask(app, desk, message.question)


def _hold(app: "ChatApp", desk: Desk, message: Held) -> None:
    """Have one message wait; what is written after it is another one."""
    if desk.view.waiting.message is not None:
        app.hint(notes.one_waits)
        desk.view.prompt.give_back(message.raw)
    else:
        desk.view.hold(message)
        app_kept.keep_drafts(app)
        app.refresh_bindings()


def send_held(app: "ChatApp") -> None:
    """Put the message that waits to the model, if it is free: one at a time, the one of the mode on the screen first."""
    is_taken = any(getattr(screen, "asks_the_model", False) for screen in app.screen_stack)
    if app.engine.busy or app.engine.model is None or is_taken or app.is_leaving:
        return
    for desk in sorted(app.desks.values(), key=lambda one: one is not app.desk):
        message = desk.view.waiting.release() if desk.has_page and not desk.is_text else None
        if message is not None:
            _put(app, desk, message)
            app_kept.keep_drafts(app)  # it is no draft any more
            return


def ask(app: "ChatApp", desk: Desk, text: str) -> None:
    """Put a question at the end of the conversation, and have it answered; a single instruction has one of its own."""
    if desk.conversation.mode == "instruct":
        desk.take(Conversation(mode="instruct", system=desk.conversation.system))
    answer(app, desk, [desk.conversation.ask(text)])


def answer(app: "ChatApp", desk: Desk, asked: Sequence[Node] = (), is_continued: bool = False) -> None:
    """Have the path's last question answered, or its answer continued. `asked` are the messages that are new."""
    talk = desk.conversation
    if is_continued:
        talk.go_on()
    else:
        talk.begin(app.model_name())
    desk.unsent, app.deletions.is_newest = None, False
    desk.job = job = Answering(_question(app, desk))
    app.start(job)
    app.keep(desk, asked)
    app.run_worker(follow(app, desk, job, is_continued), group="follow")


def again(app: "ChatApp", desk: Desk) -> None:
    """Answer the last question again, beside the answer that is there; in the text mode, go on from the cursor."""
    if desk.is_text:
        go_on(app, desk)
    elif not app.refuse():
        if desk.conversation.current is None:
            app.hint(notes.no_answer_yet)
        else:
            answer(app, desk)


def go_on(app: "ChatApp", desk: Desk) -> None:
    """Go on with the last answer, or with the text from its cursor."""
    if app.refuse():
        return
    last = desk.conversation.current
    if desk.is_text:
        desk.conversation.head = None
        answer(app, desk, [desk.conversation.ask(app.text_page.view.prefix())])
    elif last is None or not last.is_sent:
        app.hint(notes.nothing_to_continue)
    else:
        answer(app, desk, is_continued=True)


def _question(app: "ChatApp", desk: Desk) -> Question:
    talk = desk.conversation
    return Question(
        messages=talk.messages(),
        pinned=talk.pinned(),
        sampling=app_sampling.sampling(app),
        max_tokens=app_sampling.max_tokens(app),
        raw=desk.is_text or (talk.mode == "instruct" and app.is_base),
        force=True,  # a Base file was warned of
        form=None if desk.is_text else desk.view.form,
        top_tokens=ALTERNATIVES if desk.is_text else 0,
        think=app_sampling.think(app),
    )


async def follow(app: "ChatApp", desk: Desk, job: Answering, is_continued: bool) -> None:
    if desk.is_text:
        await _follow_text(app, desk, app.text_page, job)
        return
    widget = await app.show_path(desk)
    if widget is None:
        return
    if is_continued:
        await widget.reopen()
    desk.view.follow()
    async for text in _pieces(app, desk, job):
        with app.batch_update():  # the screen is laid out once for all of it
            await widget.feed(text)
    ended = await _finish(app, desk, job, widget)
    _after(app, desk, job)
    if ended:
        await app_kept.keep_in_session(app, desk)


async def _pieces(app: "ChatApp", desk: Desk, job: Answering) -> AsyncIterator[str]:
    """The text of an answer as it comes, written into the conversation and kept from time to time."""
    talk, kept, done, is_unkept = desk.conversation, time.monotonic(), False, False
    while not done:
        await asyncio.sleep(LOOK_EVERY_SECONDS * (_SLOWER if app.is_typing else 1))
        done = job.done  # looked at before the text is taken: then no text can come after it
        text = job.take()
        if text:
            talk.write(text)
            is_unkept = True
            yield text
        if is_unkept and time.monotonic() - kept > KEEP_EVERY_SECONDS:  # also when the model pauses after it
            kept, is_unkept = time.monotonic(), False
            if desk.is_text:
                talk.draft = desk.page.draft()
            app.keep(desk, [talk.nodes[talk.head or ""]])
        app.show_status()


async def _follow_text(app: "ChatApp", desk: Desk, page: "CompletePage", job: Answering) -> None:
    """The same in the text mode, where each token comes with its alternatives."""
    await page.notices.remove_children("Notice.error")
    page.view.begin()
    async for _ in _pieces(app, desk, job):
        await page.view.feed(job.take_steps())
    await page.view.feed(job.take_steps())
    desk.conversation.draft = page.draft()
    ended = end(app, desk, job)
    page.view.finish(notes.end_of(ended) if ended else None)
    if job.error and not isinstance(job.error, Cancelled):
        await page.notice(Notice.of(job.error))
    _after(app, desk, job)


async def _finish(app: "ChatApp", desk: Desk, job: Answering, widget: Answer) -> Node | None:
    """Ends the answer: all text is shown, and how it ended."""
    ended = end(app, desk, job)
    if ended:
        await widget.finish(notes.end_of(ended))
    await app.show_path(desk)
    if job.error and not isinstance(job.error, Cancelled):
        await desk.page.notice(Notice.of(job.error))
    if ended is None:
        await _explain_nothing(app, desk, job)
    return ended


def end(app: "ChatApp", desk: Desk, job: Answering) -> Node | None:
    """Close the open answer and keep it; None for one that brought nothing, which is forgotten."""
    stats, talk, opened = job.stats, desk.conversation, desk.conversation.head
    ended = talk.finish(job.stop, stats.tokens if stats else 0, stats.decode_seconds if stats else 0.0)
    if ended is not None:
        app.keep(desk, [ended])
    elif opened is not None:
        app.keeper.do(lambda store: store.forget(talk.id, opened))
        app.keep(desk)
    return ended


async def _explain_nothing(app: "ChatApp", desk: Desk, job: Answering) -> None:
    """An answer brought no text: why, and what stands there now."""
    last = desk.conversation.current
    if last and last.answer:
        app.hint(notes.older_answer)
    elif job.stop == "cancel":
        await desk.page.notice(Notice("hint", notes.stopped_before))
    elif job.stop == "end":
        await desk.page.notice(Notice("hint", notes.empty_answer))
    elif last:
        desk.view.show_draft(desk.sent or last.question.content)


def _after(app: "ChatApp", desk: Desk, job: Answering) -> None:
    app.settle(job)
    app.count_unsent()
    if job.stats and job.stats.dropped_rounds and not desk.is_text:
        app_counts.mark_left_out(app, desk, job)
