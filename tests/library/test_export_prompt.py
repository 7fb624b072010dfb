"""The prompt that ollama renders has bq's own ids, for both generations and ChatML; the Modelfile says what the file says."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.library.export import ollama
from bq.library.export.go_template import go_template
from bq.library.export.settings import Settings, read_settings
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import prompt_format
from bq.runtime.llama import library
from bq.runtime.prompt import Message, measure_prompt
from bq.runtime.prompt_format import Think
from bq.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.support.go_template import ollama_prompt, read_modelfile
from tests.support.qwen_gguf import QwenShape, write_qwen

Convert = Callable[..., Path]
Turns = list[tuple[str, str]]
SMALL: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
# A text that spells a control piece becomes that piece wherever rendered prompts are tokenized: the format's limit, not the template's.
_content = st.text("ab the模型你好，。？ \n\t12 <>_resvd{}\"'`\\|é😀", max_size=20).filter(
    lambda text: "<s>" not in text
)


@st.composite
def conversations(draw: st.DrawFn) -> Turns:
    """A system text perhaps, then turns by turns; ollama itself merges two of one role."""
    contents = draw(st.lists(_content, min_size=1, max_size=6))
    turns = [(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    system = draw(st.none() | _content.filter(bool))
    return turns if system is None else [("system", system), *turns]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("qwen") / "m2-F32.gguf", QwenShape())


@pytest.fixture(scope="module", params=["b1-7b", "b2-7b", "chatml"])
def model(
    request: pytest.FixtureRequest, converted: Convert, chatml: Path
) -> Iterator[tuple[Settings, Tokenizer, Path]]:
    path = chatml if request.param == "chatml" else converted(request.param, **SMALL)
    with load_tokenizer(path) as tokenizer:
        yield read_settings(path), tokenizer, path


@pytest.fixture(scope="module")
def baichuan2(converted: Convert) -> Settings:
    return read_settings(converted("b2-7b", "Q8_0", **SMALL))


def ids_of_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """As ollama and llama-server tokenize a rendered prompt: control pieces in it are found."""
    lib, data = library(), text.encode()
    ids = (lib.llama_token * (len(data) + 8))()
    count = lib.llama_tokenize(tokenizer._vocab, data, len(data), ids, len(ids), False, True)
    assert count >= 0
    return list(ids[:count])


def own_ids(path: Path, tokenizer: Tokenizer, turns: Turns, think: Think = "auto") -> list[int]:
    messages = [Message(role, content) for role, content in turns]  # type: ignore[arg-type]
    return list(measure_prompt(messages, tokenizer.encode, prompt_format(read_gguf(path)), 1 << 20, think=think).ids)


@settings(max_examples=20, deadline=None)
@given(turns=conversations())
def test_any_conversation_has_the_same_ids(model: tuple[Settings, Tokenizer, Path], turns: Turns) -> None:
    asked, tokenizer, path = model
    text = ollama_prompt(go_template(asked), turns)
    assert ids_of_text(tokenizer, text) == own_ids(path, tokenizer, turns)


@pytest.mark.parametrize(
    ("more", "think"), [({"Think": True, "IsThinkSet": True}, "on"), ({"IsThinkSet": True}, "off"), ({}, "auto")]
)
def test_thinking_is_switched_as_the_release_does_it(chatml: Path, more: dict[str, bool], think: Think) -> None:
    turns = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "模型")]
    with load_tokenizer(chatml) as tokenizer:
        text = ollama_prompt(go_template(read_settings(chatml)), turns, **more)
        assert ids_of_text(tokenizer, text) == own_ids(chatml, tokenizer, turns, think)


def test_ollama_finds_the_marks_of_thinking(chatml: Path) -> None:
    """InferTags: the first and last text around the action {{ .Thinking }} within the range over .Messages."""
    around = re.search(r"\.Thinking \}\}([^{]*)\{\{ \.Thinking \}\}([^{]*)\{\{", go_template(read_settings(chatml)))
    assert around
    assert (around[1].strip(), around[2].strip()) == ("<think>", "</think>")


def test_a_forged_role_is_a_limit_that_is_told(model: tuple[Settings, Tokenizer, Path]) -> None:
    asked, tokenizer, path = model
    piece = asked.user or "<|im_start|>"
    turns = [("user", f"a{piece}b")]
    assert ids_of_text(tokenizer, ollama_prompt(go_template(asked), turns)) != own_ids(path, tokenizer, turns)
    assert any(piece in line for line in ollama.limits(asked))


def test_a_base_model_gets_its_text_as_it_is(converted: Convert) -> None:
    asked = read_settings(converted("b2-7b", chat=False, **SMALL))
    assert (asked.form, asked.stops) == ("raw", ())
    assert ollama_prompt(go_template(asked), [("user", " once\nupon ")]) == " once\nupon "


def test_the_modelfile_says_what_the_file_says(converted: Convert, tmp_path: Path) -> None:
    path = converted("b1-7b", **SMALL)
    asked, file = read_settings(path), read_gguf(path)
    commands = read_modelfile(ollama.modelfile(asked, tmp_path, 'A "licence"\n\n"""of""" two lines"'))
    values = dict(commands)
    assert Path(values["from"]) == path
    assert values["template"] == go_template(asked)
    assert [value for name, value in commands if name == "stop"] == [file.metadata["tokenizer.ggml.tokens"][195]]
    for key, name in {
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "penalty_repeat": "repeat_penalty",
    }.items():
        assert float(values[name]) == pytest.approx(file.metadata[f"general.sampling.{key}"])
    assert values["num_ctx"] == values["repeat_last_n"] == str(file.metadata["baichuan.context_length"])
    assert values["num_predict"] == str(file.metadata["bq.max_new_tokens"])
    assert values["license"].startswith('A "licence"\n')
    assert {name for name, _ in commands} <= {"from", "template", "stop", "temperature", "top_k", "top_p", "min_p", "license"} | {
        "repeat_penalty", "repeat_last_n", "num_ctx", "num_predict"
    }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(licence=st.lists(st.sampled_from(['"', '"""', "\n", "a b", "\nPARAMETER stop x\n"]), max_size=8).map("".join))
def test_no_licence_text_can_end_its_quotes(baichuan2: Settings, licence: str) -> None:
    asked = baichuan2
    plain = read_modelfile(ollama.modelfile(asked, Path("/x")))
    assert [one for one in read_modelfile(ollama.modelfile(asked, Path("/x"), licence)) if one[0] != "license"] == plain


@pytest.mark.parametrize("name", ["a\nTEMPLATE x.gguf", "a\u200b.gguf", 'a".gguf'])
def test_a_path_that_a_modelfile_cannot_name_is_refused(baichuan2: Settings, tmp_path: Path, name: str) -> None:
    asked = replace(baichuan2, path=tmp_path / name)
    with pytest.raises(BqError, match="cannot name the path"):
        ollama.modelfile(asked, Path("/elsewhere"))


def test_weights_beside_the_modelfile_are_named_without_their_folder(converted: Convert) -> None:
    path = converted("b2-7b", "Q8_0", **SMALL)
    assert dict(read_modelfile(ollama.modelfile(read_settings(path), path.parent)))["from"] == f"./{path.name}"


@pytest.mark.parametrize("name", ["", "-x", "a b", "a:b:c", "../x", "a/b/c/d", "名", "a\n"])
def test_a_name_that_ollama_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        ollama.check_name(name)


@pytest.mark.parametrize("name", ["a", "me/baichuan2:q4_k_m", "host.io/me/a.b-c:latest"])
def test_a_name_that_ollama_takes(name: str) -> None:
    assert ollama.check_name(name) == name
