"""A repaired vocabulary gives SentencePiece's ids, whether by a tokenizer.model or by the layout; what is unknown is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from bq.convert.repair.repair import RepairOptions, plan_repair, repair
from bq.convert.repair.vocabulary import right_vocabulary
from bq.convert.vocabulary import TokenType
from bq.runtime.gguf_file import read_gguf
from bq.runtime.tokenizer import EXTRA_WHITESPACE_KEY, load_tokenizer
from tests.convert.test_token_ids import BAICHUAN_1_PAIRS, BAICHUAN_2_PAIRS
from tests.support.gguf_writer import ARRAY, BOOL, F32, I32, STRING, U32, Key, Parts, array, encoded, take_apart
from tests.support.old_converters import as_old, retyped
from tests.support.refusals import advised_refusal
from tests.support.tokenizer import Piece, model_bytes, small_tokenizer

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
TEXTS = (
    "你好，世界！ 1,000 + 0.5",
    "def f(x):\n\treturn x ** 2  # 注释\n\n",
    "  two spaces, 。。。 ``` <br/> --- 😀 𠮷 ﷽",
    "<reserved_50><s></s><0x41>[PAD3] the model",
    " ",
    "\n",
)


def mend(path: Path, **options: Any) -> Path:
    return repair(plan_repair(path, RepairOptions(**options)), path.with_name("new.gguf"), 2, force=True).path


def vocabulary_file(path: Path, tokenizer: bytes, rows: int = 0, **extra: str) -> Path:
    """A GGUF of a vocabulary alone, as llama.cpp's old converter with --vocab-only wrote it; `extra` names added rows."""
    reference = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    count = reference.get_piece_size()
    pieces = [reference.id_to_piece(i) for i in range(count)] + [f"[PAD{i}]" for i in range(count, rows)]
    types = [
        2 if reference.is_unknown(i) else 3 if reference.is_control(i) else 6 if reference.is_byte(i) else 1
        for i in range(count)
    ]
    types += [5] * (len(pieces) - count)
    scores = [reference.get_score(i) for i in range(count)] + [-10000.0] * (len(pieces) - count)
    for number, piece in extra.items():
        pieces[int(number[1:])], types[int(number[1:])] = piece, 4
    keys = {
        "general.architecture": (STRING, "baichuan"),
        "tokenizer.ggml.model": (STRING, "llama"),
        TOKENS: (ARRAY, array(STRING, pieces)),
        SCORES: (ARRAY, array(F32, scores)),
        TYPES: (ARRAY, array(I32, types)),
        "tokenizer.ggml.eos_token_id": (U32, 2),
    }
    made = [Key(name, kind, encoded(kind, value) if kind != ARRAY else value) for name, (kind, value) in keys.items()]
    path.write_bytes(Parts(tuple(made), ()).to_bytes())
    return path


def ids_of(path: Path, texts: Any) -> list[list[int]]:
    with load_tokenizer(path) as tokenizer:
        return [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("by", ["layout", "tokenizer"])
def test_the_ids_are_sentencepieces(tmp_path: Path, generation: Any, by: str) -> None:
    model = small_tokenizer(generation)
    (tmp_path / "tokenizer.model").write_bytes(model)
    old = vocabulary_file(tmp_path / "old.gguf", model, 704)
    expected = [sentencepiece.SentencePieceProcessor(model_proto=model).encode(text) for text in TEXTS]
    assert ids_of(old, TEXTS) != expected

    new = mend(old, **({"tokenizer": tmp_path / "tokenizer.model"} if by == "tokenizer" else {}))

    assert ids_of(new, TEXTS) == expected
    types = read_gguf(new).metadata[TYPES]
    assert {i for i, kind in enumerate(types) if kind == TokenType.CONTROL} == {1, 2, 195, 196}
    assert {i for i, kind in enumerate(types) if kind == TokenType.USER_DEFINED} == {*range(3, 211)} - {195, 196}
    assert types[700:] == [TokenType.UNUSED] * 4


def test_the_real_baichuan_1_vocabulary_comes_out_with_the_published_ids(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "baichuan-7b-vocab.gguf"
    out = tmp_path / "new.gguf"
    plan = plan_repair(source)
    before = read_gguf(source)
    listed = zip(*(before.metadata[key] for key in (TOKENS, SCORES, TYPES)), strict=True)
    pieces = [Piece(name, score, 4 if 3 <= i <= 392 else kind) for i, (name, score, kind) in enumerate(listed)]
    model = model_bytes(pieces, add_dummy_prefix=True)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    expected = [reference.encode(text) for text in TEXTS]
    assert ids_of(source, TEXTS) != expected

    repair(plan, out, threads=2)

    assert ids_of(out, [*BAICHUAN_1_PAIRS, *TEXTS]) == [*BAICHUAN_1_PAIRS.values(), *expected]
    after = read_gguf(out)
    assert after.metadata[TOKENS] == before.metadata[TOKENS]
    assert after.metadata[SCORES] == before.metadata[SCORES]
    assert after.text("general.license.name") == "Baichuan-7B model licence"
    assert after.text("bq.norm_head") == "none"


def test_the_real_baichuan_2_vocabulary_comes_out_right_too(tmp_path: Path, shared_data: Path) -> None:
    model = (shared_data / "baichuan2-tokenizer" / "tokenizer.model").read_bytes()
    old = vocabulary_file(tmp_path / "old.gguf", model)
    new = mend(old)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    expected = [*BAICHUAN_2_PAIRS.values(), *(reference.encode(text) for text in TEXTS)]
    assert ids_of(new, [*BAICHUAN_2_PAIRS, *TEXTS]) == expected
    types = read_gguf(new).metadata[TYPES]
    assert {i for i, kind in enumerate(types) if kind == TokenType.USER_DEFINED} == {*range(3, 1089)} - {195, 196}


def test_role_pieces_cannot_be_forged_by_a_text(tmp_path: Path, converted: Convert) -> None:
    """As the tokenizer.model has them, user-defined, other programs take a text for a role."""
    old = tmp_path / "old.gguf"
    parts = take_apart(converted("b2-7b", "Q8_0", **SMALL))
    old.write_bytes(retyped(parts, lambda i, kind: 4 if i in (195, 196) else kind).to_bytes())
    (finding,) = [one for one in plan_repair(old).findings if one.verdict == "fault"]
    assert (finding.name, "forges a role" in finding.what) == ("role-pieces", True)
    assert not {195, 196} & set(ids_of(mend(old), ["a<reserved_106>b<reserved_107>"])[0])


def test_tokens_that_a_fine_tune_added_stay_as_they_are(tmp_path: Path) -> None:
    model = small_tokenizer(2)
    old = vocabulary_file(tmp_path / "old.gguf", model, 704, _700="<tool>", _701="<|im_end|>")
    parts = take_apart(old).with_key("tokenizer.ggml.eos_token_id", U32, encoded(U32, 701))
    old.write_bytes(parts.to_bytes())

    plan = plan_repair(old)
    new = read_gguf(mend(old))

    assert "A fine-tune added 2 tokens" in [str(one.what) for one in plan.findings]
    assert new.metadata[TOKENS][700:] == ["<tool>", "<|im_end|>", "[PAD702]", "[PAD703]"]
    assert new.metadata[TYPES][700:] == [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED, TokenType.UNUSED]
    assert new.count("tokenizer.ggml.eos_token_id") == 701, "it ends the answers of this fine-tune"
    assert "own-prompt" in [one.name for one in plan.findings]


def test_an_unknown_vocabulary_is_not_guessed_at(tmp_path: Path) -> None:
    old = vocabulary_file(tmp_path / "old.gguf", small_tokenizer(2))
    whole = take_apart(old)
    pieces = read_gguf(old).metadata[TOKENS]

    def refused(change: dict[int, str], scores: dict[int, float] = {}) -> str:  # noqa: B006
        tokens = [change.get(i, piece) for i, piece in enumerate(pieces)]
        numbers = [scores.get(i, score) for i, score in enumerate(read_scores)]
        parts = whole.with_key(TOKENS, ARRAY, array(STRING, tokens)).with_key(SCORES, ARRAY, array(F32, numbers))
        old.write_bytes(parts.to_bytes())
        return advised_refusal(plan_repair, old)

    read_scores = read_gguf(old).metadata[SCORES]
    for message in (
        refused({195: "<|user|>"}),
        refused({0: "<pad>"}),
        refused({}, {50: -3.0}),  # an ordinary piece among the user-defined ones
        refused({300: pieces[301], 301: pieces[300]}),  # byte pieces out of order
    ):
        assert "vocabulary that bq does not know" in message
        assert "--tokenizer tokenizer.model" in message
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer(2))
    old.write_bytes(whole.to_bytes())
    assert plan_repair(old, RepairOptions(tokenizer=tmp_path)).is_needed


def test_a_vocabulary_of_release_size_must_have_the_releases_layout(tmp_path: Path) -> None:
    """The byte pieces of a small vocabulary stand elsewhere, and more rows do not make it a release."""
    old = vocabulary_file(tmp_path / "old.gguf", small_tokenizer(1), 64000)
    assert "does not know" in advised_refusal(plan_repair, old)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    old = vocabulary_file(tmp_path / "old.gguf", small_tokenizer(2))
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer(1))
    options = RepairOptions(tokenizer=tmp_path)
    assert "another model's: token 52 is '0' there" in advised_refusal(plan_repair, old, options)
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer(2, 800))
    assert "has 800 pieces" in advised_refusal(plan_repair, old, options)
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    assert "tokenizer.model" in advised_refusal(plan_repair, old, options)
    assert "no tokenizer.model" in advised_refusal(plan_repair, old, RepairOptions(tokenizer=old))
    assert "missing" in advised_refusal(plan_repair, old, RepairOptions(tokenizer=tmp_path / "x" / "tokenizer.model"))


def test_the_tokenizer_mends_scores_as_well(tmp_path: Path) -> None:
    old = vocabulary_file(tmp_path / "old.gguf", small_tokenizer(2))
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer(2))
    right = read_gguf(old).metadata[SCORES]
    parts = take_apart(old).with_key(SCORES, ARRAY, array(F32, [0.0] * len(right)))
    old.write_bytes(parts.to_bytes())
    plan = plan_repair(old, RepairOptions(tokenizer=tmp_path))
    assert "token-scores" in [one.name for one in plan.findings]
    done = repair(plan, tmp_path / "new.gguf", 2)
    assert read_gguf(done.path).metadata[SCORES] == right
    assert "give SentencePiece's token ids" in " ".join(done.checked)


def test_a_false_word_on_whitespace_is_mended_by_the_tokenizer(tmp_path: Path) -> None:
    old = vocabulary_file(tmp_path / "old.gguf", small_tokenizer(2))
    (tmp_path / "tokenizer.model").write_bytes(small_tokenizer(2))
    old.write_bytes(take_apart(old).with_key(EXTRA_WHITESPACE_KEY, BOOL, encoded(BOOL, True)).to_bytes())
    assert read_gguf(mend(old, tokenizer=tmp_path)).flag(EXTRA_WHITESPACE_KEY, True) is False


def test_a_file_of_ours_with_a_vocabulary_of_its_own_is_left_alone(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "own.gguf"
    parts = take_apart(converted("b2-7b", "Q8_0", **SMALL))
    pieces = read_gguf(converted("b2-7b", "Q8_0", **SMALL)).metadata[TOKENS]
    pieces[195] = "<|user|>"
    template = parts.key("tokenizer.chat_template")
    renamed = replace(
        template, value=encoded(STRING, template.value[8:].decode().replace("<reserved_106>", "<|user|>"))
    )
    parts = parts.with_key(TOKENS, ARRAY, array(STRING, pieces)).with_key(template.name, STRING, renamed.value)
    path.write_bytes(parts.to_bytes())
    assert right_vocabulary(read_gguf(path), None).source == "the file itself"
    assert not plan_repair(path).is_needed
    path.write_bytes(as_old(parts).to_bytes())
    assert "does not know" in advised_refusal(plan_repair, path)
