"""Bytes come out as whole characters, always, and nothing that comes out can control the terminal."""

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.text_stream import TextStream, harmless

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:stop] for start, stop in pairwise(places)]


def _stream(parts: list[bytes], strip_space: bool = False) -> list[str]:
    stream = TextStream(strip_space)
    return [*(stream.add(part) for part in parts), stream.finish()]


@settings(max_examples=1500, deadline=None)
@given(text=_text, cuts=st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_gives_the_same_text(text: str, cuts: list[int]) -> None:
    assert "".join(_stream(_cut(text.encode(), cuts))) == harmless(text)


@settings(max_examples=500, deadline=None)
@given(text=st.text("模型你好😀é", min_size=1, max_size=10))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    """Byte by byte: nothing before a character is whole, and no waiting after it."""
    stream, seen = TextStream(), ""
    for character in text:
        *first, last = character.encode()
        assert [stream.add(bytes([byte])) for byte in first] == [""] * len(first)
        seen += (out := stream.add(bytes([last])))
        assert out == character
    assert stream.finish() == ""
    assert seen == text


@settings(max_examples=1500, deadline=None)
@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=12))
def test_invalid_bytes_never_stall(data: bytes, cuts: list[int]) -> None:
    """They are U+FFFD, as a decoder of the whole makes them; at most three bytes are kept back."""
    stream = TextStream()
    whole, fed = "", b""
    for part in _cut(data, cuts):
        whole += stream.add(part)
        fed += part
        assert len(harmless(fed.decode("utf-8", "replace"))) - len(whole) <= 3
    assert whole + stream.finish() == harmless(data.decode("utf-8", "replace"))


def test_a_character_that_never_ends_is_marked() -> None:
    assert _stream(["模".encode()[:2]]) == ["", "\ufffd"]
    assert _stream(["模".encode()[:2], b"a"]) == ["", "\ufffda", ""]


@settings(max_examples=1000, deadline=None)
@given(data=st.binary(max_size=40) | st.text("\x1b[]2J;0mabc\x07\x9b\r\n\u202e\u2066", max_size=20).map(str.encode))
def test_no_control_character_comes_out_raw(data: bytes) -> None:
    text = "".join(_stream([data[i : i + 1] for i in range(len(data))]))
    assert all(character in "\n\t" or unicodedata.category(character) != "Cc" for character in text)
    assert not set(text) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred", "␛[31mred"),
        ("\x1b]52;c;ZXZpbA==\x07", "␛]52;c;ZXZpbA==␇"),
        ("\x9b2J", "\ufffd2J"),
        ("\x00\x08\x7f", "␀␈␡"),
        ("a\u202eb\u2066c", "a\ufffdb\ufffdc"),
        ("one\r\ntwo\tthree\n", "one\ntwo\tthree\n"),
        ("over\rwritten", "overwritten"),
        ("模型 é 😀 👩‍👩‍👧", "模型 é 😀 👩‍👩‍👧"),
    ],
)
def test_what_is_shown_instead(raw: str, shown: str) -> None:
    assert harmless(raw) == shown


@settings(max_examples=300, deadline=None)
@given(text=_text, cuts=st.lists(st.integers(0, 200), max_size=5))
def test_only_the_first_space_of_an_answer_is_dropped(text: str, cuts: list[int]) -> None:
    assert "".join(_stream(_cut((" " + text).encode(), cuts), strip_space=True)) == harmless(text)
    if not text.startswith(" "):
        assert "".join(_stream(_cut(text.encode(), cuts), strip_space=True)) == harmless(text)
