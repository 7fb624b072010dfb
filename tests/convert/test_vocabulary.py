"""The vocabulary keeps tokenizer.model's types, and what a fine-tune adds is placed where its ids say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bq.convert.vocabulary import TokenType, Vocabulary, read_vocabulary
from tests.support import tokenizer
from tests.support.refusals import refusal

ROLES = (195, 196)


def folder(path: Path, generation: tokenizer.Generation = 2, **files: Any) -> Path:
    (path / "tokenizer.model").write_bytes(tokenizer.small_tokenizer(generation))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def read(path: Path, rows: int = 704) -> Vocabulary:
    return read_vocabulary(path, rows, ROLES)


@pytest.mark.parametrize("generation", [1, 2])
def test_types_are_those_of_the_model_but_for_the_roles(generation: tokenizer.Generation, tmp_path: Path) -> None:
    found = read(folder(tmp_path, generation))
    expected = [piece.type for piece in tokenizer.pieces(generation)]
    expected[195] = expected[196] = TokenType.CONTROL
    assert list(found.types[:700]) == expected
    assert found.role_generation() == generation
    assert found.add_dummy_prefix == (generation == 1)
    assert (found.unk, found.bos, found.eos) == (0, 1, 2)


def test_the_real_tokenizer_has_its_types(shared_data: Path) -> None:
    found = read_vocabulary(shared_data / "baichuan2-tokenizer", 125696, ROLES)
    kinds = Counter(TokenType(kind).name for kind in found.types)
    assert kinds == {"NORMAL": 125696 - 1345, "BYTE": 256, "USER_DEFINED": 1084, "CONTROL": 4, "UNKNOWN": 1}
    assert (found.padding, found.added, found.add_dummy_prefix) == (0, 0, False)
    assert (found.pieces[195], found.pieces[196]) == ("<reserved_106>", "<reserved_107>")
    assert all(found.types[i] == TokenType.USER_DEFINED for i in range(3, 1089) if i not in ROLES)


def test_rows_without_a_piece_are_unused_padding(tmp_path: Path) -> None:
    found = read(folder(tmp_path), 710)
    assert found.padding == 10
    assert found.pieces[700:] == tuple(f"[PAD{i}]" for i in range(700, 710))
    assert set(found.types[700:]) == {TokenType.UNUSED}


def test_more_pieces_than_rows_are_refused(tmp_path: Path) -> None:
    message = refusal(read, folder(tmp_path), 699)
    assert "tokenizer.model has 700 pieces, the embedding only 699 rows" in message


def test_added_tokens_take_their_rows(tmp_path: Path) -> None:
    found = read(
        folder(
            tmp_path,
            added_tokens={"<tool>": 701, "<end>": 700},
            special_tokens_map={"additional_special_tokens": ["<end>"]},
        )
    )
    assert found.pieces[700:702] == ("<end>", "<tool>")
    assert found.types[700:704] == (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNUSED, TokenType.UNUSED)
    assert (found.added, found.padding) == (2, 2)


def test_an_added_tokens_decoder_adds_and_renames(tmp_path: Path) -> None:
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "2": {"content": "</s>", "special": True},
        "120": {"content": "<renamed>", "special": True},
        "700": {"content": "<new one>", "special": False},
        "9" * 5000: {"content": "<absurd>"},
        "x": {"content": "<no id>"},
        "701": "no entry",
    }
    found = read(folder(tmp_path, tokenizer_config={"added_tokens_decoder": decoder}))
    assert (found.pieces[120], found.types[120]) == ("<renamed>", TokenType.CONTROL)
    assert (found.pieces[700], found.types[700]) == ("<new one>", TokenType.USER_DEFINED)
    assert found.types[:3] == (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL)
    assert (found.added, found.padding) == (1, 3)


def test_unused_pieces_of_the_model_itself_are_no_padding(tmp_path: Path) -> None:
    listed = tokenizer.pieces(2)
    listed[650] = tokenizer.Piece(listed[650].text, 0.0, tokenizer.UNUSED)
    folder(tmp_path, added_tokens={listed[699].text: 699, "<new>": 700})
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_bytes(listed, add_dummy_prefix=False))
    found = read(tmp_path)
    assert (found.added, found.padding) == (1, 3)
    assert found.types[699] == TokenType.NORMAL


def test_a_space_mark_in_a_user_defined_piece_is_a_space(tmp_path: Path) -> None:
    listed = tokenizer.pieces(2)
    listed[100] = tokenizer.Piece("▁▁", 0.0, tokenizer.USER_DEFINED)
    folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_bytes(listed, add_dummy_prefix=False))
    found = read(tmp_path)
    assert found.pieces[100] == "  "
    assert any(piece.startswith("▁") for piece, kind in zip(found.pieces, found.types, strict=True) if kind == 1)


@pytest.mark.parametrize("number", [704, -1, 10**9, "700", 1.0, True, None])
def test_an_added_token_outside_the_embedding_is_refused(number: object, tmp_path: Path) -> None:
    message = refusal(read, folder(tmp_path, added_tokens={"<tool>": number}))
    assert "added_tokens.json" in message
    assert "'<tool>'" in message


@pytest.mark.parametrize(
    ("token", "what"), [("a\ud800", "is no text"), ("a\0", "is no text"), ("[PAD701]", "700 and 701 are both")]
)
def test_an_added_token_that_no_file_can_hold_is_refused(token: str, what: str, tmp_path: Path) -> None:
    assert what in refusal(read, folder(tmp_path, added_tokens={token: 700}))


def test_roles_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    for roles in ((0, 196), (195, 704), (2, 3)):
        assert "role id" in refusal(read_vocabulary, folder(tmp_path), 704, roles)


def test_a_vocabulary_too_small_for_the_role_ids_has_no_generation(tmp_path: Path) -> None:
    listed = tokenizer.pieces(2)[:100]
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_bytes(listed, add_dummy_prefix=False))
    assert read_vocabulary(tmp_path, 100, (5, 6)).role_generation() is None


@pytest.mark.parametrize("data", [b"\xff" * 100, b"", b"hello", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_damaged_tokenizer_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    assert "tokenizer.model" in refusal(read, tmp_path)


def test_a_tokenizer_of_another_kind_or_missing_is_refused(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(tokenizer.small_tokenizer(2))
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    assert "no SentencePiece BPE model" in refusal(read, tmp_path)
    model.trainer_spec.model_type, model.trainer_spec.bos_id = model.trainer_spec.BPE, -1
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    assert "no SentencePiece BPE model" in refusal(read, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    assert "tokenizer.model is missing" in refusal(read, tmp_path)
