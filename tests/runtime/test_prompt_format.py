"""Prompts in ChatML and in Baichuan-M1's way: the ids are those of the rendered template, in which control pieces are looked for.

The oracle renders with jinja2 and lets llama.cpp tokenize the whole text with its control pieces.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.convert.chat_template import chat_template
from bq.convert.vocabulary import Vocabulary, read_vocabulary
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import answer_tokens, file_warnings, generation_of, prompt_format
from bq.runtime.llama import library
from bq.runtime.prompt import Message, build_prompt, measure_prompt
from bq.runtime.prompt_format import THINK_MODES, PromptFormat
from bq.runtime.sampling import sampling_of
from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.support.qwen_gguf import QwenShape, write_qwen
from tests.support.refusals import refusal
from tests.support.vocabulary_gguf import write_vocabulary

jinja2 = pytest.importorskip("jinja2", reason="jinja2 renders the chat template")
pytest.importorskip("tokenizers", reason="tests.support.qwen_tokenizer makes its tokenizer.json with it")
from tests.support.qwen_tokenizer import token_ids, write_tokenizer  # noqa: E402

IDS = token_ids()
CONTENTS = st.lists(
    st.sampled_from(
        ["the", " model", "你好", "\n", "\n\n", " ", "<|im_end|>", "<think>", "</think>", "e\u0301", "\u0301", "1"]
    ),
    max_size=6,
).map("".join)
CONVERSATIONS = st.tuples(st.none() | CONTENTS.filter(bool), st.lists(CONTENTS, min_size=1, max_size=7))
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def vocabulary(folder: Path) -> Vocabulary:
    return read_vocabulary(folder, 440, (0, 0))


@pytest.fixture(scope="module")
def loaded(folder: Path, vocabulary: Vocabulary) -> Iterator[Tokenizer]:
    with load_tokenizer(write_vocabulary(folder / "vocabulary.gguf", vocabulary, "qwen2")) as tokenizer:
        yield tokenizer


@pytest.fixture(scope="module")
def form(folder: Path, loaded: Tokenizer) -> PromptFormat:
    return prompt_format(read_gguf(folder / "vocabulary.gguf"))


def with_special(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which llama.cpp looks for control pieces."""
    data = tokenizer.prepare(text).encode()
    ids = (library().llama_token * (len(data) + 1))()
    count = library().llama_tokenize(tokenizer._vocab, data, len(data), ids, len(ids), False, True)
    return list(ids[:count])


def rendered(template: str, messages: list[Message], **more: Any) -> str:
    environment = jinja2.Environment()
    given_ = [{"role": one.role, "content": one.content} for one in messages]
    return environment.from_string(template).render(messages=given_, add_generation_prompt=True, **more)


def conversation(system: str | None, contents: list[str]) -> list[Message]:
    """A question after each answer; an even count would end with an answer."""
    contents = contents if len(contents) % 2 else contents[1:]
    said = [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(contents)]
    return [Message("system", system), *said] if system else said


def harmless(messages: list[Message]) -> bool:
    """In a rendered text nobody can tell a control piece of the user's from one of the template's."""
    return not any("<|" in one.content for one in messages)


@SETTINGS
@given(CONVERSATIONS, st.sampled_from(THINK_MODES))
def test_a_chatml_prompt_has_the_ids_of_the_rendered_template(loaded, form, vocabulary, drawn, think):
    messages = conversation(*drawn)
    prompt = measure_prompt(messages, loaded.encode, form, 1 << 20, think=think)
    if harmless(messages):
        mode = {} if think == "auto" else {"thinking_mode": think}
        text = rendered(chat_template(vocabulary, (0, 0)), messages, **mode)
        assert list(prompt.ids) == with_special(loaded, text)
    starts, ends = (prompt.ids.count(IDS[piece]) for piece in ("<|im_start|>", "<|im_end|>"))
    assert (starts, ends) == (len(messages) + 1, len(messages)), "no content forges a role"


@pytest.mark.parametrize(("think", "end"), [("on", "<think>\n"), ("off", "<think>\n\n</think>\n\n"), ("auto", "")])
def test_a_thinking_mode_is_what_the_answer_begins_with(loaded, form, think, end):
    prompt = measure_prompt([Message("user", "你好")], loaded.encode, form, 999, think=think)
    expected = [IDS["<|im_start|>"], *loaded.encode("user\n你好"), IDS["<|im_end|>"], *loaded.encode("\n")]
    assert list(prompt.ids) == [*expected, IDS["<|im_start|>"], *loaded.encode("assistant\n" + end)]
    assert prompt.opens == (end if think == "on" else "")


def test_an_answer_that_is_gone_on_with_stays_open(loaded, form):
    messages = [Message("user", "a"), Message("assistant", "<think>\nhm")]
    prompt = measure_prompt(messages, loaded.encode, form, 999, think="on")
    assert list(prompt.ids)[-len(loaded.encode("assistant\n<think>\nhm")) :] == loaded.encode("assistant\n<think>\nhm")
    assert (prompt.ids.count(IDS["<|im_end|>"]), prompt.continues, prompt.opens) == (1, True, "")


def test_what_was_thought_before_an_earlier_answer_is_not_read_again(loaded, form):
    def ids(answer: str) -> tuple[int, ...]:
        return build_prompt(
            [Message("user", "a"), Message("assistant", answer), Message("user", "c")], loaded.encode, form, 999
        ).ids

    assert ids("<think>\nhm\n</think>\n\nb") == ids("hm</think>b") == ids("b")
    assert ids("<think>\nstill at it") != ids("")


def test_whole_rounds_are_left_out_the_oldest_first(loaded, form):
    messages = [Message("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(9)]
    whole = measure_prompt(messages, loaded.encode, form, 9999)
    for budget in range(whole.round_tokens[-1], len(whole.ids) + 1):
        prompt = build_prompt(messages, loaded.encode, form, budget)
        kept = 9 - 2 * prompt.dropped_rounds
        assert prompt.ids == measure_prompt(messages[-kept:], loaded.encode, form, 9999).ids
        assert len(prompt.ids) <= budget


def test_an_answer_ends_where_a_message_does(form):
    assert form.ends == {IDS["<|im_end|>"], IDS["<|im_start|>"], IDS["<|endoftext|>"]}


def test_a_file_from_elsewhere_is_recognised_by_its_pieces(tmp_path):
    for architecture, experts, longest in (("qwen2", 0, 4096), ("qwen3moe", 4, 32768)):
        file = read_gguf(write_qwen(tmp_path / f"{architecture}.gguf", QwenShape(experts=experts)))
        found = prompt_format(file)
        assert (found.name, found.thinking is not None) == ("chatml", True)
        assert generation_of(file) is None
        assert file_warnings(file) == ()
        assert (answer_tokens(file), sampling_of(file).temperature) == (longest, 0.6)


def test_a_vocabulary_without_the_marks_of_roles_is_refused(folder, vocabulary, tmp_path):
    from dataclasses import replace

    pieces = tuple("<|start|>" if piece == "<|im_start|>" else piece for piece in vocabulary.pieces)
    path = write_vocabulary(tmp_path / "v.gguf", replace(vocabulary, pieces=pieces), "qwen2")
    assert "<|im_start|>" in refusal(prompt_format, read_gguf(path))
