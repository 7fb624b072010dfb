"""What is written or shown is kept by the clock, not by what comes next: a kill takes no more than a moment."""

import asyncio
import time
from pathlib import Path

from bq.tui.engine import Answering, Question
from bq.tui.opening import Opening
from bq.tui.plain import PlainChat
from bq.tui.voice import Voice

from .fake import LoadOptions
from .test_app_conversations import kept


async def test_a_draft_is_kept_while_its_writer_does_not_pause(start):
    async with start() as s:
        for _ in range(200):
            await s.press("x")
            await asyncio.sleep(0.02)
            if kept():
                break
        assert kept(), "nobody paused for it"
        assert "x" in kept()[0].draft


async def test_what_was_shown_is_kept_although_nothing_comes_after_it(start, fake):
    fake.answers = ["one two three four five"]
    fake.writing.shut()
    async with start() as s:
        await s.send("count")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer))
        shown = s.app.desk.conversation.last_answer
        await s.until(lambda: [node.content for one in kept() for node in one.path()] == ["count", shown])
        assert s.app.engine.busy, "the model has not gone on"


def test_the_line_mode_keeps_what_it_showed_although_nothing_comes_after_it():
    chat = PlainChat(Opening(Path("none.gguf"), LoadOptions()))  # type: ignore[arg-type]
    chat.conversation.ask("count")
    opened, job = chat.conversation.begin("Model"), Answering(Question(messages=()))
    voice = Voice("")
    chat._kept = time.monotonic()
    job._pieces.append("one two")
    chat._look(job, voice, opened)
    assert not kept(), "it is not worth the disk yet"
    chat._kept -= 10
    chat._look(job, voice, opened)
    assert [node.content for node in kept()[0].path()] == ["count", "one two"]
    chat.close()
