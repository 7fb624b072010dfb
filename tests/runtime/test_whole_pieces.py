"""Pieces are found from left to right, the longest first; a text that llama.cpp would cut otherwise is known before."""

import re
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.whole_pieces import WholePieces

PIECES = st.sets(st.text("ab-", min_size=1, max_size=4), max_size=6)
TEXTS = st.text("ab-c", max_size=12)
DENSE = st.sets(st.text("abc", min_size=2, max_size=3), min_size=2, max_size=4)  # with many overlaps


def by_expression(pieces: set[str], text: str) -> list[str]:
    """Python's alternation takes the first that fits, at the leftmost place."""
    some = "|".join(map(re.escape, sorted(pieces, key=len, reverse=True)))
    return [part for part in re.split(f"({some})", text) if part] if some else [text] if text else []


def by_llama_cpp(pieces: Sequence[str], text: str) -> list[str]:
    """llama_vocab::impl::tokenizer_st_partition (src/llama-vocab.cpp): piece after piece, over what the ones before left."""
    parts = [(text, False)]
    for piece in pieces:
        cut: list[tuple[str, bool]] = []
        for part, is_piece in parts:
            if is_piece:
                cut.append((part, True))
                continue
            first, *others = part.split(piece)
            cut += [(first, False), *((one, kind) for rest in others for one, kind in ((piece, True), (rest, False)))]
        parts = cut
    return [part for part, _ in parts if part]


@given(PIECES, TEXTS)
def test_a_text_is_split_from_left_to_right(pieces: set[str], text: str) -> None:
    split = list(WholePieces(pieces).split(text))
    assert [part for part, _ in split] == by_expression(pieces, text)
    assert {part for part, is_piece in split if is_piece} <= pieces


@given(DENSE, st.text("abc", min_size=3, max_size=8), st.randoms())
def test_only_a_text_with_an_overlapped_piece_is_split_otherwise_by_llama_cpp(
    pieces: set[str], text: str, chance: Random
) -> None:
    whole = WholePieces(pieces)
    if any(piece in text for piece in whole.overlapped()):
        return
    order = sorted(pieces)
    chance.shuffle(order)  # of two of the same length either may come first
    order.sort(key=len, reverse=True)
    assert by_llama_cpp(order, text) == [part for part, _ in whole.split(text)]


def test_runs_of_one_character_do_not_count_as_overlapped() -> None:
    assert WholePieces(["  ", "   ", "    ", "\n\n", "ab"]).overlapped() == frozenset()
    assert WholePieces(["---", "-->"]).overlapped() == {"---"}


def test_of_a_vocabulary_without_measure_all_count() -> None:
    long = {"a" * 200, "b"}
    assert WholePieces(long).overlapped() == long


@pytest.mark.parametrize("name", ["real_baichuan1", "real_baichuan2"])
@pytest.mark.parametrize("text", ["--->", "---->", "a ---> b", "<!---->", "-->", "---\n---->\n"])
def test_arrows_get_sentencepieces_ids(request: pytest.FixtureRequest, name: str, text: str) -> None:
    tokenizer, reference = request.getfixturevalue(name)
    assert tokenizer.encode(text) == reference.encode(text)
