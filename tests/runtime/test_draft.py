"""Guessing ahead: what is guessed, what it may cost, and that answers stay what they are without, token for token."""

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.draft import Tape
from bq.demo.corpus import load_corpus
from bq.runtime.draft import BLOCK, WIDTHS, Draft, Steps
from bq.runtime.engine import Engine
from bq.runtime.generation import Generation
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from bq.runtime.sampling import Logits, Sampling
from tests.support.families import Family
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID

Convert = Callable[..., Path]
GREEDY = Sampling(temperature=0, repeat_penalty=1)
BITS: dict[str, Any] = {"hidden": 256, "heads": 4, "ffn": 256}  # rows of whole blocks, for K-quants
FREE = dict.fromkeys(WIDTHS, 1.0)
LINEAR = {width: float(width) for width in WIDTHS}


class Eager(Steps):
    """Guesses and tries whatever it may: a wide step seems to cost nothing more."""

    def __init__(self, proven: bool = False) -> None:
        super().__init__()
        self.proven = proven

    def cost(self, width: int) -> float:
        return 1.0

    def is_same(self, width: int, block: int) -> bool:
        return self.proven or super().is_same(width, block)

    @property
    def is_known(self) -> bool:
        return True

    def took(self, width: int, gained: int, seconds: float) -> None:
        self.credit = 1e9


def eager(proven: bool = False) -> Eager:
    steps = Eager(proven)
    steps.credit = 1e9
    return steps


# --- what is guessed


def expected_guesses(prompt: Sequence[int], answer: Sequence[int], count: int) -> list[list[int]]:
    """By the definition: the last occurrence of the longest n-gram of 2 to 4, followed as long as it is right."""
    ids, source, guesses = list(prompt), -1, []
    for token in [None, *answer]:
        if token is not None:
            is_right = source >= 0 and ids[source] == token
            ids.append(token)
            source = source + 1 if is_right else -1
        if source < 0:
            for n in (4, 3, 2):
                ends = [end for end in range(n, len(ids)) if n <= len(ids) and ids[end - n : end] == ids[-n:]]
                if ends:
                    source = ends[-1]
                    break
        longer = list(ids)
        for _ in range(count if source >= 0 else 0):
            longer.append(longer[len(longer) - len(ids) + source])
        guesses.append(longer[len(ids) :])
    return guesses


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=40), st.lists(st.integers(0, 4), max_size=40))
def test_the_guess_is_what_followed_the_longest_ngram_last_time(prompt: list[int], answer: list[int]) -> None:
    draft = Draft(prompt, eager(proven=True))
    for token, expected in zip([None, *answer], expected_guesses(prompt, answer, WIDTHS[-1] - 1), strict=True):
        if token is not None:
            draft.observe(token)
        guesses = draft.propose()
        assert guesses == expected[: len(guesses)]
        if not expected:
            assert not guesses
            assert not draft.trial()


def test_a_repeated_text_is_guessed_at_once_and_as_far_as_a_step_goes() -> None:
    draft = Draft([*range(40), *range(100, 120), *range(8)], eager(proven=True))
    assert draft.propose() == list(range(8, 8 + WIDTHS[-1] - 1))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_only_proven_widths_are_used_and_no_step_crosses_a_block(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 999)))
    fails_from = {width: data.draw(st.integers(0, 4)) for width in WIDTHS}
    draft = Draft([rng.randrange(3) for _ in range(data.draw(st.integers(0, 700)))], steps := eager())
    for _ in range(60):
        draft.observe(rng.randrange(3))
        position = len(draft._ids) - 1
        for guesses in (draft.trial(), draft.propose()):
            assert not guesses or (position + len(guesses)) // BLOCK == position // BLOCK
        if tried := draft.trial():
            assert not steps.is_same(1 + len(tried), position // BLOCK)
            draft.judge(len(tried), position, position // BLOCK < fails_from[1 + len(tried)])
        if guessed := draft.propose():
            assert position // BLOCK < fails_from[1 + len(guessed)]


# --- what it may cost


def run(prompt: Sequence[int], answer: Sequence[int], costs: dict[int, float], steps: Steps, same: bool) -> float:
    """The time of an answer in steps of one token, on a machine whose steps cost that."""
    draft, time, step = Draft(prompt, steps), 0.0, 0.0
    guesses: list[int] = []
    right = 0
    for number, token in enumerate(answer):
        draft.observe(token)
        if right < len(guesses) and guesses[right] == token:
            right += 1
            continue
        if number:
            draft.learn(len(guesses), right, step)
        if tried := draft.trial():
            time += costs[1 + len(tried)]
            draft.tried(len(tried), costs[1 + len(tried)])
            if not same or list(answer[number + 1 : number + 1 + len(tried)]) == tried:
                draft.judge(len(tried), len(prompt) + number, same)
        guesses, right = draft.propose(), 0
        step = costs[1 + len(guesses)] if guesses else 1.0
        time += step
    return time


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 9999),
    alphabet=st.sampled_from([2, 3, 5, 20, 200]),
    slope=st.floats(0.02, 1.2),
    same=st.booleans(),
    length=st.integers(50, 600),
    copied=st.sampled_from([0, 0.8, 0.95, 1]),
)
def test_whatever_comes_little_is_lost(
    seed: int, alphabet: int, slope: float, same: bool, length: int, copied: float
) -> None:
    """Texts that repeat by chance or in part, on any hardware: one step in a hundred, and once for a model five and
    what the first wide ones cost beyond what was expected of them."""
    rng = random.Random(seed)
    prompt, answer = ([rng.randrange(alphabet) for _ in range(n)] for n in (300, length))
    if copied:
        answer = [token if rng.random() < copied else rng.randrange(alphabet) for token in (prompt * 2)[:length]]
    costs = {width: 1 + slope * (width - 1) for width in WIDTHS}
    assert run(prompt, answer, costs, Steps(), same) <= 1.01 * length + 5.1 + 16 * max(0.0, slope - 0.3)


@pytest.mark.parametrize(("costs", "gain"), [(FREE, 3.0), ({2: 1.3, 7: 2.9, 16: 4.3}, 1.5)])
def test_a_copied_text_is_worth_it_where_a_wide_step_is_cheap(costs: dict[int, float], gain: float) -> None:
    rng = random.Random(1)
    source = [rng.randrange(5000) for _ in range(300)]
    answer = [token if rng.random() < 0.97 else 6000 + i for i, token in enumerate(source)]
    assert run([*source, 9999], answer, costs, Steps(), same=True) < len(answer) / gain


def test_it_is_off_where_a_wide_step_saves_nothing() -> None:
    source = [*range(1000)]
    assert run([*source, 9999], source, LINEAR, Steps(), same=True) < 1.03 * len(source)


def test_after_a_failed_trial_nothing_wider_and_nothing_later_is_tried() -> None:
    steps = Steps()
    assert steps.may_be_same(2, 0)
    assert not steps.may_be_same(7, 0), "the narrower one comes first"
    steps.judge(2, 0, True)
    assert steps.may_be_same(7, 0)
    assert steps.may_be_same(7, 3)
    steps.judge(7, 2, False)
    assert [steps.may_be_same(width, block) for width in (7, 16) for block in (1, 2, 3)] == [True, False, False] + 3 * [
        False
    ]
    assert steps.may_be_same(2, 3)


# --- the answers

Asked = Callable[..., Generation]
Told = list[tuple[int | None, float, list[float]]]


def told(answer: Generation) -> Told:
    """Each token with its log probability and those of the likeliest, which shows any difference of any logit."""
    return [
        (step.token, step.chosen.logprob, [other.logprob for other in step.alternatives])
        for step in answer.steps()
        if step.chosen is not None
    ]


def both(model: Model, ask: Asked, steps: Steps, **options: Any) -> tuple[Told, Told, Generation]:
    """An answer without and with guesses, each from an empty cache."""
    assert model._engine is not None
    options = {"sampling": GREEDY, "top_tokens": 2, **options}
    model._engine.forget()
    plain = told(ask(draft=False, **options))
    model._engine.forget()
    answer = ask(draft=functools.partial(Draft, steps=steps), **options)
    drafted = told(answer)
    assert answer.stats.context_used == len(model._engine.ids)
    return plain, drafted, answer


def copying(model: Model, text: str) -> Callable[[object], Tape]:
    """A constraint that makes the answer repeat a text."""
    tokens = model.tokenizer.encode(text)
    return lambda tokenizer: Tape(tokens)


TEXT = "the model reads what comes next and says the rest 大模型"
SAMPLED = Sampling(temperature=0.7, top_k=40, top_p=0.95, repeat_penalty=1.1, seed=5)


@pytest.mark.parametrize(
    ("family", "mixture"),
    [("b2-7b", "F32"), ("b2-7b", "F16"), ("b2-7b", "Q8_0"), ("b2-7b", "Q4_K_M"), ("b1-13b", "Q8_0")],
)
def test_all_logits_are_the_same_with_and_without(converted: Convert, family: Family, mixture: str) -> None:
    """Also where llama.cpp's kernels round several tokens otherwise than one: there nothing is guessed."""
    with load(converted(family, mixture, **BITS), LoadOptions(ctx=512, threads=1)) as model:
        model._engine.is_end = lambda token: False  # type: ignore[union-attr, method-assign]
        steps = eager()
        for sampling in (GREEDY, SAMPLED):
            ask = functools.partial(model.complete, TEXT, sampling=sampling)
            plain, drafted, _ = both(model, ask, steps, constraint=copying(model, TEXT), max_tokens=40)
            assert drafted == plain
            assert steps._same or steps._other, "no trial was made"
            plain, drafted, _ = both(model, ask, steps, sampling=sampling, max_tokens=12)
            assert drafted == plain


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_all_logits_are_the_same_with_two_threads_and_across_blocks(converted: Convert, kv: str) -> None:
    """Attention by several threads over an f16 cache rounds otherwise beyond 256 cells."""
    with load(converted("b2-7b", "Q8_0", **BITS), LoadOptions(ctx=512, threads=2, kv=kv)) as model:
        steps = eager()
        prompt = "!" * 185 + TEXT
        room = BLOCK - len(model.tokenizer.encode(prompt))
        assert 15 < room < 60
        ask = functools.partial(model.complete, prompt)
        plain, drafted, _ = both(model, ask, steps, constraint=copying(model, TEXT * 3), max_tokens=room + 25)
        assert drafted == plain
        assert {block for _, block in steps._same} | set(steps._other.values()) >= {1}, "no trial beyond"


def test_the_bundled_model_gives_its_answers_again(demo_gguf: Path) -> None:
    """Questions asked twice in a conversation: the second answer stands in the prompt."""
    questions = load_corpus().questions[::60]
    with load(demo_gguf, LoadOptions(ctx=512, threads=1)) as model:
        steps = eager()
        for question in questions:
            asked = Message("user", question.ask[0])
            ask = functools.partial(model.chat, [asked, Message("assistant", question.answer), asked], max_tokens=64)
            plain, drafted, _ = both(model, ask, steps)
            assert drafted == plain
        assert steps._same or steps._other, "no trial was made"


class Recorded:
    """The decodes of an engine: position and number of tokens; wide ones may be told to round otherwise."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, rounding: float = 0.0) -> None:
        self.steps: list[tuple[int, int]] = []
        add, add_several = engine.add, engine.add_several

        def recorded(token: int) -> None:
            self.steps.append((engine.used, 1))
            add(token)

        def recorded_several(tokens: Sequence[int]) -> None:
            self.steps.append((engine.used, len(tokens)))
            add_several(tokens)
            if rounding:
                Logits(len(engine.tokenizer)).row(engine.context, len(tokens) - 1)[-1] += rounding

        monkeypatch.setattr(engine, "add", recorded)
        monkeypatch.setattr(engine, "add_several", recorded_several)


@pytest.fixture(scope="module")
def looping_file(scripted: Callable[..., Path]) -> Path:
    letters = byte_tokens("abcdefghij")
    return scripted({ASSISTANT_ID: letters[0], **dict(zip(letters, [*letters[1:], letters[0]], strict=True))})


@pytest.fixture
def looping(looping_file: Path) -> Iterator[Model]:
    """A model that says abcdefghij over and over: there is nothing in its weights that could be rounded."""
    with load(looping_file, LoadOptions(ctx=1024, threads=1)) as model:
        yield model


def test_a_repeating_answer_takes_few_steps_none_of_them_across_a_block(
    looping: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looping._engine is not None
    decodes = Recorded(looping._engine, monkeypatch)
    ask = functools.partial(looping.chat, [Message("user", "a")])
    plain, drafted, answer = both(looping, ask, steps := eager(), max_tokens=600)
    assert drafted == plain
    assert len(drafted) == 600
    wide = decodes.steps[len(plain) - 1 :]
    assert len(wide) < len(plain) / 4
    assert all(position // BLOCK == (position + count - 1) // BLOCK for position, count in wide)
    assert {block for _, block in steps._same} == {0, 1, 2}
    assert answer.stats.accepted > 500
    assert answer.stats.accepted <= answer.stats.drafted


def test_a_difference_in_the_last_bit_of_one_logit_is_seen(looping: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looping._engine is not None
    Recorded(looping._engine, monkeypatch, rounding=1e-7)
    ask = functools.partial(looping.chat, [Message("user", "a")])
    plain, drafted, answer = both(looping, ask, steps := eager(), max_tokens=60)
    assert drafted == plain
    assert answer.stats.drafted == 0
    assert steps._other == {WIDTHS[0]: 0}


@pytest.mark.parametrize("stop_after", [1, 5, 9, 23, 40, 57])
@pytest.mark.parametrize("how", ["abandoned", "limit", "stop text"])
def test_wherever_an_answer_ends_the_cache_holds_what_was_said(looping: Model, how: str, stop_after: int) -> None:
    assert looping._engine is not None
    question = [Message("user", "a")]
    options: dict[str, Any] = {"sampling": GREEDY, "max_tokens": stop_after if how == "limit" else 200}
    if how == "stop text":
        options["stop"] = [("abcdefghij" * 6)[:stop_after]]
    answer = looping.chat(question, draft=functools.partial(Draft, steps=eager()), **options)
    ids = []
    for step in answer.steps():
        ids += [step.token] if step.token is not None else []
        if how == "abandoned" and len(ids) == stop_after:
            break
    assert ids == byte_tokens("abcdefghij" * 6)[:stop_after]
    assert looping._engine.ids == (*looping.prompt(question).ids, *ids[:-1])
    assert answer.stats.context_used == len(looping._engine.ids)
    assert "".join(looping.chat(question, sampling=GREEDY, max_tokens=7, draft=False)) == "abcdefg"
