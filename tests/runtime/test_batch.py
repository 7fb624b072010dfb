"""Many prompts at once give the answers that each would give alone, whatever the cache, the neighbours and the end."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime import batch as batch_module
from bq.runtime.batch import Counts, Job, Result, run_batch
from bq.runtime.errors import BqError
from bq.runtime.generation import Options
from bq.runtime.llama import library
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message, Prompt
from bq.runtime.sampling import Sampling
from bq.runtime.sequences import Part, Sequences, common_prefix
from tests.support.families import FAMILIES, Checkpoint, Family, Shape, write_checkpoint
from tests.support.tokenizer import ASSISTANT_ID

Convert = Callable[..., Path]
Scripted = Callable[..., Path]
GREEDY = Sampling(temperature=0, repeat_penalty=1)
SMALL: dict[str, Any] = {"hidden": 96, "ffn": 128}
EIGHT = LoadOptions(ctx=512, threads=1, n_seq=8)
TEXTS = (
    "the model",
    "reads",
    "大模型",
    "a",
    "the model reads a",
    "你好",
    "model model",
    "x",
    "reads the",
    "the",
    "of",
    "一",
)


@pytest.fixture(scope="module")
def model(converted: Convert) -> Iterator[Model]:
    with load(converted("b2-7b", **SMALL), EIGHT) as loaded:
        yield loaded


def jobs_of(model: Model, texts: Sequence[str] = TEXTS, system: str = "", **options: Any) -> list[Job]:
    wanted = Options(**{"sampling": GREEDY, "max_tokens": 12} | options)
    front = [Message("system", system)] if system else []
    return [Job(i, model.prompt([*front, Message("user", text)]).ids, wanted) for i, text in enumerate(texts)]


def alone(model: Model, job: Job) -> tuple[int, ...]:
    """The tokens of one answer, by the token loop for one."""
    steps = model._generate(Prompt(job.ids), job.options).steps()
    return tuple(step.token for step in steps if step.token is not None)


REFERENCE = Checkpoint(Path(), Shape("b2-7b", **SMALL))
END = 2


def agree(model: Model, jobs: Iterable[Job], found: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether answers are those given alone. Processors differ in how they round several rows at once, by about 1e-3, so an
    answer may part from the other where the numpy forward pass has a near tie of the two tokens.
    """
    return all(_agrees(job, found[job.key], alone(model, job)) for job in jobs)


def _agrees(job: Job, ids: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    pairs = zip((*ids, END), (*expected, END), strict=False)
    at = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
    if at is None:
        return ids == expected
    row = REFERENCE.logits([*job.ids, *expected[:at]])[-1]
    one, other = (*ids, END)[at], (*expected, END)[at]
    return bool(abs(row[one] - row[other]) < 0.01 * np.abs(row).max())


def answers(results: Iterator[Result]) -> dict[int, tuple[int, ...]]:
    found = {result.key: result.ids for result in results if not result.error}
    assert found
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_is_the_likeliest_by_the_reference(converted: Convert, family: Family) -> None:
    """By the numpy forward pass; llama.cpp's f16 KV cache is off by about 1e-3."""
    path = converted(family, **SMALL)
    checkpoint = write_checkpoint(path.parent / "again", Shape(family, **SMALL))
    with load(path, EIGHT) as loaded:
        jobs = jobs_of(loaded, TEXTS[:6], system="大模型 reads", max_tokens=8)
        for result in run_batch(loaded, jobs, 3):
            begin = result.prompt_tokens
            logits = checkpoint.logits([*jobs[result.key].ids, *result.ids])[begin - 1 : -1]
            for row, token in zip(logits, result.ids, strict=True):
                assert row.max() - row[token] < 0.01 * np.abs(row).max()
            assert len(result.ids) == 8 or result.stop == "end"


@pytest.mark.parametrize("parallel", [1, 2, 8, 40])
def test_answers_are_those_given_one_by_one(model: Model, parallel: int) -> None:
    jobs = jobs_of(model)
    assert agree(model, jobs, answers(run_batch(model, jobs, parallel)))


def test_the_text_and_its_end_are_those_of_a_single_answer(model: Model) -> None:
    for stop in ((), ("e",)):
        jobs = jobs_of(model, stop=stop)
        for result in list(run_batch(model, jobs, 4)):
            single = model._generate(Prompt(jobs[result.key].ids), jobs[result.key].options)
            assert (result.text, result.stop) == ("".join(single), single.stats.stop)


def test_drawn_answers_depend_on_no_neighbour(scripted: Scripted) -> None:
    """On a model whose logits are exact. Others' are rounded differently in company, by about 1e-3, which changes a draw
    where it falls on the edge between two tokens."""
    script = {ASSISTANT_ID: 300, 300: 301, 301: 302, 302: 303, 303: 300}
    with load(scripted(script), EIGHT) as loaded:
        drawing = Sampling(temperature=4, top_k=40, top_p=1)
        jobs = [
            replace(job, options=replace(job.options, sampling=replace(drawing, seed=job.key)))
            for job in jobs_of(loaded)
        ]
        drawn = answers(run_batch(loaded, jobs, 8))
        assert answers(run_batch(loaded, reversed(jobs), 3)) == drawn
        assert answers(run_batch(loaded, jobs[5:6], 8)) == {5: drawn[5]}
        assert len(set(drawn.values())) > 6


def test_what_prompts_begin_with_in_common_is_decoded_once(model: Model) -> None:
    """Also by those that come at the same time: they wait for the first to decode it."""
    seen: list[Counts] = []
    jobs = jobs_of(model, system="the model reads 大模型 " * 12)
    found = answers(run_batch(model, jobs, 8, on_step=seen.append))
    common = min(common_prefix(job.ids, jobs[0].ids) for job in jobs)
    assert common > 60
    assert seen[-1].prompt_tokens == sum(len(job.ids) for job in jobs)
    assert seen[-1].reused_tokens >= (len(jobs) - 1) * common
    assert agree(model, jobs, found)


def test_a_full_cache_puts_answers_back_and_loses_no_token(converted: Convert) -> None:
    """256 cells for six answers of up to 80 tokens; let in by a guess that the first ones are short."""
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=256, threads=1, n_seq=6)) as loaded:
        seen: list[Counts] = []
        loaded._engine.is_end = lambda token: False  # type: ignore[union-attr, method-assign]
        short = jobs_of(loaded, TEXTS[:4], max_tokens=2)
        long = [replace(job, key=job.key + 4) for job in jobs_of(loaded, TEXTS[:6], max_tokens=80)]
        found = answers(run_batch(loaded, [*short, *long], 6, on_step=seen.append))
        assert seen[-1].put_back > 0
        assert {len(found[job.key]) for job in long} == {80}
        assert agree(loaded, [*short, *long], found)
        assert seen[-1].tokens == sum(map(len, found.values()))


def test_an_answer_ends_where_the_context_does(converted: Convert) -> None:
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=256, threads=1, n_seq=2)) as loaded:
        loaded._engine.is_end = lambda token: False  # type: ignore[union-attr, method-assign]
        (job,) = jobs_of(loaded, ["a"], max_tokens=5000)
        (result,) = run_batch(loaded, [job], 2)
        assert (result.stop, len(result.ids) + len(job.ids)) == ("length", 256)
        assert result.ids == alone(loaded, job)


def test_one_conversation_is_never_longer_than_the_model_was_trained_for(converted: Convert) -> None:
    """The cache of several may be."""
    with load(converted("b1-7b", **SMALL), LoadOptions(ctx=8192, threads=1, n_seq=2)) as loaded:
        assert loaded._engine is not None
        assert (loaded._engine.size, loaded.info.context) == (8192, 4096)
        (result,) = run_batch(loaded, [Job(0, (5,) * 4096)], 2)
        assert (result.stop, result.error) == ("error", _too_long(4096, 4096))


def _too_long(tokens: int, context: int) -> str:
    return f"The prompt has {tokens} tokens, the context {context}. Shorten it, or use a larger --ctx."


def test_a_job_that_cannot_be_answered_is_the_only_one_that_fails(model: Model) -> None:
    def refuse(tokenizer: object) -> Any:
        raise BqError("This grammar is none.")

    jobs = jobs_of(model, TEXTS[:4])
    bad = [
        Job(10, (5,) * 512, jobs[0].options),
        Job(11, (), jobs[0].options),
        Job(12, jobs[0].ids, replace(jobs[0].options, constraint=refuse)),
    ]
    results = {result.key: result for result in run_batch(model, [bad[0], *jobs, *bad[1:]], 2)}
    assert {key: result.error for key, result in results.items() if result.error} == {
        10: _too_long(512, 512),
        11: _too_long(0, 512),
        12: "This grammar is none.",
    }
    assert agree(model, jobs, {key: result.ids for key, result in results.items()})


class _Only:
    """A constraint that lets one token through, `count` times, and then only the end."""

    def __init__(self, token: int, count: int) -> None:
        self.token, self.left = token, count
        self.is_closed = False

    def allows(self, token: int) -> bool:
        return (token == self.token and self.left > 0) or (token == 2 and self.left == 0)

    def mask(self, logits: Any) -> None:
        kept = 2 if self.left == 0 else self.token
        value = logits[kept]
        logits[:] = -np.inf
        logits[kept] = value

    def accept(self, token: int) -> None:
        self.left -= token != 2

    def may_end(self) -> bool:
        return self.left == 0

    def must_end(self) -> bool:
        return False

    def closing(self, logits: Any) -> int | None:
        return self.token if self.left else 2

    def close(self) -> None:
        self.is_closed = True


def test_every_answer_has_a_constraint_of_its_own(model: Model) -> None:
    made: list[_Only] = []

    def make(tokenizer: object) -> _Only:
        made.append(_Only(300 + len(made), 3 + len(made)))
        return made[-1]

    jobs = jobs_of(model, constraint=make, max_tokens=6)
    found = {result.key: result for result in run_batch(model, jobs, 5)}
    assert [found[i].ids for i in range(len(jobs))] == [(300 + i,) * (3 + i) for i in range(len(jobs))]
    assert [found[i].stop for i in range(len(jobs))] == ["end"] * 3 + ["length"] * (len(jobs) - 3)
    assert len(made) == len(jobs)
    assert all(one.is_closed for one in made)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 15])
def test_a_cancelled_batch_leaves_a_model_that_answers_right(model: Model, steps: int) -> None:
    jobs = jobs_of(model, system="the model reads 大模型 " * 12, max_tokens=10)
    cancel = threading.Event()

    def stop(counts: Counts) -> None:
        if counts.steps >= steps:
            cancel.set()

    if steps == 0:
        cancel.set()
    results = list(run_batch(model, jobs, 4, cancel, stop))
    assert len(results) < len(jobs)
    _check_clean(model)
    assert agree(model, [jobs[result.key] for result in results], {result.key: result.ids for result in results})
    assert agree(model, jobs, answers(run_batch(model, jobs, 8)))


def test_a_cancelled_prefill_stops_within_the_decode(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp asks between operations; the batch that it drops halfway leaves nothing behind."""
    cancel = threading.Event()
    decode = Sequences.decode

    def cancel_within(self: Sequences, parts: Sequence[Part], event: threading.Event | None) -> int:
        assert event is cancel
        cancel.set()
        result = decode(self, parts, event)
        assert result == batch_module.ABORTED
        assert [_held(model, part.sequence) for part in parts] == [self.used(part.sequence) for part in parts]
        return result

    monkeypatch.setattr(Sequences, "decode", cancel_within)
    assert list(run_batch(model, jobs_of(model, system="the model " * 50), 4, cancel)) == []
    _check_clean(model)


def test_closing_the_results_early_leaves_a_clean_model(model: Model) -> None:
    results = run_batch(model, jobs_of(model), 4)
    next(results)
    results.close()  # type: ignore[attr-defined]
    _check_clean(model)
    (job,) = jobs_of(model, ["the model"])
    assert alone(model, job)


def _held(model: Model, sequence: int) -> int:
    """How many tokens llama.cpp holds of a sequence."""
    lib = library()
    assert model._engine is not None
    return int(lib.llama_memory_seq_pos_max(lib.llama_get_memory(model._engine.context), sequence)) + 1


def _state_bytes(model: Model, sequence: int) -> int:
    """What llama.cpp would save of a sequence, which grows with each of its cells."""
    assert model._engine is not None
    return int(library().llama_state_seq_get_size(model._engine.context, sequence))


@pytest.fixture(scope="module")
def state_bytes(model: Model) -> list[int]:
    """By the number of tokens, where each stands in one cell."""
    assert model._engine is not None
    model._engine.forget()
    sizes = []
    for token in range(140):
        sizes.append(_state_bytes(model, 0))
        model._engine.add(5 + token)
    model._engine.forget()
    return sizes


def test_a_shared_prefix_takes_the_place_of_ones_own(model: Model, state_bytes: list[int]) -> None:
    """Two sequences that decoded the same tokens apart; then one goes on from the other's, which are more."""
    assert model._engine is not None
    model._engine.take_over()
    cache = Sequences(model._engine, 2)
    assert cache.decode([Part(0, (5, 6, 7, 8), True), Part(1, (5, 6, 9), True)], None) == 0
    assert cache.cells((0, 1)) == 7
    assert cache.begin(1, (5, 6, 7, 8, 9)) == 4
    assert (cache.cells((0, 1)), _state_bytes(model, 1)) == (4, state_bytes[4])
    model._engine.take_over()


def _check_clean(model: Model) -> None:
    assert [_held(model, sequence) for sequence in range(8)] == [0] * 8
    assert model._engine is not None
    assert model._engine.ids == ()


def test_jobs_are_taken_only_when_there_is_room(model: Model) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Job]:
        for job in jobs_of(model, TEXTS * 3):
            taken.append(job.key)
            yield job

    for done, _ in enumerate(run_batch(model, jobs(), 3)):
        assert len(taken) <= done + 1 + 3 + 1


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(5, 8), min_size=1, max_size=90), min_size=1, max_size=12),
    lengths=st.lists(st.integers(1, 40), min_size=12, max_size=12),
    parallel=st.integers(1, 8),
)
def test_what_is_kept_of_the_cache_is_what_llama_cpp_holds(
    model: Model, state_bytes: list[int], prompts: list[list[int]], lengths: list[int], parallel: int
) -> None:
    """Over any prompts; and every job is answered once, with as many tokens as it asked for or an end."""
    made: list[Sequences] = []
    jobs = [
        Job(i, tuple(ids), Options(sampling=GREEDY, max_tokens=length))
        for i, (ids, length) in enumerate(zip(prompts, lengths, strict=False))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "Sequences", lambda *args: made.append(Sequences(*args)) or made[-1])

        def check(counts: Counts) -> None:
            for sequence in range(parallel):
                assert _held(model, sequence) == made[0].used(sequence)
                assert _state_bytes(model, sequence) == state_bytes[made[0].used(sequence)]

        results = list(run_batch(model, jobs, parallel, on_step=check))
    assert sorted(result.key for result in results) == list(range(len(jobs)))
    assert all(len(one.ids) == lengths[one.key] or one.stop == "end" for one in results)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_prefix_is_the_longest(some: list[int], others: list[int]) -> None:
    length = common_prefix(some, others)
    assert some[:length] == others[:length]
    assert list(islice(some, length, length + 1)) != list(islice(others, length, length + 1)) or length == len(some)
