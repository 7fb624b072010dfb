"""What two texts have in common, word by word: to show two answers to one question beside each other.

A word is one of a script with spaces, a single Han character, a punctuation mark, or the white space between them. Nothing
is lost: the spans put together give each text back. The cost is bounded: texts that are too long or too monotonous for
words are compared by lines and sentences first, and then each place where those differ by words, as far as that is
affordable.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

Kind = Literal["same", "left", "right"]

_HAN = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # with kana and CJK punctuation: no spaces between words there
_WORD = re.compile(rf"[^\W{_HAN}]+(?:['’][^\W{_HAN}]+)*|\s+|.", re.DOTALL)
_SENTENCE = re.compile(r"[^\n.!?。！？；]*[\n.!?。！？；]|[^\n.!?。！？；]+")
_MOST_WORK = 16_000_000  # at worst, where every second word differs, a second; two usual answers take some 10 ms
_WORK_OF_A_PAIR = 32


@dataclass(frozen=True)
class Span:
    """A part of both texts, or of one of them."""

    kind: Kind
    text: str


def differences(left: str, right: str) -> tuple[Span, ...]:
    """Both texts as spans, neighbours of different kinds. Those that are not "right" make the left text, and so on."""
    spans = (Span(kind, text) for kind, text in _compare(left, right) if text)
    groups = groupby(spans, key=lambda span: span.kind)
    return tuple(Span(kind, "".join(span.text for span in group)) for kind, group in groups)


def share_in_common(spans: Sequence[Span]) -> float:
    """How much of both texts is the same, from 0 to 1, in visible characters."""
    sizes = Counter[Kind]()
    for span in spans:
        sizes[span.kind] += len("".join(span.text.split()))
    whole = 2 * sizes["same"] + sizes["left"] + sizes["right"]
    return 2 * sizes["same"] / whole if whole else 1.0


Part = tuple[bool, str, str]  # whether the texts are the same here, the left one, the right one


def _compare(left: str, right: str) -> Iterator[tuple[Kind, str]]:
    """By words if that is affordable, else by sentences and then their words."""
    words = _matched(_WORD.findall(left), _WORD.findall(right), _MOST_WORK)
    if words is not None:
        return _shown(words)
    sentences = _matched(_SENTENCE.findall(left), _SENTENCE.findall(right), _MOST_WORK)
    return _shown([(False, left, right)] if sentences is None else _by_words(sentences))


def _by_words(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, those that differ cut into parts themselves, until all the work is used up."""
    room = _MOST_WORK
    for part in parts:
        is_same, *texts = part
        left, right = map(_WORD.findall, texts)
        words = None if is_same else _matched(left, right, room)
        if words is None:
            yield part
        else:
            room -= _work(left, right)
            yield from words


def _shown(parts: Iterable[Part]) -> Iterator[tuple[Kind, str]]:
    for is_same, left, right in parts:
        if is_same:
            yield "same", left
        else:
            yield "left", left
            yield "right", right


def _matched(left: Sequence[str], right: Sequence[str], most_work: int) -> list[Part] | None:
    """Where the two are the same and where not; None if finding that out costs too much."""
    begin = _common(left, right)
    end = _common(left[begin:][::-1], right[begin:][::-1])
    a, b = left[begin : len(left) - end], right[begin : len(right) - end]
    if _work(a, b) > most_work:
        return None
    # White space is in the way of words: as "junk" it only goes along with them, and costs nothing.
    matcher = SequenceMatcher(str.isspace, a, b, autojunk=False)
    middle = [(tag == "equal", "".join(a[i:j]), "".join(b[k:m])) for tag, i, j, k, m in matcher.get_opcodes()]
    first, last = "".join(left[:begin]), "".join(left[len(left) - end :])
    return [(True, first, first), *middle, (True, last, last)]


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """How many parts the two begin with in common."""
    unequal = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(unequal, min(len(left), len(right)))


def _work(left: Sequence[str], right: Sequence[str]) -> int:
    """What difflib has to do: it goes through the parts for each match, and through all equal pairs for the first one."""
    counts = Counter(right)
    pairs = sum(count * counts[part] for part, count in Counter(left).items() if not part.isspace())
    return len(left) * len(right) + _WORK_OF_A_PAIR * pairs
