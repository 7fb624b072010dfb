"""A loaded model answers as the checkpoint says, stops where it must, and keeps what it has already decoded."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.text_stream import TextStream
from tests.support.families import FAMILIES, Family, Shape, write_checkpoint
from tests.support.gguf_writer import take_apart
from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID, USER_ID

Convert = Callable[..., Path]
GREEDY = Sampling(temperature=0, repeat_penalty=1)
ONE = LoadOptions(ctx=256, threads=1)  # one thread: the tests share the machine
BANG = 73  # the piece "!" of the small Baichuan 2 tokenizer
SMALL: dict[str, Any] = {"hidden": 96, "ffn": 128}


def user(*contents: str) -> list[Message]:
    """A conversation that begins with the user."""
    return [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def ids(model: Model) -> list[int]:
    """The tokens in the KV cache."""
    assert model._engine is not None
    return list(model._engine.ids)


@pytest.fixture
def model(converted: Convert) -> Iterator[Model]:
    with load(converted("b2-7b", **SMALL), ONE) as loaded:
        yield loaded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["chat", "complete"])
def test_greedy_answers_are_the_references(converted: Convert, family: Family, form: str) -> None:
    """Each token is the likeliest by the numpy forward pass; llama.cpp's f16 KV cache is off by about 1e-3."""
    path = converted(family, **SMALL)
    checkpoint = write_checkpoint(path.parent / "again", Shape(family, **SMALL))
    with load(path, ONE) as loaded:
        keywords = {"sampling": GREEDY, "max_tokens": 14}
        messages = [Message("system", "大模型"), *user("the model reads")]
        answer = loaded.chat(messages, **keywords) if form == "chat" else loaded.complete("大模型 reads", **keywords)
        text = "".join(answer)
        cached = ids(loaded)
        begin = answer.stats.prompt_tokens
        logits = checkpoint.logits(cached)[begin - 1 : -1]
        for row, token in zip(logits, cached[begin:], strict=True):
            assert row.max() - row[token] < 0.01 * np.abs(row).max()
        stream = TextStream(strip_space=loaded.tokenizer.add_dummy_prefix)
        said = "".join(stream.add(loaded.tokenizer.piece(token)) for token in cached[begin:])
    assert len(cached) > begin
    assert text.startswith(said)


def test_what_it_says_of_itself(model: Model, converted: Convert) -> None:
    info = model.info
    assert (info.variant, info.mixture, info.context, info.max_new_tokens) == ("chat", "F32", 256, 2048)
    assert info.size_bytes == converted("b2-7b", **SMALL).stat().st_size
    assert info.sampling == Sampling(*map(np.float32, (0.3,)), 5, *map(float, np.float32([0.85, 1.05])))
    assert model.warnings == ()
    assert model.count("你好") == len(model.tokenizer.encode("你好"))


def test_max_tokens_ends_with_length(model: Model) -> None:
    answer = model.chat(user("a"), sampling=GREEDY, max_tokens=3)
    "".join(answer)
    assert (answer.stats.tokens, answer.stats.stop) == (3, "length")


def test_the_full_context_ends_with_length(model: Model) -> None:
    """And the next question is answered as if nothing had been."""
    answer = model.complete("!" * 240, sampling=GREEDY, max_tokens=10_000)
    "".join(answer)
    assert answer.stats.stop in ("length", "end")
    assert answer.stats.context_used <= model.info.context
    again = "".join(model.chat(user("a"), sampling=GREEDY, max_tokens=8))
    assert again == "".join(model.chat(user("a"), sampling=GREEDY, max_tokens=8))


def test_an_endless_answer_fills_the_context_and_ends(scripted: Convert) -> None:
    x, y = byte_tokens("xy")
    with load(scripted({ASSISTANT_ID: x, BANG: x, x: y, y: x}), ONE) as loaded:
        answer = loaded.chat(user("a"), sampling=GREEDY, max_tokens=200)
        assert "".join(answer) == "xy" * 100
        answer = loaded.complete("!" * 100, sampling=GREEDY, max_tokens=10_000)
        assert "".join(answer) == "xy" * 78
        assert answer.stats.stop == "length"
        assert answer.stats.context_used == loaded.info.context - 1  # the last token is shown, and not decoded any more


@pytest.mark.parametrize("end", [2, USER_ID])
@pytest.mark.parametrize("family", ["b1-7b", "b2-7b"])
def test_an_answer_ends_at_the_end_of_text_and_at_the_users_role(scripted: Convert, end: int, family: Family) -> None:
    tokens = byte_tokens("done", 1 if family == "b1-7b" else 2)
    with load(scripted(saying(tokens, end=end), family=family), ONE) as loaded:
        answer = loaded.chat(user("a"), sampling=GREEDY)
        assert "".join(answer) == "done"
        assert (answer.stats.stop, answer.stats.tokens) == ("end", 4)


def test_the_users_role_ends_an_answer_in_a_file_that_does_not_say_so(tmp_path: Path, scripted: Convert) -> None:
    """As other programs write them."""
    source = scripted(saying(byte_tokens("done"), end=USER_ID))
    path = tmp_path / "x.gguf"
    path.write_bytes(take_apart(source).without_key("tokenizer.ggml.eot_token_id").to_bytes())
    with load(path, ONE) as loaded:
        answer = loaded.chat(user("a"), sampling=GREEDY)
        assert ("".join(answer), answer.stats.stop, answer.stats.tokens) == ("done", "end", 4)


def test_a_base_model_goes_on_after_the_users_role(scripted: Convert) -> None:
    """For a Base model it is a piece like any other; only the end of text ends it."""
    x, y = byte_tokens("xy")
    with load(scripted({BANG: x, x: USER_ID, USER_ID: y}, chat=False), ONE) as loaded:
        assert loaded.info.variant == "base"
        answer = loaded.complete("!", sampling=GREEDY)
        assert ("".join(answer), answer.stats.tokens, answer.stats.stop) == ("xy", 3, "end")


def test_a_character_of_several_tokens_comes_whole(scripted: Convert) -> None:
    with load(scripted(saying(byte_tokens("模é😀"))), ONE) as loaded:
        assert list(loaded.chat(user("a"), sampling=GREEDY)) == ["模", "é", "😀"]


def test_control_characters_of_a_model_come_out_harmless(scripted: Convert) -> None:
    with load(scripted(saying(byte_tokens("\x1b[2J\x07"))), ONE) as loaded:
        assert "".join(loaded.chat(user("a"), sampling=GREEDY)) == "␛[2J␇"


def test_the_first_generations_leading_space_is_dropped(scripted: Convert) -> None:
    with load(scripted(saying(byte_tokens(" ab", 1)), family="b1-7b"), ONE) as loaded:
        assert "".join(loaded.chat(user("a"), sampling=GREEDY)) == "ab"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_turn_decodes_only_what_is_new(converted: Convert, family: Family) -> None:
    path = converted(family, **SMALL)
    with load(path, ONE) as loaded, load(path, ONE) as fresh:
        first = loaded.chat(user("the model"), sampling=GREEDY, max_tokens=6)
        "".join(first)
        # The answer as tokens, so that the second prompt begins with what is cached.
        said = "ab"
        second = loaded.chat(user("the model", said, "reads"), sampling=GREEDY, max_tokens=8)
        text = "".join(second)
        assert second.stats.reused_tokens >= first.stats.prompt_tokens
        expected = fresh.chat(user("the model", said, "reads"), sampling=GREEDY, max_tokens=8)
        assert text == "".join(expected)
        assert expected.stats.reused_tokens == 0
        third = loaded.chat(user("the model", said, "reads"), sampling=GREEDY, max_tokens=8)
        assert "".join(third) == text
        assert third.stats.reused_tokens == third.stats.prompt_tokens - 1


def test_turn_two_of_a_told_answer_reuses_the_whole_first_turn(scripted: Convert) -> None:
    with load(scripted(saying(byte_tokens("ok"))), ONE) as loaded:
        first = loaded.chat(user("the model"), sampling=GREEDY)
        assert "".join(first) == "ok"
        done: list[tuple[int, int]] = []
        second = loaded.chat(
            user("the model", "ok", "reads"), sampling=GREEDY, on_prefill=lambda *counts: done.append(counts)
        )
        assert "".join(second) == "ok"
        new = second.stats.prompt_tokens - second.stats.reused_tokens
        assert second.stats.reused_tokens >= first.stats.prompt_tokens
        assert done == [(new, new)]


def test_prefill_reports_each_batch(converted: Convert) -> None:
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=2048, threads=1)) as loaded:
        done: list[tuple[int, int]] = []
        "".join(loaded.complete("!" * 1100, max_tokens=1, on_prefill=lambda *counts: done.append(counts)))
    assert done == [(512, 1100), (1024, 1100), (1100, 1100)]


@pytest.mark.parametrize("ctx", [64, 100, 300])
def test_a_small_context_takes_a_prompt_that_fills_it(converted: Convert, ctx: int) -> None:
    """A batch smaller than the context once ended the process."""
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=ctx, threads=1)) as loaded:
        answer = loaded.complete("!" * (loaded.info.context - 2), sampling=GREEDY)
        "".join(answer)
        assert answer.stats.prompt_tokens == loaded.info.context - 2


def test_the_context_is_never_more_than_the_models(converted: Convert) -> None:
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=1 << 20, threads=1)) as loaded:
        assert loaded.info.context == 4096


def test_loading_can_be_stopped(converted: Convert) -> None:
    seen: list[float] = []

    def stop(fraction: float) -> bool:
        seen.append(fraction)
        return len(seen) < 2

    with pytest.raises(Cancelled):
        load(converted("b2-7b", **SMALL), ONE, stop)
    assert len(seen) >= 2


def test_loading_reports_its_progress(converted: Convert) -> None:
    seen: list[float] = []
    load(converted("b2-7b", **SMALL), ONE, lambda fraction: seen.append(fraction) or True).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def _fresh(path: Path, messages: Sequence[Message]) -> str:
    with load(path, LoadOptions(ctx=2048, threads=1)) as loaded:
        return "".join(loaded.chat(messages, sampling=GREEDY, max_tokens=8))


@pytest.mark.parametrize("when", ["before", "between batches", "inside a batch", "decode", "abandoned"])
def test_an_answer_can_be_stopped_and_the_next_one_is_as_a_fresh_models(converted: Convert, when: str) -> None:
    path = converted("b2-7b", **SMALL)
    long = user("!" * 900)
    cancel = threading.Event()
    with load(path, LoadOptions(ctx=2048, threads=1)) as loaded:
        if when == "before":
            cancel.set()
        if when == "inside a batch":
            threading.Timer(0.03, cancel.set).start()
        on_prefill = (lambda *_: cancel.set()) if when == "between batches" else None
        answer = loaded.chat(long, sampling=GREEDY, max_tokens=8, cancel=cancel, on_prefill=on_prefill)
        for i, _ in enumerate(answer):
            if when == "decode" and i == 1:
                cancel.set()
            if when == "abandoned":
                break
        assert answer.stats.stop in ("cancel", "") or when == "inside a batch"
        assert len(ids(loaded)) == answer.stats.context_used
        if when == "before":
            assert ids(loaded) == []
        if when == "between batches":
            assert len(ids(loaded)) == 512
        messages = user("!" * 900, "b", "c")
        assert "".join(loaded.chat(messages, sampling=GREEDY, max_tokens=8)) == _fresh(path, messages)


def test_a_base_model_refuses_a_chat_unless_forced(converted: Convert) -> None:
    with load(converted("b2-7b", chat=False, **SMALL), ONE) as loaded:
        assert loaded.info.variant == "base"
        with pytest.raises(UsageError, match=r"Base model.*bq complete"):
            loaded.chat(user("a"))
        answer = loaded.chat(user("a"), force=True, sampling=GREEDY, max_tokens=2)
        "".join(answer)
        assert answer.stats.prompt_tokens == 3


def test_an_empty_text_is_completed_from_the_end_of_a_document(scripted: Convert) -> None:
    x, y = byte_tokens("xy")
    with load(scripted({2: x, x: y}, chat=False), ONE) as loaded:
        answer = loaded.complete("", sampling=GREEDY)
        assert "".join(answer) == "xy"
        assert answer.stats.prompt_tokens == 1


def test_a_text_that_fills_the_context_is_refused(model: Model) -> None:
    with pytest.raises(BqError, match="The text has 256 tokens or more, the context 256"):
        model.complete("!" * 256)
    assert "".join(model.complete("!" * 255, sampling=GREEDY, max_tokens=9)) is not None


def test_a_message_too_long_is_refused_and_a_long_history_loses_its_oldest_rounds(model: Model) -> None:
    with pytest.raises(BqError, match=r"needs \d+ tokens"):
        model.chat(user("!" * 300))
    rounds = user(*["!" * 30] * 7)
    prompt = model.prompt(rounds)
    assert prompt.dropped_rounds > 0
    assert len(prompt.ids) <= model.info.context // 2
    answer = model.chat(rounds, max_tokens=1)
    "".join(answer)
    assert answer.stats.dropped_rounds == model.prompt(rounds, 1).dropped_rounds == 0


def test_a_long_message_takes_room_from_the_answer(converted: Convert) -> None:
    """The release keeps half of the context for the answer; a longer message is answered in what is left."""
    with load(converted("b2-7b", **SMALL), LoadOptions(ctx=1024, threads=1)) as loaded:
        assert len(loaded.prompt(user("!" * 700)).ids) == 702
        with pytest.raises(BqError, match="room for 768"):
            loaded.prompt(user("!" * 800))


def test_sampled_answers_repeat_with_their_seed(model: Model) -> None:
    def answer(seed: int) -> str:
        sampling = Sampling(temperature=1.5, top_k=0, top_p=1, repeat_penalty=1.1, seed=seed)
        return "".join(model.chat(user("a"), sampling=sampling, max_tokens=12))

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_close_twice_and_no_use_after(converted: Convert) -> None:
    loaded = load(converted("b2-7b", **SMALL), ONE)
    answer = loaded.chat(user("a"), max_tokens=4)
    loaded.close()
    loaded.close()
    for use in (lambda: loaded.chat(user("a")), lambda: "".join(answer), lambda: loaded.count("a")):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_an_empty_conversation_is_a_programming_error(model: Model) -> None:
    with pytest.raises(ValueError, match="message"):
        model.chat([])


@pytest.mark.parametrize("name", ["模型 é.gguf", "\udce6broken.gguf"])
def test_any_file_name_works(tmp_path: Path, converted: Convert, name: str) -> None:
    try:
        (tmp_path / name).symlink_to(converted("b2-7b", **SMALL))
    except OSError:
        pytest.skip("this system has no such file names")
    load(tmp_path / name, ONE).close()
