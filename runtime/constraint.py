"""Answers that obey a grammar, a JSON schema or a list of choices: which tokens may come next.

    model.chat(messages, constraint=by_json_schema({"type": "object", "properties": {"name": {"type": "string"}}}))

Only text counts: pieces that print nothing (control, unknown, unused) never come, an end token only where the text is whole,
and bytes of a character only where they can become one that fits. A Baichuan 1 begins its answers with a space that is not
printed; it may come and is no part of the text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from bq.runtime.automaton import Automaton, State, too_ambiguous
from bq.runtime.errors import UsageError
from bq.runtime.grammar import LAST, ROOT, SHOWN, parse_grammar
from bq.runtime.json_schema import schema_to_gbnf
from bq.runtime.language import say
from bq.runtime.sampling import F32, MakeConstraint
from bq.runtime.tokenizer import Tokenizer

MOST_CHOICES = 1000
_MOST_KNOWN = 64  # states, a byte for each token
_MOST_STATES = 30_000  # that pieces lead to at once; their numbers have 16 bits
Numbers = npt.NDArray[np.int32]
_RESERVED = re.compile(rb"<reserved_[0-9]+>")
_FIRST_CONTINUATION = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F), 0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}  # RFC 3629


def by_grammar(text: str) -> MakeConstraint:
    """Texts that the rule `root` of a GBNF grammar describes. Raises UsageError for a wrong grammar."""
    automaton = Automaton(parse_grammar(text))
    return lambda tokenizer: GrammarConstraint(automaton, tokenizer)


def by_json_schema(schema: object) -> MakeConstraint:
    """JSON texts that a schema (as json.load gives it) allows. Raises UsageError for what cannot be promised."""
    grammar = schema_to_gbnf(schema)
    try:
        return by_grammar(grammar)
    except UsageError:  # it speaks of lines and rules that nobody wrote
        raise UsageError(
            say(
                "No answer can be held to this JSON schema: nothing fits it, or it goes on without an end, or it is too large.",
                "没有回答能符合此 JSON 模式：没有内容符合它，或它没有尽头，或过于庞大。",
            ),
            say(
                "Look for bounds that contradict each other, a required property that needs itself, or very many optional ones.",
                "请检查相互矛盾的界限、必须包含自身的属性，或数量过多的可选属性。",
            ),
        ) from None


def by_choices(choices: Sequence[str]) -> MakeConstraint:
    """Exactly one of these texts. Raises UsageError for less than two, empty ones, or some that cannot be printed."""
    distinct = list(dict.fromkeys(choices))
    if not 2 <= len(distinct) <= MOST_CHOICES or "" in distinct:
        raise UsageError(
            say(
                f"2 to {MOST_CHOICES:,} different choices are needed, none of them empty.",
                f"需要 2 到 {MOST_CHOICES:,} 个不同的选项，且不能为空。",
            ),
            say("Separate them by commas: --choices yes,no", "请用英文逗号分隔：--choices 是,否"),
        )
    for choice in distinct:
        if not all(any(low <= ord(character) <= high for low, high in SHOWN) for character in choice):
            raise UsageError(
                say(
                    f"The choice {choice!r} has characters that cannot be printed.",
                    f"选项 {choice!r} 含有无法显示的字符。",
                ),
                say("Leave them out.", "请去掉这些字符。"),
            )
    return by_grammar(f"{ROOT} ::= {' | '.join(map(_literal, distinct))}")


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class Vocabulary:
    """The pieces of a vocabulary in the order in which a grammar checks all of them at once.

    `tokens` are the ids of the pieces that are whole characters, the longest first. `columns[i]` holds the i-th character of
    each piece that has one, so it is a beginning of the column before; a character is its number in the sorted `alphabet`.
    `odd` are the other pieces.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.size = len(tokenizer)
        self.known: dict[State, npt.NDArray[np.bool_]] = {}
        self.odd: list[tuple[int, bytes]] = []
        self.by_text: dict[bytes, int] = {}
        texts: list[tuple[int, str]] = []
        ends: list[int] = []
        for token in range(self.size):
            if tokenizer.is_end(token):
                ends.append(token)
            elif piece := text_piece(tokenizer, token):
                self.by_text[piece] = token
                try:
                    texts.append((token, piece.decode()))
                except UnicodeDecodeError:
                    self.odd.append((token, piece))
        self.ends = np.array(ends, np.intp)
        self.longest = max(map(len, self.by_text), default=1)
        texts.sort(key=lambda one: -len(one[1]))
        self.tokens = np.array([token for token, _ in texts], np.intp)
        self.alphabet, self.columns = _columns([text for _, text in texts])

    def remember(self, state: State, allowed: npt.NDArray[np.bool_]) -> None:
        """Keep which tokens may come in a state; inside a string it is the same again and again."""
        if len(self.known) >= _MOST_KNOWN:
            self.known.clear()
        self.known[state] = allowed

    def cut(self, starts: list[int]) -> Numbers:
        """For each character of the alphabet, in which of the stretches of code points that begin at `starts` it lies."""
        edges = np.searchsorted(self.alphabet, np.array(starts, np.int32))
        return np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(np.append(edges, len(self.alphabet))))


def _columns(texts: list[str]) -> tuple[Numbers, list[Numbers]]:
    """The alphabet of texts, and column after column of their characters; the longest text stands first."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.int32)
    alphabet, numbers = np.unique(codes, return_inverse=True)
    lengths = np.array([len(text) for text in texts], np.intp)
    begins = np.cumsum(lengths) - lengths
    counts = [
        int(np.searchsorted(-lengths, -i)) for i in range(max(lengths, default=0))
    ]  # pieces with more than i characters
    return alphabet, [numbers[begins[:count] + i].astype(np.int32) for i, count in enumerate(counts)]


def text_piece(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that a token adds to a text, none for control tokens.

    Files from elsewhere type the role pieces as ordinary text; what is a role there ends the answer, and is no text either.
    """
    piece = tokenizer.piece(token)
    return b"" if piece.startswith(b"<reserved_") and _RESERVED.fullmatch(piece) else piece


_vocabularies: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Made at first use, which takes some tenths of a second for 125,696 pieces."""
    vocabulary = _vocabularies.get(tokenizer)
    if vocabulary is None:
        vocabulary = _vocabularies[tokenizer] = Vocabulary(tokenizer)
    return vocabulary


class GrammarConstraint:
    """One answer's way through an automaton (bq.runtime.sampling.Constraint)."""

    def __init__(self, automaton: Automaton, tokenizer: Tokenizer) -> None:
        self._automaton, self._tokenizer = automaton, tokenizer
        self._state = automaton.after_optional_space if tokenizer.add_dummy_prefix else automaton.start
        self._spaced = tokenizer.add_dummy_prefix  # nothing has come yet: a first space is not printed
        self._open = b""  # the first bytes of a character
        self._planned = b""  # of the way out, what is still to be spelled of a character

    def allows(self, token: int) -> bool:
        """Whether this token may come now; nothing changes."""
        if self._tokenizer.is_end(token):
            return self.may_end()
        return self._after(text_piece(self._tokenizer, token)) is not None

    def accept(self, token: int) -> None:
        """The token has come. Raises ValueError if it may not."""
        if self._tokenizer.is_end(token) and self.may_end():
            return
        after = self._after(text_piece(self._tokenizer, token))
        if after is None:
            raise ValueError(f"token {token} may not come here")
        if after[0] is not self._state:
            self._spaced = False
        self._state, self._open = after
        self._automaton.work = 0

    def may_end(self) -> bool:
        """Whether the text so far is whole."""
        return self._state.is_whole and not self._open

    def must_end(self) -> bool:
        """Whether it is whole and nothing may follow."""
        return self.may_end() and not self._state.places

    def mask(self, logits: F32) -> None:
        """Set the logits [vocab] of all tokens that may not come to -inf."""
        self._automaton.work = 0
        vocabulary = vocabulary_of(self._tokenizer)
        allowed = None if self._open else vocabulary.known.get(self._state)
        if allowed is None:
            allowed = self._allowed(vocabulary)
            if not self._open:
                vocabulary.remember(self._state, allowed)
        logits[~allowed] = -np.inf

    def _allowed(self, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
        allowed = np.zeros(vocabulary.size, np.bool_)
        if not self._open:
            allowed[vocabulary.tokens[self._fitting(vocabulary)]] = True
        if self._open or self._state.goes_on_within(0x80, LAST):
            allowed[[token for token, piece in vocabulary.odd if self._after(piece) is not None]] = True
        allowed[vocabulary.ends] = self.may_end()
        return allowed

    def closing(self, logits: F32) -> int | None:
        """The token that brings the text to its end soonest; None if the vocabulary cannot spell it."""
        vocabulary = vocabulary_of(self._tokenizer)
        if self.may_end():
            return int(vocabulary.ends[0]) if len(vocabulary.ends) else None
        rest, self._planned = self._planned, b""
        if self._open and not rest:  # the model knows best which character it has begun
            logits = logits.copy()
            self.mask(logits)
            token = int(logits.argmax())
            return token if logits[token] > -np.inf else None
        if not self._open:
            rest = self._rest(vocabulary.longest)
        for n in range(len(rest), 0, -1):
            if rest[:n] in vocabulary.by_text:
                self._planned = rest[n:]  # a character may take several tokens
                return vocabulary.by_text[rest[:n]]
        return None

    def close(self) -> None:
        """There is nothing to free."""

    def _rest(self, most: int) -> bytes:
        """The first bytes of a shortest text to the end."""
        text = ""
        for code in self._automaton.shortest(self._state):
            text += chr(code)
            if len(text) >= most:
                break
        if self._spaced and text.startswith(" "):
            text = " " + text  # or it would be the one that is not printed
        return text.encode()

    def _after(self, piece: bytes) -> tuple[State, bytes] | None:
        """The state and the open bytes after a piece; None if it does not fit."""
        if not piece:
            return None
        data = self._open + piece
        rest = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return None
            text, rest = data[: error.start].decode(), data[error.start :]
        state = self._state
        for character in text:
            after = self._automaton.step(state, ord(character))
            if after is None:
                return None
            state = after
        return (state, rest) if not rest or state.goes_on_within(*_span(rest)) else None

    def _fitting(self, vocabulary: Vocabulary) -> Numbers:
        """The rows of all whole pieces that fit, column by column: states only differ between rows where texts do."""
        found: list[Numbers] = []
        states = [self._state]
        rows = np.arange(len(vocabulary.tokens), dtype=np.int32)
        at = np.zeros(len(rows), np.int16)  # the state of each row, in `states`
        for i, column in enumerate(vocabulary.columns):
            rows, at, states = self._one_more(vocabulary, column[rows], rows, at, states)
            longer = len(vocabulary.columns[i + 1]) if i + 1 < len(vocabulary.columns) else 0
            done = int(np.searchsorted(rows, longer))  # those from here on have no further character
            found.append(rows[done:])
            rows, at = rows[:done], at[:done]
            if not len(rows):
                break
        return np.concatenate(found) if found else rows

    def _one_more(
        self, vocabulary: Vocabulary, characters: Numbers, rows: Numbers, at: npt.NDArray[np.int16], states: list[State]
    ) -> tuple[Numbers, npt.NDArray[np.int16], list[State]]:
        """The rows that may have these characters next, and their states after them."""
        known: dict[State, int] = {}
        after = np.full(len(rows), -1, np.int16)
        for number, where in _groups(at, len(states)):
            state = states[number]
            stretches = vocabulary.cut(state.starts)[characters[where]]
            targets = np.full(len(state.starts), -1, np.int16)
            for i in np.flatnonzero(np.bincount(stretches, minlength=len(targets))):
                following = self._automaton.follow(state, int(i))
                if following is not None:
                    targets[i] = known.setdefault(following, len(known))
            if len(known) > _MOST_STATES:
                raise too_ambiguous()
            after[where] = targets[stretches]
        alive = np.flatnonzero(after >= 0)
        return rows[alive], after[alive], list(known)


def _groups(at: npt.NDArray[np.int16], count: int) -> Iterator[tuple[int, Any]]:
    """Each number in `at`, which are less than `count`, and where it stands."""
    if count == 1:
        yield 0, slice(None)
        return
    order = np.argsort(at, kind="stable")
    edges = np.searchsorted(at[order], np.arange(count + 1))
    for number in range(count):
        yield number, order[edges[number] : edges[number + 1]]


def _span(first: bytes) -> tuple[int, int]:
    """The code points of the characters whose UTF-8 begins with `first`, which is the beginning of some."""
    length = 2 if first[0] < 0xE0 else 3 if first[0] < 0xF0 else 4
    low, high = _FIRST_CONTINUATION.get(first[0], (0x80, 0xBF))
    least, greatest = (first + bytes([low]), first + bytes([high])) if len(first) == 1 else (first, first)
    return ord(least.ljust(length, b"\x80").decode()), ord(greatest.ljust(length, b"\xbf").decode())
