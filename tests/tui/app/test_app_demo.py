"""End to end: the app with the real runtime, on the bundled model and on one with random weights."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bq.runtime.values import LoadOptions, Sampling
from bq.tui.app import ChatApp
from bq.tui.dialogs.compare import CompareScreen
from bq.tui.opening import Opening
from bq.tui.status import short
from bq.tui.widgets.compare import CompareView
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID
from tests.support.undrawn import still

from .fake import Fake
from .session import Session


@pytest.fixture
def start_real() -> Callable:
    @asynccontextmanager
    async def run(path: Path, **options) -> AsyncIterator[Session]:
        app = ChatApp(Opening(path, LoadOptions(threads=1, gpu_layers=0), **options))
        still(app)
        async with app.run_test(size=(110, 40)) as pilot:
            session = Session(app, pilot, Fake())
            await session.until(lambda: app.engine.model is not None and not app.engine.busy, 60)
            yield session

    return run


@pytest.fixture
def random_gguf(converted) -> Path:
    return converted("b2-7b")


async def test_the_demo_model_answers_two_rounds_and_a_task(start_real, demo_gguf):
    async with start_real(demo_gguf, sampling=Sampling(temperature=0), max_tokens=200) as s:
        for question in ("What is Q4_K_M?", "量化是什么？"):
            await s.send(question)
            await s.until(lambda: not s.app.engine.busy and s.shows("ready"), 60)
        first, second = s.app.desk.conversation.rounds
        assert "bit" in first.answer.content
        assert any("\u4e00" <= character <= "\u9fff" for character in second.answer.content)
        assert (first.answer.stop, second.answer.stop) == ("end", "end")
        assert s.app.desk.job.stats.reused_tokens > 0
        await s.press("f2")
        await s.send("What does bq do?")
        await s.until(lambda: not s.app.engine.busy and s.shows("ready"), 60)
        assert s.app.desk.conversation.last_answer
        assert s.app.desk.job.stats.reused_tokens < 5


async def test_what_would_be_sent_is_counted_while_it_is_written(start_real, demo_gguf):
    """The figures of the answer itself are the proof: its prompt has the tokens that were announced."""
    async with start_real(demo_gguf, sampling=Sampling(temperature=0), max_tokens=8) as s:
        for question in ("What is Q4_K_M?", "量化是什么？", "bits " * 380):
            s.prompt.load_text(question)
            await s.until(lambda: s.shows("to send "), 30)
            announced = s.app.desk.unsent
            assert s.shows(f"to send {short(announced.prompt_tokens)} / {short(announced.budget)}")
            await s.press("enter")
            await s.until(lambda: not s.app.engine.busy and s.shows("ready"), 60)
            stats = s.app.desk.job.stats
            assert (stats.prompt_tokens, stats.dropped_rounds) == (announced.prompt_tokens, announced.dropped_rounds)
            await s.until(lambda: s.app.desk.unsent is None, 30)
        for count, shown in ((600, "leaves out 3 oldest rounds"), (1100, "tokens too many")):
            s.prompt.load_text("bits " * count)
            await s.until(lambda shown=shown: s.shows(shown), 30)
        s.prompt.clear()
        await s.until(lambda: not s.shows("to send"), 30)


async def test_a_real_model_streams_is_stopped_and_freed(start_real, scripted):
    """One whose answer never ends: two letters after each other."""
    a, b = byte_tokens("ab")
    endless = scripted({ASSISTANT_ID: a, a: b, b: a})
    greedy = Sampling(temperature=0, repeat_penalty=1)
    async with start_real(endless, sampling=greedy, max_tokens=4000) as s:  # seconds of writing, whatever the machine
        await s.send("Hello 你好")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer), 30)
        await s.press("escape")
        await s.ready()
        assert s.app.desk.conversation.rounds[0].answer.stop == "cancel"
        assert s.shows("Stopped", "ctx", "tok/s")
    assert s.app.engine.model is None


async def test_a_message_that_is_too_long_is_given_back(start_real, random_gguf):
    async with start_real(random_gguf) as s:
        text = "a long text 长 " * 2000
        await s.send(text)
        await s.until(lambda: s.shows("there is room for"), 30)
        assert s.prompt.text == text


async def test_a_file_that_is_no_gguf_is_refused_on_the_screen(tmp_path):
    path = tmp_path / "no.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 10)
    app = ChatApp(Opening(path, LoadOptions()))
    async with app.run_test(size=(90, 30)) as pilot:
        session = Session(app, pilot, Fake())
        await session.until(lambda: session.shows("not loaded", "Ctrl+Q quits"), 30)
        assert not session.shows("Unexpected error")


async def test_the_app_survives_the_end_of_the_models_process_and_loads_it_again(start_real, scripted):
    a, b = byte_tokens("ab")
    endless = scripted({ASSISTANT_ID: a, a: b, b: a})
    greedy = Sampling(temperature=0, repeat_penalty=1)
    async with start_real(endless, sampling=greedy, max_tokens=4000) as s:
        await s.send("Hello")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer), 30)
        os.kill(s.app.engine.model.remote.process.pid, signal.SIGABRT)
        await s.until(lambda: s.shows("The model's process ended", "Broken off"), 30)
        partial = s.app.desk.conversation.last_answer
        assert partial.startswith("ab")
        await s.send("next")
        assert s.shows("No model is loaded: Ctrl+R tries again.")
        await s.press("ctrl+r")
        await s.until(lambda: s.app.engine.model is not None and not s.app.engine.busy, 60)
        assert s.app.desk.conversation.last_answer == partial
        await s.press("enter")
        await s.until(lambda: len(s.app.desk.conversation.rounds) == 2 and s.app.desk.conversation.is_open, 30)
        await s.until(lambda: s.app.desk.conversation.rounds[1].is_sent, 30)
        await s.press("escape")
        await s.ready()


async def test_an_idle_process_that_ends_is_told_too(start_real, demo_gguf):
    async with start_real(demo_gguf) as s:
        os.kill(s.app.engine.model.remote.process.pid, signal.SIGKILL)
        await s.until(lambda: s.shows("The model's process ended", "not loaded"), 30)


async def test_the_text_mode_shows_what_else_might_have_come(start_real, demo_gguf):
    async with start_real(demo_gguf, mode="complete", sampling=Sampling(temperature=0), max_tokens=6) as s:
        await s.press(*"Q4_K_M is", "ctrl+g")
        await s.until(lambda: not s.app.engine.busy and len(s.app.desk.page.view.text) > 9, 60)
        await s.press("alt+left")
        assert s.shows("Alternatives", "%")


async def test_two_models_answer_the_same_question_side_by_side(start_real, demo_gguf, scripted):
    other = scripted(saying(byte_tokens("done")))
    async with start_real(demo_gguf, mode="chat", sampling=Sampling(temperature=0), max_tokens=60) as s:
        await s.send("What is Q4_K_M?")
        await s.until(lambda: not s.app.engine.busy and s.shows("tok/s"), 60)
        first = s.app.desk.conversation.last_answer
        await s.send(f"/compare {other}")
        await s.until(lambda: isinstance(s.app.screen, CompareScreen), 10)
        view = s.app.screen.query_one(CompareView)
        await s.until(lambda: s.shows("of the two answers is the same") and not s.app.engine.busy, 60)
        assert view.text("left") == first
        assert view.text("right") == "done"
        await s.until(lambda: s.app.engine.model is not None and s.app.engine.model.path == demo_gguf, 30)
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)
        assert s.app.desk.conversation.last_answer == first, "the conversation is as it was"
