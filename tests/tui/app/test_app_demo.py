"""End to end: the app with the real runtime, on the bundled model and on one with random weights."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bq.tui.app import ChatApp
from bq.tui.status import short
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID

from .fake import Fake
from .session import Session


@pytest.fixture
def start_real() -> Callable:
    @asynccontextmanager
    async def run(path: Path, **options) -> AsyncIterator[Session]:
        from bq.runtime.loading import LoadOptions

        app = ChatApp(path, LoadOptions(threads=2, gpu_layers=0), **options)
        async with app.run_test(size=(110, 40)) as pilot:
            session = Session(app, pilot, Fake())
            await session.until(lambda: app.engine.model is not None and not app.engine.busy, 60)
            yield session

    return run


@pytest.fixture
def random_gguf(converted) -> Path:
    return converted("b2-7b")


async def test_the_demo_model_answers_two_rounds_and_a_task(start_real, demo_gguf):
    from bq.runtime.sampling import Sampling

    async with start_real(demo_gguf, sampling=Sampling(temperature=0), max_tokens=200) as s:
        for question in ("What is Q4_K_M?", "量化是什么？"):
            await s.send(question)
            await s.until(lambda: not s.app.engine.busy and s.shows("ready"), 60)
        first, second = s.app.desk.conversation.rounds
        assert "bit" in first.answer
        assert any("\u4e00" <= character <= "\u9fff" for character in second.answer)
        assert (first.stop, second.stop) == ("end", "end")
        assert s.app.desk.job.stats.reused_tokens > 0
        await s.press("f2")
        await s.send("What does bq do?")
        await s.until(lambda: not s.app.engine.busy and s.shows("ready"), 60)
        assert s.app.desk.conversation.last_answer
        assert s.app.desk.job.stats.reused_tokens < 5


async def test_what_would_be_sent_is_counted_while_it_is_written(start_real, demo_gguf):
    """The figures of the answer itself are the proof: its prompt has the tokens that were announced."""
    from bq.runtime.sampling import Sampling

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
    from bq.runtime.sampling import Sampling

    a, b = byte_tokens("ab")
    endless = scripted({ASSISTANT_ID: a, a: b, b: a})
    greedy = Sampling(temperature=0, repeat_penalty=1)
    async with start_real(endless, sampling=greedy, max_tokens=4000) as s:  # seconds of writing, whatever the machine
        await s.send("Hello 你好")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer), 30)
        await s.press("escape")
        await s.ready()
        assert s.app.desk.conversation.rounds[0].stop == "cancel"
        assert s.shows("Stopped", "ctx", "tok/s")
    assert s.app.engine.model is None


async def test_a_message_that_is_too_long_is_given_back(start_real, random_gguf):
    async with start_real(random_gguf) as s:
        text = "a long text 长 " * 2000
        await s.send(text)
        await s.until(lambda: s.shows("there is room for"), 30)
        assert s.prompt.text == text.strip()


async def test_a_file_that_is_no_gguf_is_refused_on_the_screen(tmp_path):
    from bq.runtime.loading import LoadOptions

    path = tmp_path / "no.gguf"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 10)
    app = ChatApp(path, LoadOptions())
    async with app.run_test(size=(90, 30)) as pilot:
        session = Session(app, pilot, Fake())
        await session.until(lambda: session.shows("not loaded", "Ctrl+Q quits"), 30)
        assert not session.shows("Unexpected error")
