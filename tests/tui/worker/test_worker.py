"""The model in a process of its own gives the same answers as in this one, and stops at every stage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bq.runtime.errors import Cancelled
from bq.runtime.fit import LoadOptions
from bq.runtime.prompt import Message
from bq.runtime.values import Sampling, Stats, Step
from bq.tui.answer_form import AnswerForm
from bq.tui.engine import Answering, Engine, Loading, Question
from bq.tui.kept_session import session_in_use
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID

from .common import _PIECE_A, GREEDY, LONG, QUESTION, answer, load, process_of, start, until

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
