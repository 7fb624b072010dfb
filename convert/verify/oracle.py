"""Whose ids a file's are held against: SentencePiece's, those of the `tokenizers` library, or bq's own reading of tokenizer.json.

bq needs no `tokenizers` to convert or to run; where it is installed, it is the better witness.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bq.convert.reference_tokenizer import reference_tokenizer
from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime.language import say
from bq.runtime.structure_vocabulary import BYTE_LEVEL


@dataclass(frozen=True)
class Oracle:
    """Its name, its ids of a text, and the pieces with which a text says nothing: there the two must differ.

    Those of a fine-tune SentencePiece does not know; those of prompts `tokenizers` finds in any text, and bq in none.
    """

    name: str
    encode: Callable[[str], list[int]]
    excluded: tuple[str, ...]

    def can_judge(self, text: str) -> bool:
        """Whether a text has no such piece."""
        return not any(piece in text for piece in self.excluded)


def oracle_of(vocabulary: Vocabulary) -> Oracle:
    """The best that is installed for a checkpoint's vocabulary."""
    if vocabulary.model == BYTE_LEVEL:
        control = _pieces(vocabulary, 0, lambda kind: kind == TokenType.CONTROL)
        return _library(vocabulary, control) or Oracle(_own_name(), reference_tokenizer(vocabulary).encode, control)
    reference = reference_tokenizer(vocabulary)
    added = _pieces(vocabulary, reference.get_piece_size(), lambda kind: kind != TokenType.UNUSED)
    return Oracle("SentencePiece", reference.encode, added)


def _pieces(vocabulary: Vocabulary, first: int, is_one: Callable[[int], bool]) -> tuple[str, ...]:
    kinds = vocabulary.types
    return tuple(vocabulary.pieces[i] for i in range(first, len(kinds)) if is_one(kinds[i]))


def _own_name() -> str:
    return say("tokenizer.json (read by bq)", "tokenizer.json（由 bq 读取）")


def _library(vocabulary: Vocabulary, control: tuple[str, ...]) -> Oracle | None:
    try:
        import tokenizers

        found = tokenizers.Tokenizer.from_file(str(vocabulary.model_path))
    except Exception:  # it is not installed, or older than the file; the library knows no narrower class for that
        return None
    found.no_truncation()  # what a file may say of training, and of batches
    found.no_padding()

    def encode(text: str) -> list[int]:
        return list(found.encode(text, add_special_tokens=False).ids)

    return Oracle("tokenizers", encode, control)
