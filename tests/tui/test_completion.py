"""The text of complete mode: tokens follow every change, changes can be taken back, broken characters do no harm."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.generation import Alternative, Step
from bq.tui.completion import Choice, Completion, plain


def alternative(piece: bytes, probability: float = 0.5) -> Alternative:
    return Alternative(1, piece, math.log(probability))


def step(text: str, piece: bytes | None = None, others: tuple[bytes, ...] = ()) -> Step:
    chosen = alternative(text.encode() if piece is None else piece)
    return Step(text, 1, chosen, (chosen, *map(alternative, others)))


def written(text: str, *steps: Step, at: int | None = None) -> Completion:
    completion = Completion(text)
    completion.begin(len(completion.text) if at is None else at)
    completion.feed(steps)
    completion.finish()
    return completion


def places(completion: Completion) -> list[tuple[int, int]]:
    return [(token.start, token.end) for token in completion.tokens]


def pieces(completion: Completion) -> list[str]:
    """What stands where the tokens are; each must be what its token wrote."""
    return [completion.text[token.start : token.end] for token in completion.tokens]


def state(completion: Completion) -> tuple[str, list[tuple[int, int, Choice | None]]]:
    return completion.text, [(token.start, token.end, token.chosen) for token in completion.tokens]


def test_the_model_writes_at_the_point_and_what_follows_stays_behind_it():
    completion = Completion("one three")
    completion.begin(4)
    assert completion.prefix() == "one "
    assert completion.feed([step("two")]) == "two"
    assert completion.prefix() == "one two"
    completion.feed([step(" ")])
    assert completion.text == "one two three"
    assert places(completion) == [(4, 7), (7, 8)]


def test_tokens_know_what_else_the_model_thought_of():
    token = written("a", step("b", others=("猫".encode(), b"\xe7"))).tokens[0]
    assert [choice.text for choice in token.alternatives] == ["b", "猫", None]
    assert token.chosen == Choice(b"b", pytest.approx(0.5))


def test_all_tokens_of_one_character_stand_where_it_is_once_it_is_whole():
    completion = Completion("a")
    completion.begin(1)
    first, second, third = (bytes([byte]) for byte in "猫".encode())
    assert completion.feed([step("", first), step("", second)]) == ""
    assert completion.tokens == []
    completion.feed([step("猫", third), step("狗")])
    assert completion.text == "a猫狗"
    assert places(completion) == [(1, 2)] * 3 + [(2, 3)]
    assert completion.at(1) is completion.tokens[0]


def test_a_character_that_never_became_whole_leaves_no_token():
    completion = written("a", step("b"), step("", b"\xe7"))
    assert completion.text == "ab"
    assert places(completion) == [(1, 2)]
    completion.begin(2)
    completion.feed([step("c")])
    assert places(completion) == [(1, 2), (2, 3)]


def test_the_rest_of_a_broken_character_belongs_to_its_tokens():
    completion = written("", step("", b"\xe7"), Step("\ufffd"))
    assert places(completion) == [(0, 1)]
    assert completion.tokens[0].chosen is not None


def test_tokens_without_alternatives_are_known_as_written_by_the_model():
    completion = written("a", Step("b", 7), Step("c", 8))
    assert completion.runs() == [(1, 3)]


def test_neighbouring_tokens_make_one_run():
    completion = written("ab", step("x"), step("y"), at=1)
    completion.begin(4)
    completion.feed([step("z")])
    assert completion.text == "axybz"
    assert completion.runs() == [(1, 3), (4, 5)]


@pytest.mark.parametrize(("offset", "expected"), [(0, None), (1, 0), (2, 0), (3, 1), (4, 1), (5, None)])
def test_the_token_at_the_cursor_is_the_one_under_it_or_right_before_it(offset, expected):
    completion = written("abc", step("xy"), step("z"), at=1)
    token = completion.at(offset)
    assert completion.index(token) == expected


def test_one_goes_from_token_to_token():
    completion = written("ab", step("xy"), step("z"), at=1)
    first, second = completion.tokens
    assert completion.next(0, None) is first
    assert completion.next(1, first) is second
    assert completion.next(3, second) is None
    assert completion.previous(5, None) is second
    assert completion.previous(2, first) is first
    assert completion.previous(3, second) is first
    assert completion.previous(1, first) is None


def test_taking_an_alternative_cuts_what_follows_and_can_be_taken_again():
    completion = written("I see a", step(" cat", others=(b" dog", " 鸟".encode())), step("."))
    change = completion.taking(completion.tokens[0], 2)
    completion.apply(change)
    assert completion.prefix() == completion.text == "I see a dog"
    again = completion.taking(completion.tokens[0], 3)
    completion.apply(again)
    assert completion.text == "I see a 鸟"
    completion.revert(again)
    completion.revert(change)
    assert completion.text == "I see a cat."
    assert pieces(completion) == [" cat", "."]


@pytest.mark.parametrize("rank", [-1, 0, 3, 4])
def test_what_is_no_alternative_or_no_text_is_not_taken(rank):
    completion = written("a", step("b", others=(b"c", b"\xe7")))
    assert completion.taking(completion.tokens[0], rank) is None


def test_a_control_token_is_no_text():
    assert Choice(b"", 0.5).text is None


def test_a_change_within_a_token_drops_it_and_undo_brings_it_back():
    completion = written("", step("cat"), step("nip"))
    change = completion.replacing(1, 1, "!")
    completion.apply(change)
    assert completion.text == "c!atnip"
    assert pieces(completion) == ["nip"]
    completion.revert(change)
    assert pieces(completion) == ["cat", "nip"]


def test_a_change_of_nothing_within_a_token_leaves_it():
    completion = written("", step("\n\n"))
    completion.apply(completion.replacing(1, 1, ""))
    assert pieces(completion) == ["\n\n"]


def test_all_that_the_model_wrote_is_one_change_even_within_a_token():
    completion = written("a ", step("cat"))
    before = state(completion)
    completion.begin(4)
    for text in ("xx", "yy"):
        completion.feed([step(text)])
    change = completion.finish()
    after = state(completion)
    assert completion.text == "a caxxyyt"
    completion.revert(change)
    assert state(completion) == before
    completion.apply(change)
    assert state(completion) == after


def test_an_answer_of_nothing_is_no_change():
    completion = Completion("a")
    completion.begin(1)
    completion.feed([step("", b"\xe7")])
    assert completion.finish() is None


@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("The cat", step("sat", b" sat"), "The cat sat"),
        ("The cat", step("", b" "), "The cat "),
        ("The cat", step(" sat", b" sat"), "The cat sat"),
        ("", step("sat", b" sat"), "sat"),
    ],
)
def test_the_first_space_of_baichuan_1_is_kept_behind_other_text(text, first, expected):
    assert written(text, first).text == expected


def test_only_the_first_token_of_an_answer_gets_its_space_back():
    assert written("a", step("b"), step("c", b" c")).text == "abc"


@given(st.text())
def test_no_text_ends_a_line_but_by_a_line_feed(text):
    assert plain(text).splitlines() == plain(text).split("\n")[: len(plain(text).splitlines())]
    assert plain(plain(text)) == plain(text)


_texts = st.text("ab 猫\n", max_size=4)
_edits = st.tuples(st.just("edit"), st.integers(0, 40), st.integers(0, 4), _texts)
_answers = st.tuples(st.just("answer"), st.integers(0, 40), st.lists(_texts, max_size=4), st.booleans())
_takes = st.tuples(st.just("take"), st.integers(0, 40), st.integers(1, 3), st.none())


def _change(completion: Completion, action: tuple) -> object:
    """Do something to the completion; returns the change."""
    name, place, size, text = action
    start = place % (len(completion.text) + 1)
    if name == "answer":
        completion.begin(start)
        for answer in size:
            completion.feed([step("", b"\xe7"), step(answer, others=("狗".encode(), b"\xff"))])
        return completion.finish()
    if name == "take":
        change = (
            completion.taking(completion.tokens[place % len(completion.tokens)], size) if completion.tokens else None
        )
    else:
        change = completion.replacing(start, min(start + size, len(completion.text)), text)
    if change:
        completion.apply(change)
    return change


def _check(completion: Completion) -> None:
    ends = [(token.start, token.end) for token in completion.tokens]
    assert ends == sorted(ends)
    assert all(a == b or a[1] <= b[0] for a, b in pairwise(ends))
    for token in completion.tokens:
        assert 0 <= token.start < token.end <= len(completion.text)
        if token.chosen and token.chosen.text:
            assert completion.text[token.start : token.end] == token.chosen.text
        assert completion.index(token) is not None


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(_edits, _answers, _takes), max_size=12), st.lists(st.booleans(), max_size=20))
def test_whatever_is_done_tokens_stand_on_what_they_wrote_and_all_of_it_can_be_undone_and_redone(actions, walk):
    completion, done, states = Completion("中文 text\n"), [], []
    states.append(state(completion))
    for action in actions:
        change = _change(completion, action)
        _check(completion)
        if change:
            done.append(change)
            states.append(state(completion))
    at = len(done)
    for back in [*walk, *[True] * len(done), *[False] * len(done)]:
        if back and at:
            at -= 1
            completion.revert(done[at])
        elif not back and at < len(done):
            completion.apply(done[at])
            at += 1
        assert state(completion) == states[at]
        _check(completion)
