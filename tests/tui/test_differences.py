"""Two texts by their words: nothing is lost, what differs is named, and no text takes for ever."""

import random
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bq.tui import differences as module
from bq.tui.differences import Span, differences, share_in_common


def side(spans: tuple[Span, ...], other: str) -> str:
    return "".join(span.text for span in spans if span.kind != other)


def check(left: str, right: str) -> tuple[Span, ...]:
    spans = differences(left, right)
    assert side(spans, "right") == left
    assert side(spans, "left") == right
    assert all(span.text for span in spans)
    assert all(a.kind != b.kind for a, b in pairwise(spans))
    assert 0 <= share_in_common(spans) <= 1
    return spans


_words = st.lists(st.sampled_from(["cat", "dog", "don't", " ", "  ", "\n", "量", "化", "，", ".", "é", "\u0301"]))
_texts = st.one_of(st.text(max_size=60), _words.map("".join))


@settings(deadline=None, max_examples=150)
@given(_texts, _texts)
@example("", "")
@example("  ", " \n ")
@example("\ud800", "a\ud800")
def test_the_spans_give_each_text_back(left, right):
    check(left, right)


@settings(deadline=None, max_examples=80)
@given(_texts, _texts, st.integers(0, 3000))
def test_they_do_so_also_where_words_are_too_dear(left, right, most_work):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_WORK", most_work)
        check(left, right)


@given(_texts)
def test_a_text_is_the_same_as_itself(text):
    assert check(text, text) == ((Span("same", text),) if text else ())
    assert share_in_common(differences(text, text)) == 1


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("the cat sat", "the dog sat", ["= the ", "< cat", "> dog", "=  sat"]),
        ("我爱北京。", "我爱上海。", ["= 我爱", "< 北京", "> 上海", "= 。"]),
        ("I don't", "I do", ["= I ", "< don't", "> do"]),
        ("量化 4 bit", "量化 8 bit", ["= 量化 ", "< 4", "> 8", "=  bit"]),
        ("a\n\nb", "a\nb", ["= a", "< \n\n", "> \n", "= b"]),
        ("a", "", ["< a"]),
        ("", "a", ["> a"]),
    ],
)
def test_what_differs_are_whole_words_and_single_han(left, right, expected):
    signs = {"=": "same", "<": "left", ">": "right"}
    assert check(left, right) == tuple(Span(signs[text[0]], text[2:]) for text in expected)


def test_white_space_alone_is_nothing_in_common():
    assert [span.kind for span in check("a b c d", "e f g h")] == ["left", "right"]


@pytest.mark.parametrize(
    ("left", "right", "share"), [("the cat", "the dog", 0.5), ("量化", "量", 2 / 3), ("a  b", "a\nb", 1), ("a", "b", 0)]
)
def test_the_share_counts_visible_characters(left, right, share):
    assert share_in_common(check(left, right)) == pytest.approx(share)


def test_long_texts_are_compared_line_by_line_and_their_lines_by_words():
    lines = [f"line {i} says {i * i} things\n" for i in range(3000)]
    other = [line.replace("says", "means") if i % 500 == 250 else line for i, line in enumerate(lines)]
    spans = check("".join(lines), "".join(other))
    assert [span.text for span in spans if span.kind == "left"] == ["says"] * 6


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("的了" * 20000, "了的" * 20001 + "一"),
        ("".join(map(chr, range(0x4E00, 0x9000))), "".join(map(chr, range(0x9000, 0x4E00, -1)))),
        (" ".join(f"u{i} p{i}" for i in range(20000)), " ".join(f"u{i} q{i}" for i in range(20000))),
        ("\n" * 50000 + "a", "b" + "\n" * 50001),
        ("a\nb\n" * 20000, "b\na\n" * 20000 + "c"),
        ("\u0301" * 50000, "\u0301a" * 50000),
        ("." * 50000, "!" + "." * 50000 + "!"),
        tuple("".join(f"{i}.{' '.join(f'{who}{i}n{j}' for j in range(300))}." for i in range(100)) for who in "ab"),
    ],
    ids=["two words", "backwards", "every second word", "empty lines", "two lines", "marks", "stops", "paragraphs"],
)
def test_hostile_texts_are_not_compared_word_by_word(monkeypatch, left, right):
    seen = []
    matcher = module.SequenceMatcher
    monkeypatch.setattr(module, "SequenceMatcher", lambda *a, **b: seen.append(a) or matcher(*a, **b))
    check(left, right)
    assert sum(module._work(a, b) for _, a, b in seen) <= 2 * module._MOST_WORK


@pytest.mark.parametrize("size", [1500, 8000])
def test_an_answer_with_a_word_changed_here_and_there_is_mostly_the_same(size):
    chance = random.Random(1)
    text = chance.choices([*"量化模型在笔记本上运行很快", *map(chr, range(0x4E00, 0x4F00)), "，", "。", "。"], k=size)
    other = [chance.choice(["", "快", one * 2]) if chance.random() < 0.02 else one for one in text]
    assert share_in_common(check("".join(text), "".join(other))) > 0.9
