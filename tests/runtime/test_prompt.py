"""The prompt is the official one: same ids, same rounds left out; where the official code would cut, bq never does."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError
from bq.runtime.prompt import Message, build_prompt, measure_prompt
from bq.runtime.prompt_format import Roles, baichuan_format
from tests.runtime.conftest import Pair

USER, ASSISTANT = 195, 196

_turn = st.tuples(st.sampled_from(["user", "assistant"]), st.text("abc 你", max_size=7))
_turns = st.lists(_turn, min_size=1, max_size=9)


def encode(text: str) -> list[int]:
    return [1000 + ord(character) for character in text]


def official(messages: Sequence[Message], max_input: int) -> tuple[list[int], int, int]:
    """build_chat_input of the releases' generation_utils.py, from facts.md section 3, step by step.

    Returns the ids before the last step (`input[-max_input:]`), how many rounds were left out and how many kept.
    """
    system: list[int] = []
    rounds: list[list[Message]] = []
    for number, message in enumerate(messages):
        if message.role == "system":
            assert number == 0
            system = encode(message.content)
        elif message.role == "user" or not rounds:
            rounds.append([message])
        else:
            rounds[-1].append(message)
    max_history = max_input - len(system)
    history: list[int] = []
    kept = 0
    for one in reversed(rounds):
        ids = []
        for message in one:
            ids += [USER if message.role == "user" else ASSISTANT, *encode(message.content)]
        if history and len(history) + len(ids) > max_history:
            break
        history = ids + history
        kept += 1
        if len(history) >= max_history:
            break
    whole = system + history
    if messages[-1].role != "assistant":
        whole.append(ASSISTANT)
    return whole, len(rounds) - kept, kept


@settings(max_examples=800, deadline=None)
@given(system=st.none() | st.text("sys", max_size=5), turns=_turns, max_input=st.integers(4, 60))
def test_any_conversation_gives_the_official_ids(
    system: str | None, turns: list[tuple[str, str]], max_input: int
) -> None:
    messages = [Message("system", system)] if system is not None else []
    messages += [Message(role, content) for role, content in turns]  # type: ignore[arg-type]
    ids, dropped, kept = official(messages, max_input)
    if len(ids) <= max_input:
        prompt = build_prompt(messages, encode, baichuan_format(), max_input)
        assert (list(prompt.ids), prompt.dropped_rounds) == (ids, dropped)
    elif kept > 1:
        # Only the last role id is too many: the official code cuts the first token off, bq leaves the oldest round out.
        assert len(ids) == max_input + 1
        prompt = build_prompt(messages, encode, baichuan_format(), max_input)
        assert prompt.dropped_rounds == dropped + 1
        assert list(prompt.ids)[len(encode(system or "")) :] == ids[-(len(prompt.ids) - len(encode(system or ""))) :]
    else:
        with pytest.raises(BqError, match=r"needs \d+ tokens, and there is room for"):
            build_prompt(messages, encode, baichuan_format(), max_input)


_lengths = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


def held(lengths: Sequence[tuple[int, int]], turn: int) -> list[Message]:
    """A conversation as it stood when the user had asked for the `turn`-th time."""
    messages = []
    for number, (asked, answered) in enumerate(lengths[: turn + 1]):
        messages.append(Message("user", chr(97 + number % 26) * asked))
        messages.append(Message("assistant", "z" * answered))
    return messages[:-1]


@settings(max_examples=200, deadline=None)
@given(lengths=_lengths, max_input=st.integers(12, 80), headroom=st.sampled_from([0.1, 0.25, 0.5]))
def test_rounds_go_in_blocks_each_as_the_official_way_would_drop_them(
    lengths: list[tuple[int, int]], max_input: int, headroom: float
) -> None:
    """Held turn by turn, with a memory: what fits stays as it is; else the official way for a smaller budget decides."""
    first = 0
    for turn in range(len(lengths)):
        messages = held(lengths, turn)
        rest = messages[2 * first :]
        ids, _, _ = official(rest, 1 << 30)
        if len(ids) > max_input:
            ids, dropped, kept = official(rest, int(max_input * (1 - headroom)) - 1)  # -1: the last role id counts too
            first += dropped
            ids, _, _ = official(messages[2 * first :], 1 << 30)
            assert kept == turn + 1 - first
        prompt = build_prompt(messages, encode, baichuan_format(), max_input, headroom)
        assert (list(prompt.ids), prompt.dropped_rounds) == (ids, first)
        assert sum(prompt.round_tokens[first:]) + prompt.system_tokens == len(prompt.ids) <= max_input


def _new_beginnings(headroom: float) -> int:
    """At how many of 60 turns the prompt does not begin with the one before."""
    lengths = [(3, 5)] * 60
    prompts = [build_prompt(held(lengths, turn), encode, baichuan_format(), 100, headroom).ids for turn in range(60)]
    return sum(after[: len(before)] != before for before, after in pairwise(prompts))


def test_dropping_in_blocks_keeps_the_beginning_for_most_turns() -> None:
    assert _new_beginnings(0) == 50
    assert _new_beginnings(0.25) <= 18


def _round(number: int, lengths: tuple[int, int], is_newest: bool) -> list[int]:
    asked = [USER, *encode(chr(97 + number % 26) * lengths[0]), ASSISTANT]
    return asked if is_newest else [*asked, *encode("z" * lengths[1])]


def _with_pins(lengths: Sequence[tuple[int, int]], pinned: set[int], budget: int, headroom: float) -> list[int]:
    """Held turn by turn, with a memory: the rounds that stay beside the pinned ones at the last turn."""
    stay: list[int] = []
    for turn in range(len(lengths)):

        def size(rounds: list[int], turn: int = turn) -> int:
            everything = {*rounds, *(pin for pin in pinned if 0 <= pin < turn), turn}
            return sum(len(_round(i, lengths[i], i == turn)) for i in everything)

        if size(stay) > budget:
            stay = []
            for candidate in range(turn - 1, -1, -1):
                if size([*stay, candidate]) > int(budget * (1 - headroom)):
                    break
                stay.append(candidate)
        stay.append(turn)
    return sorted({*stay, *(pin for pin in pinned if 0 <= pin < len(lengths))})


@settings(max_examples=150, deadline=None)
@given(
    rounds=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans()), min_size=1, max_size=20),
    budget=st.integers(12, 120),
    headroom=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_pinned_rounds_stay_and_the_newest_of_the_others_fill_what_they_leave(
    rounds: list[tuple[int, int, bool]], budget: int, headroom: float
) -> None:
    lengths = [(asked, answered) for asked, answered, _ in rounds]
    pinned = {i for i, (_, _, is_pinned) in enumerate(rounds) if is_pinned} | {-1, 99}  # no round, and no matter
    messages = held(lengths, len(lengths) - 1)
    kept = _with_pins(lengths, pinned, budget, headroom)
    ids = [token for i in kept for token in _round(i, lengths[i], i == len(lengths) - 1)]
    prompt = measure_prompt(messages, encode, baichuan_format(), budget, headroom, pinned=pinned)
    assert list(prompt.ids) == ids
    assert sorted([*kept, *prompt.left_out]) == list(range(len(lengths)))
    assert prompt.fits == (len(ids) <= budget)


@settings(max_examples=150, deadline=None)
@given(lengths=_lengths, budget=st.integers(12, 80), headroom=st.sampled_from([0.0, 0.25]))
def test_without_pins_or_with_the_newest_pinned_nothing_changes(
    lengths: list[tuple[int, int]], budget: int, headroom: float
) -> None:
    messages = held(lengths, len(lengths) - 1)
    plain = measure_prompt(messages, encode, baichuan_format(), budget, headroom)
    assert measure_prompt(messages, encode, baichuan_format(), budget, headroom, pinned={len(lengths) - 1}) == plain
    assert plain.left_out == tuple(range(plain.dropped_rounds))


def test_pins_that_leave_no_room_are_said_and_a_message_that_never_had_it_is_not_blamed_on_them() -> None:
    messages = held([(3, 3), (3, 3), (2, 0)], 2)  # 8, 8 and 4 tokens
    assert build_prompt(messages, encode, baichuan_format(), 12, pinned={0}).left_out == (1,)
    with pytest.raises(BqError, match=r"The message and the pinned rounds need 20 tokens.* 19\. Unpin a round"):
        build_prompt(messages, encode, baichuan_format(), 19, pinned={0, 1})
    with pytest.raises(BqError, match=r"^The message needs .* room for 3\. Shorten it"):
        build_prompt(messages, encode, baichuan_format(), 3, pinned={0})


def test_pinned_rounds_take_from_the_answer_what_a_long_message_may() -> None:
    messages = held([(3, 3), (3, 3), (9, 0)], 2)  # 8, 8 and 11 tokens
    prompt = measure_prompt(messages, encode, baichuan_format(), 18, alone=19, pinned={0})
    assert (prompt.fits, prompt.budget, prompt.left_out, len(prompt.ids)) == (True, 19, (1,), 19)


def test_a_text_that_is_gone_on_with_is_told_from_a_new_answer() -> None:
    messages = [Message("user", "a"), Message("assistant", "b")]
    assert measure_prompt(messages, encode, baichuan_format(), 99).continues
    assert not measure_prompt(messages[:1], encode, baichuan_format(), 99).continues


def test_what_does_not_fit_can_be_measured() -> None:
    messages = [Message("system", "ss"), *held([(3, 3), (9, 0)], 1)]
    prompt = measure_prompt(messages, encode, baichuan_format(), 11)
    assert (prompt.fits, prompt.dropped_rounds, prompt.system_tokens, prompt.round_tokens) == (False, 1, 2, (8, 11))
    assert measure_prompt(messages, encode, baichuan_format(), 13).fits


def test_a_message_that_just_fits_stays_whole_and_one_more_token_is_refused() -> None:
    messages = [Message("system", "s"), Message("user", "abc")]
    assert build_prompt(messages, encode, baichuan_format(), 6).ids == (*encode("s"), USER, *encode("abc"), ASSISTANT)
    with pytest.raises(BqError, match="needs 6 tokens, and there is room for 5"):
        build_prompt(messages, encode, baichuan_format(), 5)


def test_an_unfinished_answer_is_continued() -> None:
    messages = [Message("user", "a"), Message("assistant", "b")]
    assert build_prompt(messages, encode, baichuan_format(), 99).ids == (USER, *encode("a"), ASSISTANT, *encode("b"))


def test_a_system_text_alone_is_answered() -> None:
    assert build_prompt([Message("system", "s")], encode, baichuan_format(), 99).ids == (*encode("s"), ASSISTANT)


def test_the_role_ids_are_the_given_ones() -> None:
    assert build_prompt([Message("user", "a")], encode, baichuan_format(Roles(71, 72)), 99).ids == (
        71,
        *encode("a"),
        72,
    )


@pytest.mark.parametrize("messages", [[], [Message("user", "a"), Message("system", "s")]], ids=["empty", "late system"])
def test_what_is_no_conversation_is_a_programming_error(messages: list[Message]) -> None:
    with pytest.raises(ValueError, match="message"):
        build_prompt(messages, encode, baichuan_format(), 99)


def _conversation(*contents: str) -> list[Message]:
    return [Message("assistant" if i % 2 else "user", content) for i, content in enumerate(contents)]


def test_the_known_baichuan_2_chat(real_baichuan2: Pair) -> None:
    """facts.md section 4, the row from chatglm.cpp's tests."""
    messages = _conversation("你好呀", "你好！很高兴和你交流。请问有什么问题我可以帮助你解决吗？", "你叫什么名字？")
    expected = (
        "195 16829 94278 196 16829 67 52160 10329 3341 66 23216 5817 1754 92392 21777 92430 2740 93122 68 "
        "195 92430 93410 1747 6642 68 196"
    )
    assert build_prompt(messages, real_baichuan2[0].encode, baichuan_format(), 2048).ids == tuple(
        map(int, expected.split())
    )


def test_the_known_baichuan_1_chat(real_baichuan1: Pair) -> None:
    """facts.md section 4, the row from chatglm.cpp's tests."""
    messages = _conversation("你好呀", "你好！很高兴和你交流。请问有什么我可以帮助你的吗？", "你叫什么名字？")
    expected = (
        "195 9875 31213 32889 196 9875 31213 74 17318 31906 14822 5536 73 20389 7713 31182 1231 4090 2689 31763 75 "
        "195 9875 32177 1534 10240 75 196"
    )
    assert build_prompt(messages, real_baichuan1[0].encode, baichuan_format(), 2048).ids == tuple(
        map(int, expected.split())
    )
