"""The engine's jobs, with a model that the test holds: what they tell, what outlives the model's process, and one at a time."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from bq.runtime import language
from bq.runtime.errors import BqError, Cancelled
from bq.runtime.prompt import Message
from bq.tui.engine import Answering, Engine, Job, Loading, Question, Unsent
from bq.tui.kept_session import KeptSession
from bq.tui.remote import RemoteModel
from bq.tui.status import observe
from tests.tui.app.fake import Fake, LoadOptions, ModelInfo

PATH = Path("/models/baichuan.gguf")
HELLO = (Message("user", "hello"),)


@dataclass
class Setup:
    fake: Fake
    engine: Engine

    def load(self, path: Path = PATH) -> Loading:
        loading = Loading(path)
        self.engine.work(loading)
        return loading

    def answer(self, question: Question) -> Answering:
        answering = Answering(question)
        self.engine.work(answering)
        return answering

    def start(self, job: Job) -> threading.Thread:
        """In another thread, as the app does it."""
        self.engine.job = job
        thread = threading.Thread(target=self.engine.work, args=(job,), daemon=True)
        thread.start()
        return thread


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    fake = Fake()
    module = ModuleType("bq.runtime.loading")
    module.load, module.LoadOptions = fake.load, LoadOptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bq.runtime.loading", module)
    monkeypatch.setattr("bq.tui.remote.start_worker", fake.start_worker)
    monkeypatch.setattr("bq.tui.candidates.examine", fake.examine)
    monkeypatch.setattr(language, "_current", "en")
    engine = Engine(LoadOptions())  # type: ignore[arg-type]
    yield Setup(fake, engine)
    fake.release()
    engine.close()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_jobs_tell_their_errors_and_raise_none(setup: Setup) -> None:
    setup.fake.load_error = MemoryError("no room")
    loading = setup.load()
    assert loading.done
    assert loading.error is not None
    assert "MemoryError: no room" in loading.error.cause
    assert "Traceback" in setup.engine.trace
    answering = setup.answer(Question(HELLO))
    assert (str(answering.error), answering.stop) == ("No model is loaded.", "error")
    setup.fake.load_error = None
    assert setup.load().error is None, "a defect does not end the process"
    assert len(setup.fake.processes) == 1


def test_the_engine_frees_its_model_once_and_may_load_again(setup: Setup) -> None:
    setup.load()
    assert setup.fake.open_models == 1
    setup.engine.close()
    setup.engine.close()
    assert (setup.fake.open_models, setup.engine.model) == (0, None)
    assert (setup.engine.died, setup.engine.lost) == (False, None), "it was asked to"
    assert setup.load().error is None


def test_another_file_frees_the_model_before(setup: Setup) -> None:
    setup.load()
    setup.fake.info = ModelInfo(name="another")
    loading = setup.load(Path("/models/another.gguf"))
    model = setup.engine.model
    assert model is not None
    assert (loading.error, loading.progress, model.path.name, model.info.name) == (None, 1, "another.gguf", "another")
    assert setup.fake.open_models == 1
    setup.fake.load_error = BqError("damaged")
    assert setup.load().error is not None
    assert (setup.fake.open_models, setup.engine.model) == (0, None)


def test_closing_stops_an_answer_and_waits_for_its_end(setup: Setup) -> None:
    setup.load()
    setup.fake.writing.shut()
    job = Answering(Question(HELLO))
    worker = setup.start(job)
    until(lambda: job.begun)
    setup.engine.close()
    worker.join(20)
    assert (job.stop, job.done) == ("cancel", True)
    assert setup.engine.model is None


@pytest.mark.parametrize("gate", ["loading", "reading", "writing"])
def test_a_cancellation_arrives_at_every_stage_and_the_next_answer_is_whole(setup: Setup, gate: str) -> None:
    if gate != "loading":
        setup.load()
    getattr(setup.fake, gate).shut()
    job = Loading(PATH) if gate == "loading" else Answering(Question(HELLO))
    worker = setup.start(job)
    until(lambda: job.progress if isinstance(job, Loading) else job.begun or job.read[0])  # type: ignore[attr-defined]
    setup.engine.stop()
    worker.join(20)
    assert job.done
    assert isinstance(job.error, Cancelled) if isinstance(job, Loading) else job.stop == "cancel"  # type: ignore[attr-defined]
    setup.fake.release()
    setup.load()
    setup.fake.answers = ["The whole answer."]
    assert setup.answer(Question(HELLO)).take() == "The whole answer."


def test_a_job_that_was_cancelled_before_it_began_ends_at_once(setup: Setup) -> None:
    setup.load()
    setup.fake.writing.shut()
    job = Answering(Question(HELLO))
    job.cancel.set()
    setup.engine.work(job)
    assert (job.stop, job.take(), setup.fake.asked) == ("cancel", "", [])
    loading = Loading(Path("/models/another.gguf"))
    loading.cancel.set()
    setup.engine.work(loading)
    assert isinstance(loading.error, Cancelled)
    assert setup.engine.model is not None, "the one before stays"


def test_what_the_engine_does_is_seen_from_its_job(setup: Setup) -> None:
    engine, fake = setup.engine, setup.fake
    fake.dropped_rounds = 2
    engine.job = Loading(PATH)
    assert observe(engine, "m.gguf", None).activity == "loading"
    engine.job.cancel.set()
    assert observe(engine, "m.gguf", None).activity == "stopping"
    engine.work(engine.job)
    assert (observe(engine, "m.gguf", None).activity, engine.busy) == ("stopping", True), "until the screen has seen it"
    engine.job.settled = True
    assert (observe(engine, "m.gguf", None).activity, engine.busy) == ("failed", False)
    setup.load()
    engine.job = job = Answering(Question(HELLO))
    job.read = (3, 4)
    assert (observe(engine, "", job).activity, observe(engine, "", job).percent) == ("reading", 75)
    job.begun = True
    assert observe(engine, "", job).activity == "writing"
    engine.work(job)
    job.settled = True
    after = observe(engine, "", job)
    assert (after.activity, after.model, after.dropped_rounds) == ("ready", "Baichuan2-7B-Chat Q4_K_M", 2)
    assert (after.context, after.tokens_per_second) == (4096, 12.5)


def test_a_process_that_ends_in_an_answer_is_told_by_it_and_the_text_is_kept(setup: Setup) -> None:
    setup.load()
    setup.fake.answers = ["one two three four five six"]
    setup.fake.writing.shut()
    job = Answering(Question(HELLO))
    worker = setup.start(job)
    until(lambda: job.begun)
    setup.fake.die(-6)
    worker.join(20)
    assert str(job.error) == (
        "The model's process ended: llama.cpp aborted (signal 6). Ctrl+R loads it again; your conversation is kept."
    )
    assert job.stop == "error"
    assert "one two three four five six".startswith(job.take()[:3])
    assert (setup.engine.model, setup.engine.died, setup.engine.lost) == (None, True, None)
    setup.fake.release()
    assert setup.load().error is None
    assert (setup.engine.died, setup.answer(Question(HELLO)).stop) == (False, "end")


def test_a_process_that_ends_unobserved_is_lost_until_the_next_loading(setup: Setup) -> None:
    setup.load()
    setup.fake.die(-9)
    until(lambda: setup.engine.lost)
    assert "killed (signal 9)" in str(setup.engine.lost)
    assert (setup.engine.model, setup.engine.died) == (None, True)
    assert setup.engine.measure(HELLO, None) is None
    assert setup.answer(Question(HELLO)).stop == "error"
    assert setup.load().error is None
    assert (setup.engine.died, setup.engine.lost, len(setup.fake.processes)) == (False, None, 2)


def test_a_process_that_ends_in_loading_is_told_by_it(setup: Setup) -> None:
    setup.fake.loading.shut()
    job = Loading(PATH)
    worker = setup.start(job)
    until(lambda: job.progress)
    setup.fake.die(-11)
    worker.join(20)
    assert "(signal 11)" in str(job.error)
    assert (setup.engine.model, setup.engine.lost, setup.engine.was_loaded) == (None, None, False)


def test_a_process_that_ends_in_taking_up_a_session_is_told_by_the_loading(setup: Setup) -> None:
    class Deadly:
        def restore(self, model: RemoteModel) -> None:
            setup.fake.die(-6)
            model.save_session(PATH, HELLO)

    loading = Loading(PATH, Deadly())  # type: ignore[arg-type]
    setup.engine.work(loading)
    assert "aborted (signal 6)" in str(loading.error)
    assert (setup.engine.model, setup.engine.died, setup.engine.lost) == (None, True, None)


def test_a_draft_is_counted_while_nothing_runs_pins_included(setup: Setup) -> None:
    assert setup.engine.measure(HELLO, None) is None
    setup.fake.info = ModelInfo(context=40)  # the fake's budget is half of it, a character is a token
    setup.load()
    long = [Message("user", "aaaa"), Message("assistant", "bbbb")]
    messages = [*long, *long, Message("user", "ccc")]
    assert setup.engine.measure(messages, None) == Unsent(15, 20, frozenset({0}), 3)
    assert setup.engine.measure(messages, None, frozenset({0})) == Unsent(15, 20, frozenset({1}), 3)
    setup.fake.reading.shut()
    job = Answering(Question(HELLO))
    worker = setup.start(job)
    until(lambda: job.read[0])
    assert setup.engine.measure(messages, None) is None
    setup.fake.release()
    worker.join(20)


def test_models_are_examined_without_one_being_loaded(setup: Setup) -> None:
    found = setup.engine.examine([PATH, Path("/models/b.gguf")])
    assert [(one.path, one.name, one.fits) for one in found] == [
        (PATH, "baichuan", True),
        (Path("/models/b.gguf"), "b", True),
    ]
    assert (setup.fake.open_models, setup.engine.was_loaded) == (0, False)


def test_a_question_reaches_the_model_as_it_was_put(setup: Setup) -> None:
    setup.load()
    asked = (*HELLO, Message("assistant", "half \ud83d of"))
    question = Question(asked, frozenset({0}), max_tokens=9, force=True, top_tokens=2)
    setup.fake.answers = ["an answer"]
    job = setup.answer(question)
    steps = job.take_steps()
    assert setup.fake.asked == [asked]
    assert setup.fake.keywords == vars(question)
    assert ("".join(step.text for step in steps), job.take()) == ("an answer", "an answer")
    assert [len(step.alternatives) for step in steps] == [2] * len(steps)
    assert job.take_steps() == []


def test_a_text_to_go_on_with_reaches_the_model_without_roles(setup: Setup) -> None:
    setup.load()
    setup.answer(Question((Message("user", "Once"),), raw=True))
    assert (setup.fake.completed, setup.fake.asked) == (["Once"], [])


def test_messages_are_kept_while_an_answer_is_written(setup: Setup, tmp_path: Path) -> None:
    setup.load()
    setup.fake.writing.shut()
    job = Answering(Question(HELLO))
    worker = setup.start(job)
    until(lambda: job.begun)
    assert setup.engine.model is not None
    KeptSession(tmp_path / "s", None).keep(setup.engine.model, HELLO, with_cache=False)
    assert (setup.fake.saved, job.done) == ([HELLO], False)
    setup.fake.release()
    worker.join(20)


def test_errors_come_in_the_language_of_the_screen(setup: Setup) -> None:
    language.set_language("zh")
    setup.fake.load_error = ValueError("x")
    assert setup.load().error is not None
    setup.fake.load_error = None
    setup.load()
    setup.fake.die(-6)
    until(lambda: setup.engine.lost)
    assert str(setup.engine.lost) == "模型进程已结束：llama.cpp 中止（信号 6）。Ctrl+R 重新加载；对话已保留。"
