"""What would be sent, counted exactly while it is written, and which rounds have no room; in a thread, as the model is asked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bq.runtime.prompt import Message
from bq.tui import app_sampling
from bq.tui.desk import Desk, to_send
from bq.tui.engine import Answering, Unsent
from bq.tui.shown import shown

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


def count_unsent(app: "ChatApp") -> None:
    """Count what stands in the box of the page that is open."""
    desk = app.desk
    messages = to_send(desk, app.is_base)
    if messages:
        app.run_worker(lambda: _measure(app, desk, messages), thread=True, group="measure", exclusive=True)
        return
    if desk.unsent is not None and not desk.is_text:
        desk.view.restand(shown(desk.conversation))
    desk.unsent = None
    app.show_status()


def mark_left_out(app: "ChatApp", desk: Desk, job: Answering) -> None:
    """Show which rounds had no room in what the model has just read."""
    app.run_worker(lambda: _measure_again(app, desk, job), thread=True, group="left out")


def _measure(app: "ChatApp", desk: Desk, messages: Sequence[Message]) -> None:
    unsent = app.engine.measure(
        messages, app_sampling.max_tokens(app), desk.conversation.pinned(), app_sampling.think(app)
    )
    app.call_later(_measured, app, desk, messages, unsent)


def _measured(app: "ChatApp", desk: Desk, messages: Sequence[Message], unsent: Unsent | None) -> None:
    """Takes the count, unless something else is written by now: that may have found the counter taken."""
    if messages != to_send(desk, app.is_base):
        count_unsent(app)
        return
    desk.unsent = unsent
    if unsent is not None:
        desk.view.restand(shown(desk.conversation, unsent.left_out))
    app.show_status()


def _measure_again(app: "ChatApp", desk: Desk, job: Answering) -> None:
    question = job.question
    unsent = app.engine.measure(question.messages, question.max_tokens, question.pinned, question.think)
    if unsent is not None:
        app.call_later(_mark, desk, unsent.left_out)


def _mark(desk: Desk, left_out: frozenset[int]) -> None:
    if desk.unsent is None:
        desk.view.restand(shown(desk.conversation, left_out))
