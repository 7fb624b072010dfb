"""The user-defined pieces of a vocabulary, which are found whole in any text before it is cut into others.

SentencePiece and `tokenizers` go from left to right and take the longest piece that begins at a place. llama.cpp looks for the
longest piece in the whole text first, then for the next: that is the same unless one piece can begin within another, as
`\\r\\n\\r\\n` does within `%\\r\\n` in Baichuan-M1. Then a text must be cut here.
"""

from collections.abc import Iterable, Iterator

from bq.runtime.gguf_file import GgufFile
from bq.runtime.token_type import TokenType

_MOST, _LONGEST = (
    4096,
    128,
)  # pieces, and characters of one; Baichuan-M1 has 2,310 of up to 82. Of more, all count as overlapped


class WholePieces:
    """Splits texts at pieces, none of which is empty."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = frozenset(pieces)
        lengths: dict[str, set[int]] = {}
        for piece in self._pieces:
            lengths.setdefault(piece[0], set()).add(len(piece))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def split(self, text: str) -> Iterator[tuple[str, bool]]:
        """The parts of a text from left to right, and whether each is a piece."""
        begin = at = 0
        while at < len(text):
            piece = self._longest_at(text, at)
            if piece is None:
                at += 1
                continue
            if begin < at:
                yield text[begin:at], False
            yield piece, True
            begin = at = at + len(piece)
        if begin < len(text):
            yield text[begin:], False

    def _longest_at(self, text: str, at: int) -> str | None:
        for length in self._lengths.get(text[at], ()):
            if (found := text[at : at + length]) in self._pieces:
                return found
        return None

    def overlapped(self) -> frozenset[str]:
        """Pieces within which another one, no shorter, may begin: llama.cpp finds others only in a text that has one of them."""
        if len(self._pieces) > _MOST or max(map(len, self._pieces), default=0) > _LONGEST:
            return self._pieces
        of_all = _longest_by_beginning(self._pieces)
        # Of two runs of one character the longer one is found first, wherever it begins.
        of_mixed = _longest_by_beginning(piece for piece in self._pieces if not _is_run(piece))
        return frozenset(
            piece
            for piece in self._pieces
            if any(
                (of_mixed if _is_run(piece) else of_all).get(piece[at:], 0) >= len(piece) for at in range(1, len(piece))
            )
        )


def _longest_by_beginning(pieces: Iterable[str]) -> dict[str, int]:
    """How long the longest piece is that begins so, and is longer than that."""
    longest: dict[str, int] = {}
    for piece in pieces:
        for end in range(1, len(piece)):
            longest[piece[:end]] = max(len(piece), longest.get(piece[:end], 0))
    return longest


def _is_run(piece: str) -> bool:
    return piece == piece[0] * len(piece)


def whole_pieces(file: GgufFile) -> WholePieces:
    """Those of a file's vocabulary."""
    pieces, types = (file.metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    if not isinstance(pieces, list) or not isinstance(types, list):
        return WholePieces(())
    typed = zip(pieces, types, strict=False)
    return WholePieces(piece for piece, kind in typed if kind == TokenType.USER_DEFINED and piece)
