"""The model in a process of its own: the same answers as in this one, and whatever ends it costs the model alone."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import Cancelled
from bq.runtime.fit import LoadOptions
from bq.runtime.prompt import Message
from bq.runtime.values import Sampling, Stats, Step
from bq.tui import remote, wire
from bq.tui.answer_form import AnswerForm
from bq.tui.engine import Answering, Engine, Job, Loading, Question
from bq.tui.kept_session import session_in_use
from bq.tui.worker import Piece, Worker, together
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID, pieces

GREEDY = Sampling(temperature=0, repeat_penalty=1)
QUESTION = (Message("user", "量化是什么？"),)
LONG = (Message("user", "模型 " * 300),)
_PIECE_A = [piece.text for piece in pieces(1)].index("▁a")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(scope="module")
def endless(scripted: Callable[..., Path]) -> Path:
    """Says xyxyxy… for as long as it may."""
    x, y = byte_tokens("xy")
    return scripted({ASSISTANT_ID: x, x: y, y: x})


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(LoadOptions(threads=1, batch=1))
    yield made
    made.close()


def load(engine: Engine, path: Path) -> Loading:
    job = Loading(path)
    engine.work(job)
    return job


def answer(engine: Engine, question: Question) -> Answering:
    job = Answering(question)
    engine.work(job)
    return job


def start(engine: Engine, job: Job) -> threading.Thread:
    engine.job = job
    thread = threading.Thread(target=engine.work, args=(job,), daemon=True)
    thread.start()
    return thread


def process_of(engine: Engine) -> "subprocess.Popen[bytes]":
    assert engine._remote is not None
    return engine._remote.process


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


# The same answers


SCHEMA = '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}, "required": ["name"]}'
QUESTIONS = [
    Question(QUESTION, sampling=GREEDY, max_tokens=40),
    Question((Message("system", "Be brief."), *QUESTION), max_tokens=30, sampling=Sampling(temperature=1, seed=5)),
    Question((*QUESTION, Message("assistant", "量化是")), sampling=GREEDY, max_tokens=20),
    Question((Message("user", "llama.cpp is"),), raw=True, sampling=GREEDY, max_tokens=20, top_tokens=3),
    Question(QUESTION, sampling=GREEDY, max_tokens=12, top_tokens=5),
    Question(QUESTION, sampling=GREEDY, form=AnswerForm("choices", '是,否,"不, 绝不"')),
    Question(QUESTION, sampling=GREEDY, form=AnswerForm("json_schema", SCHEMA)),
    Question(QUESTION, sampling=GREEDY, max_tokens=9, form=AnswerForm("grammar", 'root ::= "量化" [a-z]+')),
    Question(
        (*QUESTION, Message("assistant", "x " * 200), *LONG), pinned=frozenset({0}), sampling=GREEDY, max_tokens=5
    ),
]


@pytest.fixture(scope="module")
def answers(demo_gguf: Path) -> list[tuple[list[Step], Stats]]:
    """What the model says in this process."""
    from bq.runtime.loading import load
    from bq.tui.worker import _constraint

    found = []
    with load(demo_gguf, LoadOptions(threads=1, batch=64)) as model:
        for one in QUESTIONS:
            constraint = _constraint(one.form) if one.form else None
            given = {"sampling": one.sampling, "max_tokens": one.max_tokens, "top_tokens": one.top_tokens}
            if one.raw:
                generation = model.complete(one.messages[-1].content, constraint=constraint, **given)
            else:
                generation = model.chat(one.messages, pinned=one.pinned, constraint=constraint, **given)
            found.append((list(generation.steps()), generation.stats))
    return found


def counts(stats: Stats | None) -> dict[str, object]:
    assert stats is not None
    return {k: v for k, v in vars(stats).items() if "seconds" not in k and k not in ("drafted", "accepted")}


def test_answers_are_those_of_the_model_in_this_process(
    demo_gguf: Path, answers: list[tuple[list[Step], Stats]]
) -> None:
    engine = Engine(LoadOptions(threads=1, batch=64))
    try:
        assert load(engine, demo_gguf).error is None
        for question, (steps, stats) in zip(QUESTIONS, answers, strict=True):
            job = answer(engine, question)
            assert (job.error, job.take()) == (None, "".join(step.text for step in steps))
            assert job.take_steps() == (steps if question.top_tokens else [])
            assert counts(job.stats) == counts(stats)
    finally:
        engine.close()


def test_one_model_after_the_other(engine: Engine, demo_gguf: Path, endless: Path) -> None:
    first = load(engine, endless)
    assert (first.error, first.progress) == (None, 1)
    assert first.plan.startswith("Memory: CPU ")
    assert first.fit.startswith("Memory: predicted ")
    assert answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=4)).take() == "xyxy"
    found, none = engine.examine([demo_gguf, demo_gguf.with_name("none.gguf")])
    assert (found.name, found.mixture, found.fits, found.gpu_layers) == ("bq-demo", "Q8_0", True, 0)
    assert none.error.startswith("There is no file ")
    pid = process_of(engine).pid
    assert load(engine, demo_gguf).error is None
    assert "量化" in answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=9)).take()
    assert process_of(engine).pid == pid
    bad = answer(engine, Question(QUESTION, form=AnswerForm("choices", "one")))
    assert (bad.stop, bad.take()) == ("error", "")
    assert "2 to 1,000 different choices" in str(bad.error)
    unsent = engine.measure([*QUESTION, Message("assistant", "x"), Message("user", "模型")], 5)
    assert unsent is not None
    assert (unsent.left_out, unsent.draft_tokens) == (frozenset(), 1)


def test_a_session_is_kept_and_taken_up_by_the_process(engine: Engine, endless: Path, tmp_path: Path) -> None:
    load(engine, endless)
    job = answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=4))
    said = (*QUESTION, Message("assistant", job.take()))
    with session_in_use(str(tmp_path / "s")) as session:
        assert session is not None
        assert engine.model is not None
        session.keep(engine.model, said)
    assert load(engine, endless).error is None
    with session_in_use(str(tmp_path / "s")) as session:
        assert session is not None
        loading = Loading(endless, session)
        engine.work(loading)
        assert (loading.error, session.note, session.messages) == (None, "", said)
    again = answer(engine, Question((*said, *QUESTION), sampling=GREEDY, max_tokens=2))
    assert again.stats is not None
    assert again.stats.reused_tokens > 0
    assert again.take() == "xy"


def test_a_text_that_is_gone_on_with_keeps_the_space_before_its_next_word(
    engine: Engine, scripted: Callable[..., Path]
) -> None:
    """A Baichuan 1 begins every answer with a space that is not shown; a continued text's next word needs its own."""
    space, a, b = byte_tokens(" ab", 1)
    model = scripted({ASSISTANT_ID: space, _PIECE_A: space, space: a, a: b}, family="b1-7b")
    assert load(engine, model).error is None
    assert answer(engine, Question(QUESTION, sampling=GREEDY)).take() == "ab"
    assert answer(engine, Question((*QUESTION, Message("assistant", "a")), sampling=GREEDY)).take() == " ab"
    assert answer(engine, Question((Message("user", "a"),), raw=True, sampling=GREEDY)).take() == " ab"


# Stopped at every stage


def test_a_cancellation_arrives_at_every_stage_and_the_next_answer_is_right(
    engine: Engine, demo_gguf: Path, endless: Path
) -> None:
    loading = Loading(demo_gguf)
    thread = start(engine, loading)
    until(lambda: engine._remote)
    engine.stop()
    thread.join(60)
    assert isinstance(loading.error, Cancelled)
    assert engine.model is None
    assert load(engine, demo_gguf).error is None
    reading = Answering(Question(LONG, sampling=GREEDY))
    thread = start(engine, reading)
    until(lambda: reading.read[0])
    engine.stop()
    thread.join(60)
    assert (reading.stop, reading.begun, reading.read[0] < reading.read[1]) == ("cancel", False, True)
    assert load(engine, endless).error is None
    writing = Answering(Question(QUESTION, sampling=GREEDY, max_tokens=4000))
    thread = start(engine, writing)
    until(lambda: writing.begun)
    engine.stop()
    thread.join(60)
    assert (writing.stop, writing.error) == ("cancel", None)
    assert writing.take().startswith("xyx")
    assert answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=4)).take() == "xyxy"


# Ended from outside


@posix
@pytest.mark.parametrize(
    ("stage", "number", "said"),
    [
        ("loading", signal.SIGKILL, "it was killed (signal 9)"),
        ("reading", signal.SIGKILL, "it was killed (signal 9)"),
        ("writing", signal.SIGABRT, "llama.cpp aborted (signal 6)"),
        ("idle", signal.SIGTERM, "it crashed or was stopped (signal 15)"),
    ],
)
def test_whatever_ends_the_process_is_said_and_it_loads_again(
    engine: Engine, demo_gguf: Path, endless: Path, stage: str, number: signal.Signals, said: str
) -> None:
    job: Job
    if stage == "loading":
        job = Loading(demo_gguf)
        thread = start(engine, job)
        until(lambda: engine._remote)
        os.kill(process_of(engine).pid, signal.SIGSTOP)  # or a small model would be there already
    else:
        load(engine, demo_gguf if stage == "reading" else endless)
        job = Answering(Question(LONG if stage == "reading" else QUESTION, sampling=GREEDY, max_tokens=4000))
        if stage != "idle":
            thread = start(engine, job)
            until(lambda: job.read[0] if stage == "reading" else job.begun)  # type: ignore[attr-defined]
    os.kill(process_of(engine).pid, number)
    if stage == "idle":
        until(lambda: engine.lost)
    else:
        thread.join(60)
    error = engine.lost if stage == "idle" else job.error
    assert str(error).startswith(f"The model's process ended: {said}")
    assert str(error).endswith("Ctrl+R loads it again; your conversation is kept.")
    assert (engine.model, engine.died) == (None, True)
    if stage == "writing":
        assert (job.stop, job.take()[:3]) == ("error", "xyx")  # type: ignore[attr-defined]
        assert "Fatal Python error: Aborted" in engine.trace, "where it was is there for --debug"
    assert load(engine, endless).error is None
    assert answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=4)).take() == "xyxy"


@posix
def test_ctrl_c_in_the_terminal_is_not_the_process_s(engine: Engine, endless: Path) -> None:
    load(engine, endless)
    job = Answering(Question(QUESTION, sampling=GREEDY, max_tokens=4000))
    thread = start(engine, job)
    until(lambda: job.begun)
    os.kill(process_of(engine).pid, signal.SIGINT)
    engine.stop()
    thread.join(60)
    assert (job.stop, job.error, engine.died) == ("cancel", None, False)


@posix
def test_a_process_that_does_not_stop_is_ended(engine: Engine, endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(remote, "_END_SECONDS", 0.1)
    load(engine, endless)
    job = Answering(Question(QUESTION, sampling=GREEDY, max_tokens=4000))
    thread = start(engine, job)
    until(lambda: job.begun)
    os.kill(process_of(engine).pid, signal.SIGSTOP)
    engine.stop()
    thread.join(60)
    assert str(job.error).startswith("The model's process did not stop within 0.1 s and was ended.")
    load(engine, endless)
    process = process_of(engine)
    os.kill(process.pid, signal.SIGSTOP)
    engine.close()
    assert (process.returncode, engine.died) == (-signal.SIGKILL, False)


APP = """
import os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from bq.runtime.prompt import Message
from bq.tui.engine import Answering, Engine, Loading, Question

@dataclass(frozen=True)
class Options:
    threads: int = 1

engine = Engine(Options())
engine.work(Loading(Path(sys.argv[1])))
job = Answering(Question((Message("user", "x"),), max_tokens=4000))
if sys.argv[2] == "writing":
    threading.Thread(target=engine.work, args=(job,)).start()
    while not job.begun:
        time.sleep(0.001)
heavy = {"llama_cpp", "numpy", "gguf", "bq.runtime.loading", "bq.runtime.model"} & {*sys.modules}
print(engine.model.remote.process.pid, sorted(heavy), flush=True)
os.kill(os.getpid(), 9)
"""


@posix
@pytest.mark.parametrize("stage", ["idle", "writing"])
def test_a_killed_app_leaves_no_process_and_has_imported_nothing_heavy(endless: Path, stage: str) -> None:
    app = subprocess.run([sys.executable, "-c", APP, str(endless), stage], capture_output=True, text=True, timeout=60)
    assert app.returncode == -signal.SIGKILL, app.stderr
    pid, _, heavy = app.stdout.strip().partition(" ")
    assert heavy == "[]"
    until(lambda: is_gone(int(pid)))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# The pipe


@pytest.mark.parametrize("said", [b"", b"garbage\n", b'{"id": 1, "kind": "load"'])
def test_a_process_that_is_told_nonsense_ends_in_silence(said: bytes) -> None:
    with remote.start_worker() as process:
        output, errors = process.communicate(said, timeout=60)
    assert (process.returncode, output, errors) == (0, b"", b"")


def test_an_unknown_request_is_an_error_and_the_next_one_is_served() -> None:
    unknown = wire.encode(1, wire.Restore(Path("s"))).replace(b'"restore"', b'"unknown"')
    with remote.start_worker() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(unknown + wire.encode(2, wire.Restore(Path("s"))))
        process.stdin.flush()
        replies = [wire.decode(process.stdout.readline()) for _ in range(2)]
        process.communicate(timeout=60)
    assert [(one.id, one.kind) for one in replies] == [(1, "failed"), (2, "failed")]
    assert replies[1].message["cause"] == "No model is loaded."


def test_a_process_that_speaks_nonsense_is_ended_and_said(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    code = "print('nonsense', flush=True); import time; time.sleep(60)"
    monkeypatch.setattr(remote, "_CODE", code)
    loading = load(engine, Path("m.gguf"))
    assert str(loading.error).startswith("The app and the model's process do not understand each other")
    assert process_of(engine).returncode is not None
    assert engine.died


def test_what_c_code_prints_does_not_get_into_the_pipe() -> None:
    code = (
        "import os, sys; from bq.tui import worker\n"
        "class Noisy:\n"
        "    def __init__(self, incoming, outgoing, on_close): self.out = outgoing\n"
        "    def run(self): os.write(1, b'noise'); self.out.write(b'line'); self.out.flush(); os.read(0, 1)\n"
        "worker.Worker = Noisy; worker.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"x", capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"line", b"noise")


def test_the_process_imports_nothing_from_the_folder_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runpy", "queue", "faulthandler", "bq"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    with remote.start_worker() as process:
        assert process.communicate(b"", timeout=60) == (b"", b"")


@pytest.mark.parametrize("is_writing", [False, True])
def test_an_end_waits_for_nothing_but_a_file_that_is_being_written(is_writing: bool) -> None:
    begun, release, closed = threading.Event(), threading.Event(), threading.Event()

    def work(*_: object) -> int:
        begun.set()
        release.wait(60)
        return 0

    asked, ask = os.pipe()
    with open(asked, "rb") as incoming, open(os.devnull, "wb") as outgoing, open(ask, "wb") as app:
        worker = Worker(incoming, outgoing, closed.set)
        worker._model = SimpleNamespace(measure=work, save_session=work, close=lambda: None)  # type: ignore[assignment]
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        request = wire.Save(Path("s"), QUESTION, True) if is_writing else wire.Measure(QUESTION, None, frozenset())
        app.write(wire.encode(1, request))
        app.flush()
        assert begun.wait(60)
        app.close()
        assert closed.wait(0.1 if is_writing else 60) != is_writing
        release.set()
        assert closed.wait(60)
        thread.join(60)


_texts = st.text(max_size=3)
_stats = Stats(tokens=7)
_going_out = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.one_of(
            _texts.map(lambda text: Piece(Step(text), False, _stats)),
            st.integers(0, 9).map(lambda done: wire.Read(done, 9)),
            st.floats(0, 1).map(wire.Progress),
            _texts.map(wire.Planned),
            st.just(wire.Answered(_stats)),
        ),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(_going_out)
def test_what_goes_out_together_says_the_same(batch: list[tuple[int, Any]]) -> None:
    def events(replies: list[tuple[int, Any]]) -> list[tuple[int, object]]:
        """With texts one character at a time, and of a progress the last of each row."""
        found: list[tuple[int, object]] = []
        for i, (id, reply) in enumerate(replies):
            is_last = [(other, type(after)) for other, after in replies[i + 1 : i + 2]] != [(id, type(reply))]
            if isinstance(reply, (Piece, wire.Wrote)):
                found.extend((id, character) for character in (reply.step if isinstance(reply, Piece) else reply).text)
            elif is_last or not isinstance(reply, (wire.Read, wire.Progress)):
                found.append((id, reply))
        return found

    out = list(together(batch))
    assert events(out) == events(batch)
    assert not [reply for _, reply in out if isinstance(reply, Piece)]


def test_text_is_gathered_and_not_without_end() -> None:
    step = Step("x", 1)
    replies = list(together([(1, Piece(step, True, _stats))] * 1000))
    assert 1 < len(replies) < 10
    assert "".join(reply.text for _, reply in replies) == "x" * 1000
    assert [one for _, reply in replies for one in reply.steps] == [step] * 1000


def test_the_types_that_cross_are_those_of_the_runtime() -> None:
    from bq.runtime import generation, model, sampling, values

    assert sampling.Sampling is values.Sampling
    assert (generation.Stats, generation.Step, generation.Alternative) == (
        values.Stats,
        values.Step,
        values.Alternative,
    )
    assert model.ModelInfo is values.ModelInfo
    every = LoadOptions(ctx=1, kv="f16", mmap=False, n_seq=2)
    assert wire.unpack(LoadOptions, dataclasses.asdict(every)) == every
    with pytest.raises(wire.WireError):
        wire.unpack(LoadOptions, {"threads": "many"})
