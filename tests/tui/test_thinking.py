"""What a model thought is told from what it said, in a whole text and in one that comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.tui.thinking import ThinkingStream, split_thinking, spoken

PARTS = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think", ">", "\n", " ", "好", "a", "<b>"]), max_size=12
)


@pytest.mark.parametrize(
    ("answer", "thought", "said"),
    [
        ("Hello", "", "Hello"),
        ("<think>\nhm\n</think>\n\nHello", "hm", "Hello"),
        ("\n<think>hm</think>Hello", "hm", "Hello"),
        ("<think>hm", "hm", ""),
        ("Say <think> aloud</think>", "", "Say <think> aloud</think>"),
        ("<thinker>", "", "<thinker>"),
        ("", "", ""),
    ],
)
def test_thoughts_stand_at_the_beginning_alone(answer, thought, said):
    assert split_thinking(answer) == (thought, said)


@given(PARTS, st.lists(st.integers(0, 5), max_size=8))
def test_in_pieces_it_is_split_as_in_one(parts, cuts):
    text = "".join(parts)
    stream, thought, said, at = ThinkingStream(), "", "", 0
    for end in [*sorted(sum(cuts[:i]) for i in range(len(cuts))), len(text)]:
        more = stream.add(text[at:end])
        thought, said, at = thought + more[0], said + more[1], max(at, end)
    more = stream.take()
    assert ((thought + more[0]).strip("\n"), said + more[1]) == split_thinking(text)


def test_a_mark_that_is_half_there_is_held_back():
    stream = ThinkingStream()
    assert stream.add("<thi") == ("", "")
    assert stream.add("nk>a</thin") == ("a", "")
    assert stream.add("k>b") == ("", "b")


def test_later_rounds_read_what_was_said_and_not_what_was_thought():
    assert spoken("<think>hm</think>Hello") == "Hello"
    assert spoken("<think>still at it") == "<think>still at it", "there is nothing else"
