"""The token loop: what is kept in the KV cache, what a draft may change (nothing), where an answer ends, what each step tells."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.draft import Draft
from bq.runtime.errors import BqError, UsageError
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from bq.runtime.sampling import Logits, Sampling
from bq.runtime.text_stream import StopStrings
from tests.support.families import FAMILIES, Family, Shape, write_checkpoint
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID

Convert = Callable[..., Path]
GREEDY = Sampling(temperature=0, repeat_penalty=1)
OPTIONS = LoadOptions(ctx=512, threads=1)
SMALL: dict[str, Any] = {"hidden": 96, "ffn": 128}
# llama.cpp's flash attention on the CPU adds up in f16 for one query and in f32 for a block of them, over 32 or 40 blocks:
# 0.003 to 0.01 of the greatest logit here. A token too many or too few in the cache changes it by more than 0.2.
ROUNDING = 0.03


@pytest.fixture
def model(converted: Convert) -> Iterator[Model]:
    with load(converted("b2-7b", **SMALL), OPTIONS) as loaded:
        yield loaded


def chat(*contents: str) -> list[Message]:
    return [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def last_logits(model: Model) -> npt.NDArray[np.float32]:
    assert model._engine is not None
    return Logits(len(model.tokenizer)).row(model._engine.context, -1).copy()


def prefilled(path: Path, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits after `ids`, decoded at once by a fresh model."""
    with load(path, OPTIONS) as fresh:
        assert fresh._engine is not None
        assert fresh._engine.prefill(ids)
        return last_logits(fresh)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reused_prefix_gives_the_logits_of_a_fresh_prefill(converted: Convert, family: Family) -> None:
    path = converted(family, **SMALL)
    with load(path, OPTIONS) as loaded:
        first = "".join(loaded.chat([Message("system", "大模型"), *chat("the model")], sampling=GREEDY, max_tokens=9))
        turns = [Message("system", "大模型"), *chat("the model", first, "reads", "yes", "more")]
        for count in (4, 6):
            answer = loaded.chat(turns[:count], sampling=GREEDY, max_tokens=1)
            "".join(answer)
            assert 5 <= answer.stats.reused_tokens < answer.stats.prompt_tokens
            ours, fresh = last_logits(loaded), prefilled(path, loaded.prompt(turns[:count]).ids)
            assert np.abs(ours - fresh).max() < ROUNDING * np.abs(fresh).max()


def test_a_new_turn_decodes_only_what_is_new(model: Model) -> None:
    """The answer's ids stay in the cache; its text, encoded again, begins with them where the tokenizer agrees."""
    turns = chat("the model", "reads", "and")
    "".join(model.chat(turns, sampling=GREEDY, max_tokens=1))
    before = model.prompt(turns, 1)
    longer = [*turns, *chat("x", "yes", "more")[1:]]
    answer = model.chat(longer, sampling=GREEDY, max_tokens=1)
    "".join(answer)
    assert answer.stats.reused_tokens == len(before.ids)


@pytest.mark.parametrize("stage", ["before", "prefill", "decode", "abandoned"])
@pytest.mark.parametrize("family", ["b1-13b", "b2-7b"])  # positions in the mask, and in the keys
def test_after_a_stop_at_any_stage_the_cache_is_what_it_says(converted: Convert, family: Family, stage: str) -> None:
    """Its ids are right, and so the next answer is: logits as of a fresh model."""
    path = converted(family, **SMALL)
    cancel = threading.Event()
    with load(path, LoadOptions(ctx=2048, threads=1)) as loaded:
        if stage == "before":
            cancel.set()
        on_prefill = (lambda *_: cancel.set()) if stage == "prefill" else None
        answer = loaded.chat(chat("!" * 600), sampling=GREEDY, max_tokens=6, cancel=cancel, on_prefill=on_prefill)
        for number, _ in enumerate(answer.steps()):
            if stage == "decode" and number == 2:
                cancel.set()
            if stage == "abandoned" and number == 1:
                break
        assert loaded._engine is not None
        assert len(loaded._engine.ids) == answer.stats.context_used
        again = loaded.chat(chat("!" * 450), sampling=GREEDY, max_tokens=1)
        "".join(again)
        assert (again.stats.reused_tokens > 0) == (stage != "before")
        ours, fresh = last_logits(loaded), prefilled(path, loaded.prompt(chat("!" * 450)).ids)
        assert np.abs(ours - fresh).max() < ROUNDING * np.abs(fresh).max()


class Oracle(Draft):
    """Guesses from a known answer: right ones, with a wrong one at some places."""

    def __init__(self, answer: Sequence[int], wrong_at: Sequence[int], count: int) -> None:
        super().__init__([])
        self.answer, self.wrong_at, self.count = answer, set(wrong_at), count
        self.seen: list[int] = []
        self.learned: list[tuple[int, int]] = []

    def trial(self) -> list[int]:
        return []

    def propose(self) -> list[int]:
        begin = len(self.seen)
        ahead = self.answer[begin : begin + self.count]
        return [token + (begin + i in self.wrong_at) for i, token in enumerate(ahead)]

    def observe(self, token: int) -> None:
        self.seen.append(token)

    def learn(self, drafted: int, accepted: int, seconds: float) -> None:
        assert 0 <= accepted <= drafted
        assert seconds > 0
        self.learned.append((drafted, accepted))


@pytest.mark.parametrize("wrong_at", [(), (0,), (3, 4, 11), range(30)], ids=["right", "first", "some", "all"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 40, 0.95, 1.1, seed=3)], ids=["greedy", "sampled"])
def test_a_draft_changes_nothing_but_the_number_of_steps(
    scripted: Callable[..., Path], sampling: Sampling, wrong_at: Sequence[int]
) -> None:
    """Penalties and draws too: each token is drawn where it would be drawn without."""
    script = saying(byte_tokens("abcdefghijklmnopqrstuvwx"))
    with load(scripted(script), OPTIONS) as loaded:
        plain = loaded.chat(chat("a"), sampling=sampling, max_tokens=20)
        tokens = [step.token for step in plain.steps() if step.token is not None]
        oracle = Oracle(tokens, wrong_at, 5)
        drafted = loaded.chat(chat("a"), sampling=sampling, max_tokens=20, draft=lambda ids: oracle)
        again = [step.token for step in drafted.steps() if step.token is not None]
        assert again == tokens
        assert drafted.stats.stop == plain.stats.stop
        assert loaded._engine is not None
        assert list(loaded._engine.ids[drafted.stats.prompt_tokens :]) == tokens[:-1]
        assert drafted.stats.context_used == len(loaded._engine.ids)
        if not wrong_at:
            assert drafted.stats.accepted >= 15
        if len(wrong_at) == 30:
            assert drafted.stats.accepted == 0 < drafted.stats.drafted


@pytest.mark.parametrize(("stop", "said"), [("def", "abc"), ("a", ""), ("zz", "abcdefghij"), ("ijk", "abcdefgh")])
def test_a_stop_text_ends_the_answer_and_is_not_shown(scripted: Callable[..., Path], stop: str, said: str) -> None:
    with load(scripted(saying(byte_tokens("abcdefghij" + "kl" * (stop == "ijk")))), OPTIONS) as loaded:
        answer = loaded.chat(chat("a"), sampling=GREEDY, stop=[stop, "qq"])
        assert "".join(answer) == said
        assert answer.stats.stop == ("end" if stop == "zz" else "stop")


@settings(max_examples=500, deadline=None)
@given(
    text=st.text("abx", max_size=30),
    stops=st.lists(st.text("abx", min_size=1, max_size=5), max_size=3),
    cuts=st.lists(st.integers(0, 30), max_size=8),
)
def test_a_stop_is_found_however_the_text_is_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    stream = StopStrings(stops)
    shown = "".join(stream.add(text[a:b]) for a, b in pairwise(edges)) + stream.finish()
    # Of several stops, the one that is whole first ends the text; where one piece makes several whole, the one that begins first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert stream.found == bool(ends)
    assert shown in {text[:begin] for _, begin in ends} if ends else shown == text
    if len(set(stops)) == 1 and ends:
        assert shown == text[: ends[0][1]]


def test_text_before_a_stop_is_not_held_back_longer_than_needed() -> None:
    stream = StopStrings(["END"])
    assert [stream.add(piece) for piece in ("ab", "cE", "N", "x", "EN", "D", "more")] == [
        "ab",
        "c",
        "",
        "ENx",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize("family", ["b1-7b", "b2-13b"])
def test_each_step_tells_what_else_the_model_thought_of(converted: Convert, family: Family) -> None:
    """Probabilities against the numpy forward pass of the checkpoint, before penalty, temperature and cuts."""
    path = converted(family, **SMALL)
    checkpoint = write_checkpoint(path.parent / "again", Shape(family, **SMALL))
    sampling = Sampling(temperature=0.7, top_k=3, top_p=0.9, repeat_penalty=1.3, seed=2)
    with load(path, OPTIONS) as loaded:
        answer = loaded.complete("the model reads", sampling=sampling, max_tokens=6, top_tokens=4)
        steps = [step for step in answer.steps() if step.token is not None]
        assert loaded._engine is not None
        ids = [*loaded._engine.ids, steps[-1].token]
        prompt = answer.stats.prompt_tokens
        assert ids[prompt:] == [step.token for step in steps]
        rows = checkpoint.logits(ids)[prompt - 1 : -1].astype(np.float64)
        logprobs = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        for step, row in zip(steps, logprobs, strict=True):
            assert step.chosen is not None
            assert step.chosen.token == step.token
            assert step.chosen.logprob == pytest.approx(row[step.token], abs=0.02)  # f16 KV cache
            assert [one.logprob for one in step.alternatives] == pytest.approx(np.sort(row)[::-1][:4], abs=0.02)
            assert [row[one.token] for one in step.alternatives] == pytest.approx(np.sort(row)[::-1][:4], abs=0.02)
            assert step.alternatives[0].piece == loaded.tokenizer.piece(step.alternatives[0].token)


def test_without_asking_no_step_is_studied(model: Model) -> None:
    steps = list(model.complete("a", sampling=GREEDY, max_tokens=2).steps())
    assert all(step.chosen is None and step.alternatives == () for step in steps)


def test_an_answer_that_another_one_overtook_cannot_go_on(model: Model) -> None:
    """It would go on from the other's cache."""
    first = iter(model.chat(chat("a"), sampling=GREEDY, max_tokens=9).steps())
    next(first)
    second = model.chat(chat("b"), sampling=GREEDY, max_tokens=4)
    expected = "".join(second)
    with pytest.raises(RuntimeError, match="another answer was begun"):
        next(first)
    assert "".join(model.chat(chat("b"), sampling=GREEDY, max_tokens=4)) == expected


def test_a_closed_model_is_said_and_not_touched(converted: Convert) -> None:
    loaded = load(converted("b2-7b", **SMALL), OPTIONS)
    steps = loaded.chat(chat("a"), sampling=GREEDY, max_tokens=9).steps()
    next(steps)
    tokenizer = loaded.tokenizer
    loaded.close()
    for use in (lambda: next(steps), lambda: len(tokenizer), lambda: tokenizer.piece(5), lambda: tokenizer.is_end(2)):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_a_long_question_shares_its_room_with_no_older_round(model: Model) -> None:
    """What it takes beyond the usual half comes from the answer; history would take the rest."""
    history = chat("!" * 40, "b", "!" * 40, "d")
    for newest in range(200, 300, 9):
        prompt = model.measure([*history, Message("user", "!" * newest)])
        kept = len(history) // 2 - prompt.dropped_rounds
        assert len(prompt.ids) <= 256 or kept == 0
        assert prompt.fits


def test_a_text_beyond_all_contexts_is_refused_without_being_encoded(model: Model) -> None:
    with pytest.raises(BqError, match="tokens or more, the context 512"):
        model.chat(chat("a" * 5_000_000))
    with pytest.raises(BqError, match="tokens or more, the context 512"):
        model.complete("a" * 5_000_000)


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": -3}, {"top_tokens": -1}])
def test_senseless_options_are_refused_by_name(model: Model, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        model.chat(chat("a"), **wrong)


def test_a_failed_decode_says_what_llama_cpp_said_of_it_and_nothing_older(model: Model) -> None:
    with pytest.raises(BqError):
        load(__file__)
    assert model._engine is not None
    with pytest.raises(BqError, match="could not decode") as caught:
        model._engine.add(10**6)  # no such token
    assert "load" not in caught.value.cause
    assert model._engine.ids == ()


class Counted:
    """A constraint for whole answers of at least `least` tokens, which knows one token to close with."""

    def __init__(self, least: int, close_with: int | None) -> None:
        self.least, self.close_with, self.count, self.closed = least, close_with, 0, False

    def allows(self, token: int) -> bool:
        return True

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        raise AssertionError("everything is allowed")

    def accept(self, token: int) -> None:
        self.count += 1

    def may_end(self) -> bool:
        return self.count >= self.least

    def must_end(self) -> bool:
        return False

    def closing(self, logits: npt.NDArray[np.float32]) -> int | None:
        return self.close_with

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("least", "close_with", "text", "stop"),
    [(3, 0, "xyx", "length"), (5, 1, "xyx!!", "length"), (5, None, "xyx", "incomplete"), (9999, 1, None, "incomplete")],
)
def test_a_constrained_answer_goes_on_to_its_end_beyond_the_limit(
    scripted: Callable[..., Path], least: int, close_with: int | None, text: str | None, stop: str
) -> None:
    x, y, bang = byte_tokens("xy!")
    made: list[Counted] = []

    def make(tokenizer: object) -> Counted:
        made.append(Counted(least, None if close_with is None else bang))
        return made[-1]

    with load(scripted({ASSISTANT_ID: x, x: y, y: x, bang: bang}), LoadOptions(ctx=2048, threads=1)) as loaded:
        answer = loaded.chat(chat("a"), sampling=GREEDY, max_tokens=3, constraint=make)
        said = "".join(answer)
    assert text is None or said == text
    assert answer.stats.stop == stop
    assert answer.stats.tokens <= 3 + 512
    assert [one.closed for one in made] == [True]
