"""Token ids of a byte-level BPE by the checkpoint's own files, without llama.cpp: what a written file is compared with.

Qwen 2's way: NFC; the tokens that were added are found first; the rest is cut into words, and within a word the pair of
neighbours that was learnt earliest is merged until none is left (Sennrich 2016). For proofs, not for speed.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from bq.convert.vocabulary import Vocabulary
from bq.runtime.structure_vocabulary import byte_characters
from bq.runtime.token_type import TokenType

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_LINE_ENDS = "\r\n"


class BytePairEncoder:
    """Encodes texts; no text gives a control token."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = {piece: i for i, piece in enumerate(vocabulary.pieces)}
        self._ranks = {
            (left, right): i for i, (left, _, right) in enumerate(m.partition(" ") for m in vocabulary.merges)
        }
        self._characters = byte_characters()
        self._is_composed = vocabulary.normalizer == "nfc"
        typed = zip(vocabulary.pieces, vocabulary.types, strict=True)
        added = sorted((re.escape(piece) for piece, kind in typed if kind == TokenType.USER_DEFINED), key=len)
        self._added = re.compile(f"({'|'.join(reversed(added))})" if added else r"((?!))")
        self._merged = lru_cache(4096)(self._merge)

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        for number, part in enumerate(self._added.split(text)):
            if number % 2:
                ids.append(self._ids[part])
                continue
            composed = unicodedata.normalize("NFC", part) if self._is_composed else part
            for word in words(composed):
                ids += self._merged(word)
        return ids

    def get_piece_size(self) -> int:
        """How many pieces it knows: all of them."""
        return len(self._ids)

    def _merge(self, word: str) -> tuple[int, ...]:
        parts = [self._characters[byte] for byte in word.encode("utf-8", "replace")]
        last = len(self._ranks)
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, last))
            if best not in self._ranks:
                break
            parts = list(_joined(parts, best))
        return tuple(self._ids[part] for part in parts)


def _joined(parts: list[str], pair: tuple[str, str]) -> Iterator[str]:
    i = 0
    while i < len(parts):
        is_pair = tuple(parts[i : i + 2]) == pair
        yield parts[i] + parts[i + 1] if is_pair else parts[i]
        i += 2 if is_pair else 1


def words(text: str) -> Iterator[str]:
    """A text cut as the expression in a Qwen 2 tokenizer.json cuts it (bq.convert.tokenizer_json), branch by branch."""
    at = 0
    while at < len(text):
        end = _word_end(text, at)
        yield text[at:end]
        at = end


def _word_end(text: str, at: int) -> int:
    contraction = next((one for one in _CONTRACTIONS if text[at : at + len(one)].casefold() == one), None)
    if contraction:
        return at + len(contraction)
    # [^\r\n\p{L}\p{N}]?\p{L}+
    letters = at + (text[at] not in _LINE_ENDS and not _is(text, at, "LN"))
    if _is(text, letters, "L"):
        return _while(text, letters, "L")
    if _is(text, at, "N"):
        return at + 1
    # " ?[^\s\p{L}\p{N}]+[\r\n]*"
    marks = at + (text[at] == " ")
    if marks < len(text) and not _is_space(text[marks]) and not _is(text, marks, "LN"):
        while marks < len(text) and not _is_space(text[marks]) and not _is(text, marks, "LN"):
            marks += 1
        return _line_ends(text, marks)
    return _spaces_end(text, at)


def _spaces_end(text: str, at: int) -> int:
    """Up to the last line end among the spaces; else all but the last space before a word; else all of them."""
    end = at
    while end < len(text) and _is_space(text[end]):
        end += 1
    last = max(text.rfind(one, at, end) for one in _LINE_ENDS)
    if last >= 0:
        return last + 1
    return end - 1 if end < len(text) and end - at > 1 else end


def _is_space(character: str) -> bool:
    """Unicode's White_Space; Python counts the four information separators too."""
    return character.isspace() and not "\x1c" <= character <= "\x1f"


def _is(text: str, at: int, kinds: str) -> bool:
    return at < len(text) and unicodedata.category(text[at])[0] in kinds


def _while(text: str, at: int, kinds: str) -> int:
    while _is(text, at, kinds):
        at += 1
    return at


def _line_ends(text: str, at: int) -> int:
    while at < len(text) and text[at] in _LINE_ENDS:
        at += 1
    return at
