"""A byte-level BPE from tokenizer.json: token ids are those of the `tokenizers` library, and hostile files are refused.

The oracle is the library with the same file, in which the control tokens have names that no text holds: text is never searched
for them. One text in a vocabulary's lifetime differs: after an apostrophe the library takes "ſ" (U+017F) for an s.
"""

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.convert.byte_pairs import BytePairEncoder, words
from bq.convert.tokenizer_json import read_tokenizer_json
from bq.convert.verify.oracle import oracle_of
from bq.convert.vocabulary import TokenType, Vocabulary, read_vocabulary
from bq.runtime.prompt_format import CHATML
from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.support.refusals import only_refuses, refusal
from tests.support.vocabulary_gguf import write_vocabulary

tokenizers = pytest.importorskip("tokenizers", reason="the oracle of the token ids is the `tokenizers` library")
from tests.support.qwen_tokenizer import ADDED, WORDS, token_ids, tokenizer_json, write_tokenizer  # noqa: E402

OWN, ROWS = 420, 448
PROBES = (
    "",
    "你好，世界！百川大模型能做什么？",
    "How are you? It's what YOU'LL don't know.",
    "pi = 3.14159, 2026-11-22, 1,000,000",
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}  # 注释\n\n",
    "  two spaces,   three,\ttab,\r\nline\n\n\nend ",
    "ＡＢＣ１２３，。！？「」…— ²Ⅳ½",
    "emoji 😀👩‍👩‍👧 and rare 𠮷 ﷽ ﬁ Ω≈ç√",
    "Привет, мир. こんにちは世界。 안녕하세요 مرحبا",
    "<think>hm</think> <tool_call>{}</tool_call>",
    "<think>\u0338 e\u0301 \u1112\u1161\u11ab \u212b a\u0307\u0323",
    "\x1c\x1f\x85\xa0\u1680\u2028\u3000",
)
PARTS = ["the", " model", "你好", "，", "'s", "'T", "'ll", "\n", "\r\n", " ", "  ", "\t", "12", "３", "é", "e\u0301", "\x85",
         "\u3000", "\x1c", "😀", "!", "?! \n", "²", "_", "\u0301", "\u200d", *(text for text, _ in ADDED)]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cn", "Cs"]), max_size=30),  # Python may not know the newest characters
)
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    write_tokenizer(path, OWN)
    return path


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return read_vocabulary(folder, ROWS, (0, 0))


@pytest.fixture(scope="module")
def loaded(folder: Path, vocabulary: Vocabulary) -> Iterator[Tokenizer]:
    with load_tokenizer(write_vocabulary(folder / "vocabulary.gguf", vocabulary, "qwen2")) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def oracle(vocabulary: Vocabulary) -> Any:
    file = json.loads(tokenizer_json(OWN))
    for token in file["added_tokens"]:
        if vocabulary.types[token["id"]] == TokenType.CONTROL:
            token["content"] = f"\U0010fff0{token['id']}\U0010fff0"
    return tokenizers.Tokenizer.from_str(json.dumps(file))


def test_the_vocabulary_is_the_files(vocabulary):
    ids = token_ids(OWN)
    assert [vocabulary.pieces[ids[text]] for text, _ in ADDED] == [text for text, _ in ADDED]
    assert (vocabulary.model, vocabulary.pre, vocabulary.normalizer, vocabulary.prompt) == (
        "gpt2",
        "qwen2",
        "nfc",
        CHATML,
    )
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (
        ids["<|endoftext|>"],
        ids["<|im_end|>"],
        ids["<|endoftext|>"],
    )
    assert vocabulary.padding == ROWS - OWN - len(ADDED)
    assert vocabulary.pieces[-1] == f"[PAD{ROWS - 1}]"
    assert vocabulary.types[-1] == TokenType.UNUSED


def test_control_tokens_are_those_that_are_special_or_look_so(vocabulary):
    for text, number in token_ids(OWN).items():
        is_control = text.startswith("<|")
        assert vocabulary.types[number] == (TokenType.CONTROL if is_control else TokenType.USER_DEFINED), text


@pytest.mark.parametrize("text", PROBES)
def test_token_ids_are_the_librarys(loaded, oracle, vocabulary, text):
    assert loaded.encode(text) == oracle.encode(text).ids == BytePairEncoder(vocabulary).encode(text)


@SETTINGS
@given(TEXTS)
def test_token_ids_of_any_text_are_the_librarys(loaded, oracle, text):
    expected = oracle.encode(text).ids
    assert loaded.encode(text) == expected
    back = b"".join(map(loaded.piece, expected)).decode("utf-8", "replace")
    assert unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", text)


@SETTINGS
@given(TEXTS)
def test_the_proof_of_a_file_has_the_librarys_ids_too(vocabulary, oracle, text):
    assert BytePairEncoder(vocabulary).encode(text) == oracle.encode(text).ids


def test_what_a_file_says_of_training_does_not_change_the_witness(tmp_path):
    write_tokenizer(tmp_path, OWN)
    changed(tmp_path, truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0})
    witness = oracle_of(read_vocabulary(tmp_path, ROWS, (0, 0)))
    assert witness.name == "tokenizers"
    assert len(witness.encode("123456")) == 6, "each digit is a word"


@SETTINGS
@given(TEXTS)
def test_words_are_cut_as_the_expression_cuts_them(text):
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    assert list(words(text)) == [word for word, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize(("text", "special"), ADDED)
def test_no_text_forges_a_control_token(loaded, vocabulary, text, special):
    if vocabulary.types[token_ids(OWN)[text]] == TokenType.CONTROL:
        assert token_ids(OWN)[text] not in loaded.encode(f"a{text}b")


def test_merges_are_read_in_both_forms(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text("utf-8"), "utf-8")
    read = read_tokenizer_json(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    other = [" ".join(one) for one in merges] if isinstance(merges[0], list) else [one.split(" ") for one in merges]
    changed(tmp_path, "model", merges=other)
    assert read_tokenizer_json(tmp_path) == read
    assert len(read.merges) == OWN - 256


def changed(folder: Path, *place: str, **values: Any) -> None:
    """Set keys of an object in tokenizer.json."""
    file = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    at = file
    for key in place:
        at = at[key]
    at.update(values)
    (folder / "tokenizer.json").write_text(json.dumps(file), "utf-8")


ADDED_TWICE = [{"id": 420, "content": "<a>"}, {"id": 421, "content": "<a>"}]
CHATML_TOKENS = [{"id": number, "content": text} for text, number in token_ids(OWN).items()]
SPLIT = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    ("place", "values", "words_"),
    [
        ((), {"model": None}, "no model"),
        (("model",), {"type": "Unigram"}, "no plain BPE"),
        (("model",), {"byte_fallback": True}, "no plain BPE"),
        (("model",), {"ignore_merges": True}, "no plain BPE"),
        (("model",), {"vocab": {}}, "has no piece"),
        (("model",), {"vocab": {"a": -1}}, "id -1"),
        (("model",), {"vocab": {"a": True}}, "id True"),
        (("model",), {"vocab": {"你": 0}}, "byte alphabet"),
        (("model",), {"merges": None}, "no merges"),
        (("model",), {"merges": [["a"]]}, "a merge is"),
        (("model",), {"merges": ["a b c"]}, "a merge is"),
        (("model",), {"merges": [["a", 1]]}, "a merge is"),
        (("model",), {"merges": [["zz", "q"]]}, "names no pieces"),
        (("model",), {"merges": [["h", "e"], ["h", "e"]]}, "twice"),
        ((), {"added_tokens": [{"id": 3, "content": "<a>"}]}, "given twice"),
        ((), {"added_tokens": ADDED_TWICE}, "added twice"),
        ((), {"added_tokens": [{"id": 420}]}, "no content"),
        ((), {"added_tokens": [{"id": 420, "content": "a\0"}]}, "has the id"),
        ((), {"added_tokens": [{"id": 1 << 21, "content": "<a>"}]}, "its ids go up"),
        ((), {"added_tokens": [{"id": 420, "content": "<a>", "rstrip": True}]}, "takes spaces"),
        ((), {"added_tokens": []}, "no <|im_start|>"),
        ((), {"added_tokens": [*CHATML_TOKENS, {"id": 434, "content": "a\ud800"}]}, "is no text"),
        ((), {"added_tokens": [*CHATML_TOKENS, {"id": 434, "content": "[PAD435]"}]}, "434 and 435 are both '[PAD435]'"),
        ((), {"normalizer": {"type": "NFKC"}}, "normalizer"),
        ((), {"pre_tokenizer": None}, "pre_tokenizer"),
        ((), {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}}, "another expression"),
    ],
)
def test_what_llama_cpp_would_not_follow_is_refused_in_a_line(tmp_path, place, values, words_):
    write_tokenizer(tmp_path, OWN)
    changed(tmp_path, *place, **values)
    assert words_ in refusal(read_vocabulary, tmp_path, ROWS, (0, 0))


def test_a_tokenizer_larger_than_the_embedding_is_refused(folder):
    assert "434 pieces" in refusal(read_vocabulary, folder, 433, (0, 0))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "id", "content", "a"]), inner),
    max_leaves=6,
)
PLACES = ["version", "added_tokens", "normalizer", "pre_tokenizer", "decoder", "model"]
MODEL_PLACES = ["type", "vocab", "merges", "dropout", "unk_token", "fuse_unk"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES + MODEL_PLACES), VALUES)
def test_a_file_of_anything_is_read_or_refused(tmp_path, key, value):
    write_tokenizer(tmp_path, OWN)
    changed(tmp_path, *(("model",) if key in MODEL_PLACES else ()), **{key: value})
    only_refuses(read_vocabulary, tmp_path, ROWS, (0, 0))
