"""Tokenizers as bq converts and loads them: small ones of both generations, and the real ones where their data is."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.conftest import convert_folder
from tests.support.families import Family, Shape, write_checkpoint
from tests.support.tokenizer import Generation, baichuan1_tokenizer

Pair = tuple[Tokenizer, "sentencepiece.SentencePieceProcessor"]
OpenPair = Callable[[Generation, bytes], Pair]


@pytest.fixture(scope="session")
def open_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenPair]:
    """`open_pair(generation, tokenizer_model_bytes)`: bq's tokenizer after a conversion, and SentencePiece's own."""
    with ExitStack() as stack:

        def make(generation: Generation, model: bytes) -> Pair:
            reference: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
            folder = tmp_path_factory.mktemp("tokenizer")
            family: Family = "b1-7b" if generation == 1 else "b2-7b"
            rows = reference.get_piece_size()
            write_checkpoint(folder / "model", Shape(family, hidden=32, heads=2, ffn=32, vocab=rows, pieces=700))
            (folder / "model" / "tokenizer.model").write_bytes(model)
            path = convert_folder(folder / "model", folder / "model.gguf", "F16")
            return stack.enter_context(load_tokenizer(path)), reference

        yield make


@pytest.fixture(scope="session")
def real_baichuan2(open_pair: OpenPair, shared_data: Path) -> Pair:
    """The tokenizer of every Baichuan 2 release."""
    return open_pair(2, (shared_data / "baichuan2-tokenizer" / "tokenizer.model").read_bytes())


@pytest.fixture(scope="session")
def real_baichuan1(open_pair: OpenPair, shared_data: Path) -> Pair:
    """The tokenizer of Baichuan 1, built from its published vocabulary."""
    return open_pair(1, baichuan1_tokenizer(shared_data / "baichuan-7b-vocab.gguf"))
