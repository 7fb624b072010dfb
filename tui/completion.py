"""A text that a person and a model write in turns, and what the model would have written instead at each of its tokens.

The offsets of the model's tokens follow every change of the text: a token that a change goes through is one no longer,
those behind it move. Offsets count characters. A `Change` can be taken back and made again, tokens included.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from bq.runtime.text_stream import harmless

if TYPE_CHECKING:
    from bq.runtime.generation import Alternative, Step

_LINE_ENDS = {0x2028: "\n", 0x2029: "\n"}  # LINE and PARAGRAPH SEPARATOR: an editor of lines would break there, too


def plain(text: str) -> str:
    """The text as lines that nothing but a line feed ends, with control characters made visible."""
    return harmless(text).translate(_LINE_ENDS)


@dataclass(frozen=True)
class Choice:
    """A token that the model might take: its bytes, and how likely the model thought it."""

    piece: bytes
    probability: float

    @property
    def text(self) -> str | None:
        """What taking it writes; None for a part of a character, and for a control token, which is no text."""
        try:
            return plain(self.piece.decode("utf-8")) or None
        except UnicodeDecodeError:
            return None


@dataclass(eq=False)
class Token:
    """Where a token of the model stands. The tokens of one character, each a part of its bytes, all stand where it is."""

    start: int
    end: int
    chosen: Choice | None = None  # None: the alternatives were not asked for
    alternatives: tuple[Choice, ...] = ()  # the likeliest first


@dataclass
class Change:
    """Text put in the place of other text. `before` and `after` are the tokens that only one of the two states has."""

    start: int
    removed: str
    inserted: str
    before: list[Token] = field(default_factory=list)
    after: list[Token] = field(default_factory=list)


_start, _end = attrgetter("start"), attrgetter("end")


class Completion:
    """The text, its tokens in order, and the point where the model goes on."""

    def __init__(self, text: str = "") -> None:
        self.text = plain(text)
        self.point = len(self.text)
        self.tokens: list[Token] = []
        self.is_running = False
        self._begun_at = 0
        self._cut_through: list[Token] = []
        self._unfinished: list[Token] = []  # of a character that is not whole yet

    def prefix(self) -> str:
        """What the model reads: the text up to the point."""
        return self.text[: self.point]

    # Changes

    def replacing(self, start: int, end: int, text: str) -> Change:
        """The change that puts `text` where start to end is; `apply` makes it."""
        return Change(start, self.text[start:end], text)

    def taking(self, token: Token, rank: int) -> Change | None:
        """The change that puts an alternative (from 1) in a token's place and cuts off all that follows.

        None where there is no such alternative, or it is no text.
        """
        if not 1 <= rank <= len(token.alternatives):
            return None
        choice = token.alternatives[rank - 1]
        if choice.text is None:
            return None
        taken = Token(token.start, token.start + len(choice.text), choice, token.alternatives)
        return Change(token.start, self.text[token.start :], choice.text, after=[taken])

    def apply(self, change: Change) -> None:
        """Make a change. The point is then behind what was inserted."""
        change.before = self._exchange(change.start, change.removed, change.inserted)
        self._put(change.after)

    def revert(self, change: Change) -> None:
        """Take a change back, if it was the last one that was made."""
        change.after = self._exchange(change.start, change.inserted, change.removed)
        self._put(change.before)

    # What the model writes

    def begin(self, point: int) -> None:
        """From here on the model writes at `point`."""
        self.point = self._begun_at = point
        self._cut_through, self._unfinished = [], []
        self.is_running = True

    def feed(self, steps: "Iterable[Step]") -> str:
        """Insert what has come at the point; returns that text."""
        start = end = self.point
        texts, tokens = [], []
        for step in steps:
            text = self._text_of(step, is_first=end == self._begun_at and not self._unfinished)
            if step.chosen is not None or not self._unfinished:
                self._unfinished.append(_token(step))
            if text:
                tokens += [_placed(token, end, end + len(text)) for token in self._unfinished]
                self._unfinished = []
                texts.append(text)
                end += len(text)
        inserted = "".join(texts)
        if inserted:
            self._cut_through += self._exchange(start, "", inserted)
            self._put(tokens)
        return inserted

    def finish(self) -> Change | None:
        """The model is done: all that it wrote as one change, made already; None if that is nothing."""
        self.is_running = False
        self._unfinished = []
        written = self.text[self._begun_at : self.point]
        return Change(self._begun_at, "", written, before=self._cut_through) if written else None

    # Where the tokens are

    def at(self, offset: int) -> Token | None:
        """The token that the cursor is on, else the one that it is right behind; of several in one place the first."""
        i = bisect_right(self.tokens, offset, key=_start) - 1
        if i < 0 or self.tokens[i].end < offset:
            return None
        return self.tokens[bisect_left(self.tokens, self.tokens[i].start, key=_start)]

    def index(self, token: Token | None) -> int | None:
        """The token's number, from 0; None if it is no longer there."""
        if token is None:
            return None
        first = bisect_left(self.tokens, token.start, key=_start)
        last = bisect_right(self.tokens, token.start, key=_start)
        return next((i for i in range(first, last) if self.tokens[i] is token), None)

    def next(self, offset: int, current: Token | None) -> Token | None:
        """The token after the one at the cursor, or the first one behind the cursor."""
        i = self.index(current)
        i = bisect_left(self.tokens, offset, key=_start) if i is None else i + 1
        return self.tokens[i] if i < len(self.tokens) else None

    def previous(self, offset: int, current: Token | None) -> Token | None:
        """The token before the one at the cursor; that one itself, if the cursor is not at its start."""
        i = self.index(current)
        if i is not None and self.tokens[i].start < offset:
            return current
        i = bisect_right(self.tokens, offset, key=_end) - 1 if i is None else i - 1
        return self.tokens[i] if i >= 0 else None

    def runs(self) -> list[tuple[int, int]]:
        """The parts of the text that the model wrote: from, to."""
        found: list[tuple[int, int]] = []
        for token in self.tokens:
            if found and token.start <= found[-1][1]:
                found[-1] = (found[-1][0], token.end)
            else:
                found.append((token.start, token.end))
        return found

    def _text_of(self, step: "Step", is_first: bool) -> str:
        """An answer to Baichuan 1 loses the space that begins it, its own or not; behind other text it is its own."""
        text = plain(step.text)
        if is_first and self._begun_at and step.chosen and step.chosen.piece.startswith(b" "):
            whole = _choice(step.chosen).text
            return whole if whole == " " + text else text
        return text

    def _exchange(self, start: int, removed: str, inserted: str) -> list[Token]:
        """Put one text in the place of the other; returns the tokens that are lost."""
        end, shift = start + len(removed), len(inserted) - len(removed)
        self.text = self.text[:start] + inserted + self.text[end:]
        self.point = start + len(inserted)
        if not removed and not inserted:
            return []
        first = bisect_right(self.tokens, start, key=_end)
        behind = bisect_left(self.tokens, end, key=_start)
        lost = self.tokens[first:behind]
        for token in self.tokens[behind:]:
            token.start += shift
            token.end += shift
        del self.tokens[first:behind]
        return lost

    def _put(self, tokens: Sequence[Token]) -> None:
        if tokens:
            at = bisect_left(self.tokens, tokens[0].start, key=_start)
            self.tokens[at:at] = tokens


def _token(step: "Step") -> Token:
    chosen = _choice(step.chosen) if step.chosen is not None else None
    return Token(0, 0, chosen, tuple(map(_choice, step.alternatives)))


def _placed(token: Token, start: int, end: int) -> Token:
    token.start, token.end = start, end
    return token


def _choice(alternative: "Alternative") -> Choice:
    return Choice(alternative.piece, math.exp(alternative.logprob))
