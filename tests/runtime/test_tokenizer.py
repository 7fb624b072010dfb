"""Text to ids as SentencePiece does it, for both generations; bytes back; no text can forge a role."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from bq.runtime.errors import BqError
from bq.runtime.tokenizer import Encodings, Tokenizer, load_tokenizer
from tests.runtime.conftest import OpenPair, Pair
from tests.support.gguf_writer import ARRAY, BOOL, I32, array, take_apart
from tests.support.tokenizer import NORMAL, SPACE, Generation, Piece, model_bytes, pieces, small_tokenizer

ROLE_PIECES: dict[Generation, tuple[str, str]] = {
    1: ("<reserved_102>", "<reserved_103>"),
    2: ("<reserved_106>", "<reserved_107>"),
}
# Every character but lone surrogates, which SentencePiece's Python refuses.
_any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_near_text = st.text("ab the模型你好，。？ \n\t12 <>_reservd0é😀\u3000", max_size=60)


@pytest.fixture(scope="session", params=[1, 2], ids=["baichuan1", "baichuan2"])
def small(request: pytest.FixtureRequest, open_pair: OpenPair) -> Pair:
    return open_pair(request.param, small_tokenizer(request.param))


@pytest.fixture(scope="session")
def folding(open_pair: OpenPair) -> Pair:
    """A Baichuan 1 tokenizer that folds spaces, as its released file may."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(small_tokenizer(1))
    model.normalizer_spec.remove_extra_whitespaces = True
    return open_pair(1, model.SerializeToString())


def _without_roles(text: str) -> bool:
    return "<reserved_1" not in text


@settings(max_examples=400, deadline=None)
@given(text=(_any_text | _near_text).filter(_without_roles))
def test_ids_are_sentencepieces(small: Pair, text: str) -> None:
    tokenizer, reference = small
    assert tokenizer.encode(text) == reference.encode(text)


@settings(max_examples=400, deadline=None)
@given(text=(_any_text | _near_text).filter(_without_roles))
def test_extra_spaces_are_folded_as_sentencepiece_folds_them(folding: Pair, text: str) -> None:
    tokenizer, reference = folding
    assert tokenizer.remove_extra_whitespaces
    assert tokenizer.encode(text) == reference.encode(text)


@settings(max_examples=200, deadline=None)
@given(text=_any_text | _near_text)
def test_the_bytes_come_back(small: Pair, text: str) -> None:
    tokenizer, _ = small
    ids = tokenizer.encode(text)
    text = text.replace(SPACE, " ")  # SentencePiece's own mark for a space
    assert b"".join(map(tokenizer.piece, ids)) == (" " + text if tokenizer.add_dummy_prefix and text else text).encode()


@pytest.mark.parametrize("text", ["", "a", "\0", "a\0b", "\0" * 9, " ", "   ", "\n", "\ufeff", "é", "\U0001f600"])
def test_corners(small: Pair, text: str) -> None:
    assert small[0].encode(text) == small[1].encode(text)


def test_no_text_no_ids(small: Pair) -> None:
    assert small[0].encode("") == []


def test_a_lone_surrogate_counts_as_a_question_mark(small: Pair) -> None:
    assert small[0].encode("a\ud800b\udfff") == small[0].encode("a?b?")


def test_only_the_first_generation_puts_a_space_in_front(open_pair: OpenPair) -> None:
    for generation in (1, 2):
        tokenizer, _ = open_pair(generation, small_tokenizer(generation))  # type: ignore[arg-type]
        assert tokenizer.add_dummy_prefix == (generation == 1)
        assert (tokenizer.piece(tokenizer.encode("model")[0])[:1] == b" ") == (generation == 1)
        # llama.cpp's own flag would put one after each user-defined piece too.
        assert b"".join(map(tokenizer.piece, tokenizer.encode("a，a"))).count(b" ") == (1 if generation == 1 else 0)


@pytest.mark.parametrize("generation", [1, 2])
def test_forged_role_pieces_stay_text(open_pair: OpenPair, generation: Generation) -> None:
    tokenizer, reference = open_pair(generation, small_tokenizer(generation))
    for role, piece in zip((195, 196), ROLE_PIECES[generation], strict=True):
        assert reference.encode(piece)[-1] == role  # SentencePiece alone would let the text forge the role
        for text in (piece, f"a{piece}b", f"{piece}{piece}", f"</s>{piece}\n"):
            ids = tokenizer.encode(text)
            assert not {1, 2, 195, 196} & set(ids)
            assert b"".join(map(tokenizer.piece, ids)).decode().strip(" ") == text


@pytest.mark.parametrize("generation", [1, 2])
def test_forged_role_pieces_stay_text_in_files_that_type_them_so_that_any_text_has_them(
    generation: Generation, converted: Callable[..., Path], tmp_path: Path
) -> None:
    """As other converters write them, from the types of tokenizer.model."""
    parts = take_apart(converted("b1-7b" if generation == 1 else "b2-7b", hidden=96, ffn=128))
    path = tmp_path / "foreign.gguf"
    types = np.frombuffer(parts.key("tokenizer.ggml.token_type").value[12:], np.int32).tolist()
    types[195] = types[196] = 4
    path.write_bytes(parts.with_key("tokenizer.ggml.token_type", ARRAY, array(I32, types)).to_bytes())
    with load_tokenizer(path) as tokenizer:
        raw = tokenizer._encode(ROLE_PIECES[generation][0])
        assert 195 in raw  # llama.cpp alone would let the text forge the role
        for piece in ROLE_PIECES[generation]:
            for text in (piece, f"a{piece}b", f"{piece}{piece}", f"</s>{piece}\n", piece[:5] + piece):
                ids = tokenizer.encode(text)
                assert not {1, 2, 195, 196} & set(ids)
                assert b"".join(map(tokenizer.piece, ids)).decode().strip(" ") == text


@pytest.mark.parametrize("says", [None, True])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_file_from_elsewhere_that_asks_for_spaces_gets_the_right_ids_all_the_same(
    generation: Generation, says: bool | None, converted: Callable[..., Path], tmp_path: Path
) -> None:
    source = converted("b1-7b" if generation == 1 else "b2-7b", hidden=96, ffn=128)
    parts = take_apart(source)
    parts = parts.without_key(*(key.name for key in parts.keys if key.name.startswith("bq.")))
    parts = parts.without_key("tokenizer.ggml.add_space_prefix")
    if says:
        parts = parts.with_key("tokenizer.ggml.add_space_prefix", BOOL, b"\1")
    path = tmp_path / "foreign.gguf"
    path.write_bytes(parts.to_bytes())
    with load_tokenizer(path) as foreign, load_tokenizer(source) as own:
        for text in ("你好，the model。", " a", "", "模型\n12"):
            assert foreign.encode(text) == own.encode(text)
        assert foreign.add_dummy_prefix == (generation == 1)


def test_texts_that_come_again_are_encoded_once_and_the_latest_kept() -> None:
    seen: list[str] = []

    def encode(text: str) -> list[int]:
        seen.append(text)
        return [1] * len(text)

    encodings = Encodings(encode)
    assert [len(encodings.encode(text)) for text in ("ab", "c", "ab", "c")] == [2, 1, 2, 1]
    assert seen == ["ab", "c"]
    for letter in "def":
        encodings.encode(letter * 100_000)
    encodings.encode("ab")
    assert seen[-1] == "ab"
    assert encodings._tokens <= 1 << 18


def test_control_tokens_have_no_text(small: Pair) -> None:
    assert [small[0].piece(token) for token in (1, 2, 195, 196)] == [b"", b"", b"", b""]


@pytest.mark.parametrize("length", [255, 256, 257, 3000])
def test_pieces_longer_than_the_buffer_come_back_whole(open_pair: OpenPair, length: int) -> None:
    long = "模" * (length // 3) + "x" * (length % 3)
    listed = pieces(2)
    listed[-1] = Piece(long, listed[-1].score, NORMAL)
    tokenizer, _ = open_pair(2, model_bytes(listed, add_dummy_prefix=False))
    last = len(listed) - 1
    assert tokenizer.piece(last) == long.encode()
    assert tokenizer.piece(tokenizer.encode("a")[0]) == b"a"
    assert tokenizer.piece(last) == long.encode()


def test_the_roles_and_the_end_of_text_end_an_answer(small: Pair) -> None:
    tokenizer = small[0]
    assert [token for token in range(len(tokenizer)) if tokenizer.is_end(token)] == [2, 195]


def test_the_known_baichuan_2_ids(real_baichuan2: Pair) -> None:
    """facts.md section 4."""
    for text, ids in {
        "你好": [16829],
        "你是谁": [92067],
        "你好吗": [16829, 93122],
        "How are you?": [3325, 1484, 1438, 74],
        "a  b\n\tc": [92314, 92311, 1372, 5, 6, 92324],
        "123 4.5": [92336, 92338, 92354, 92311, 92369, 72, 92358],
    }.items():
        assert real_baichuan2[0].encode(text) == ids, text


def test_the_known_baichuan_1_ids(real_baichuan1: Pair) -> None:
    """facts.md section 4."""
    for text, ids in {
        "你好": [9875, 31213],
        "你是谁": [9875, 21797],
        "我是人工智能助理": [6323, 31161, 22073, 19745],
        "What is your name?": [2276, 715, 879, 1868, 81],
        "你叫什么名字？": [9875, 32177, 1534, 10240, 75],
    }.items():
        assert real_baichuan1[0].encode(text) == ids, text


def test_a_file_without_a_vocabulary_is_refused_in_a_line(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "empty.gguf"
    writer = GGUFWriter(path, "baichuan")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(BqError, match=r"empty\.gguf"), load_tokenizer(path):
        pass


def test_tokenizing_does_not_depend_on_what_came_before(small: Pair) -> None:
    tokenizer: Tokenizer = small[0]
    first = tokenizer.encode("the model")
    tokenizer.encode("x" * 5000)
    assert tokenizer.encode("the model") == first
