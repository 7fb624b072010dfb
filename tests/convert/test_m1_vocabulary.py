"""Baichuan-M1's tokenizer, which is the release's own: ids are SentencePiece's, roles and ends are where its template has them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bq.convert.chat_template import chat_template
from bq.convert.identity import folder_roles
from bq.convert.read_back import PROBES, check_token_ids
from bq.convert.vocabulary import TokenType, Vocabulary, read_vocabulary
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import file_warnings, generation_of, prompt_format
from bq.runtime.prompt import Message, build_prompt
from bq.runtime.prompt_format import M1
from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.support.vocabulary_gguf import write_vocabulary

ROWS, USER, ASSISTANT, SYSTEM = 133120, 73, 74, 71
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", " \n", "\n  ", "    ", "\r\n", "a", "你好", "，", "1", "x ="]


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    found = shared_data / "baichuan-m1-tokenizer"
    if not found.is_dir():
        pytest.skip("../shared/data/baichuan-m1-tokenizer is not there")
    return found


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return read_vocabulary(folder, ROWS, folder_roles(folder))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """llama.cpp tokenizes by the vocabulary alone, but only of an architecture that it knows."""
    out = tmp_path_factory.mktemp("m1") / "vocabulary.gguf"
    return write_vocabulary(out, vocabulary, "llama", (USER, ASSISTANT))


@pytest.fixture(scope="module")
def loaded(path: Path) -> Iterator[Tokenizer]:
    with load_tokenizer(path) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_pieces_are_named_and_typed_as_the_release_says(vocabulary, folder):
    decoder = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["added_tokens_decoder"]
    for number, token in decoder.items():
        assert vocabulary.pieces[int(number)] == token["content"]
    assert [vocabulary.pieces[i] for i in (vocabulary.pad, vocabulary.bos, vocabulary.eos, vocabulary.unk)] == [
        *("<pad>", "<s>", "</s>", "<unk>")
    ]
    assert (vocabulary.prompt, folder_roles(folder)) == (M1, (USER, ASSISTANT))
    assert {vocabulary.types[i] for i in (SYSTEM, USER, ASSISTANT)} == {TokenType.CONTROL}


def test_probes_get_sentencepieces_ids_and_forge_no_role(path, vocabulary):
    assert check_token_ids(path, vocabulary, (USER, ASSISTANT)) >= len(PROBES) - 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(SPACES), max_size=12).map("".join)))
@example("%\r\n\r\n")
def test_any_text_gets_sentencepieces_ids(loaded, reference, text):
    if "\0" not in text:
        assert loaded.encode(text) == reference.encode(text)


def test_a_prompt_is_what_the_releases_template_renders(loaded, path, vocabulary):
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 renders the chat template")
    messages = [
        Message("system", "你是医生。"),
        Message("user", " a\n"),
        Message("assistant", "b"),
        Message("user", "<C_A> 头疼？"),
    ]
    prompt = build_prompt(messages, loaded.encode, prompt_format(read_gguf(path)), 999)
    bodies = [loaded.encode(one.content) for one in messages]
    assert list(prompt.ids) == [
        SYSTEM,
        *bodies[0],
        USER,
        *bodies[1],
        ASSISTANT,
        *bodies[2],
        USER,
        *bodies[3],
        ASSISTANT,
    ]
    given_ = [{"role": one.role, "content": one.content} for one in messages]
    for template in (vocabulary.template, chat_template(replace(vocabulary, template=""), (USER, ASSISTANT))):
        text = jinja2.Template(template).render(messages=given_, add_generation_prompt=True)
        assert text == "<B_SYS>你是医生。<C_Q> a\n<C_A>b<C_Q><C_A> 头疼？<C_A>"


def test_answers_end_at_the_end_of_a_document_and_at_roles(loaded, path):
    assert prompt_format(read_gguf(path)).ends == {USER, ASSISTANT}
    assert loaded.is_end(2)
    assert loaded.is_end(USER)


def test_nothing_of_baichuan_1_and_2_is_said_of_it(path):
    file = read_gguf(path)
    assert generation_of(file) is None
    assert not any("generation" in warning or "spaces" in warning for warning in file_warnings(file))
