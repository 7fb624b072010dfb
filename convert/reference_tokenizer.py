"""The tokenizer that a checkpoint came with, run without llama.cpp: what the ids of a written file are compared with."""

from typing import Protocol

from bq.convert.vocabulary import Vocabulary
from bq.runtime.openmp import limit_spins


class Reference(Protocol):
    """Named as SentencePiece names them."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""

    def get_piece_size(self) -> int:
        """How many pieces it knows; those behind are a fine-tune's."""


def reference_tokenizer(vocabulary: Vocabulary) -> Reference:
    """SentencePiece with the checkpoint's tokenizer.model, or bq's own reading of its tokenizer.json."""
    if vocabulary.model == "gpt2":
        from bq.convert.byte_pairs import BytePairEncoder

        return BytePairEncoder(vocabulary)
    limit_spins()
    import sentencepiece

    reference: Reference = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary.model_path))
    return reference
