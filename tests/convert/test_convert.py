"""A whole conversion: what the file says of itself, read by gguf's own reader, and the prompt its template makes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from bq.convert.convert import convert, find_source, prepare
from tests.support.families import FAMILIES, Family, Shape, write_checkpoint
from tests.support.refusals import change_json, refusal

SMALL = Shape(hidden=64, heads=4, ffn=96)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """The metadata of a converted small checkpoint in a folder of the given name."""
    made: dict[Any, dict[str, Any]] = {}

    def get(family: Family, name: str = "mine-chat", mixture: str = "Q8_0") -> dict[str, Any]:
        if (family, name, mixture) not in made:
            folder = tmp_path_factory.mktemp("keys")
            write_checkpoint(folder / name, replace(SMALL, family=family))
            convert(prepare(folder / name, mixture), folder / "out.gguf", 2)
            fields = GGUFReader(folder / "out.gguf").fields
            made[family, name, mixture] = {key: field.contents() for key, field in fields.items()}
        return made[family, name, mixture]

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_is_there(family: Family, keys: Callable[..., dict[str, Any]]) -> None:
    found = keys(family)
    one, alibi = family.startswith("b1"), family.endswith("13b")
    expected = {
        "general.architecture": "baichuan",
        "general.type": "model",
        "general.name": "mine-chat",
        "general.basename": "mine-chat",
        "general.finetune": "chat",
        "general.languages": ["zh", "en"],
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.sampling.temp": pytest.approx(0.3),
        "general.sampling.top_k": 5,
        "general.sampling.top_p": pytest.approx(0.85),
        "general.sampling.penalty_last_n": 4096,
        "general.sampling.sequence": "penalties;temperature;top_k;top_p",
        "general.sampling.penalty_repeat": pytest.approx(1.1 if one else 1.05),
        "baichuan.context_length": 4096,
        "baichuan.embedding_length": 64,
        "baichuan.feed_forward_length": 96,
        "baichuan.block_count": 40 if alibi else 32,
        "baichuan.attention.head_count": 4,
        "baichuan.attention.head_count_kv": 4,
        "baichuan.rope.dimension_count": 16,
        "baichuan.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 195,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False,
        "bq.generation": 1 if one else 2,
        "bq.variant": "chat",
        "bq.variant.reason": "folder name",
        "bq.norm_head": "none" if one else "folded",
        "bq.role.user_id": 195,
        "bq.role.assistant_id": 196,
        "bq.max_new_tokens": 2048,
        "bq.tokenizer.add_dummy_prefix": one,
        "bq.tokenizer.remove_extra_whitespaces": False,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert ("baichuan.rope.freq_base" in found) is not alibi
    assert "row norms" in found["bq.norm_head.reason"]
    assert found["general.size_label"].endswith("M")
    assert [found["tokenizer.ggml.token_type"][i] for i in (0, 1, 3, 195, 196, 300, 703)] == [2, 3, 4, 3, 3, 6, 5]
    assert len(found["tokenizer.ggml.tokens"]) == len(found["tokenizer.ggml.scores"]) == 704
    assert list(found)[-2:] == ["general.quantization_version", "general.file_type"]


def test_a_base_model_has_no_template_and_no_turn_end(keys: Callable[..., dict[str, Any]]) -> None:
    found = keys("b2-7b", "mine-base")
    assert found["bq.variant"] == "base"
    assert "tokenizer.chat_template" not in found
    assert "tokenizer.ggml.eot_token_id" not in found


def test_a_fine_tune_names_its_base_and_claims_no_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bq.convert import identity

    monkeypatch.setattr(identity, "_fitting", lambda release, *_: release)
    write_checkpoint(tmp_path / "tune-chat", SMALL)
    change_json(tmp_path / "tune-chat" / "config.json", _name_or_path="baichuan-inc/Baichuan2-7B-Base")
    convert(prepare(tmp_path / "tune-chat", "Q4_0"), tmp_path / "tune.gguf", 2)
    found = {key: field.contents() for key, field in GGUFReader(tmp_path / "tune.gguf").fields.items()}
    hub = "https://huggingface.co/baichuan-inc/Baichuan2-7B-Base"
    assert found["general.base_model.count"] == 1
    assert found["general.base_model.0.repo_url"] == hub
    assert found["general.base_model.0.name"] == "Baichuan2-7B-Base"
    assert "general.license" not in found


def test_the_metadata_of_a_release_itself() -> None:
    from gguf import GGUFWriter

    from bq.convert.identity import Identity
    from bq.convert.metadata import _add_identity
    from bq.runtime.releases import find_release
    from bq.runtime.sampling import Sampling

    writer = GGUFWriter(None, "baichuan")
    release = find_release("Baichuan2-13B-Chat")
    identity = Identity("Baichuan2-13B-Chat", release, False, "chat", "", (195, 196), Sampling(), 1)
    _add_identity(writer, identity, 13 * 10**9)
    found = {key: value.value for key, value in writer.kv_data[0].items()}
    assert found["general.organization"] == "baichuan-inc"
    assert (found["general.basename"], found["general.size_label"]) == ("Baichuan2", "13B")
    assert found["general.license"] == "other"
    assert "community licence" in found["general.license.name"]
    assert found["general.source.repo_url"] == "https://huggingface.co/baichuan-inc/Baichuan2-13B-Chat"
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/baichuan-inc/Baichuan2-13B-Base"
    assert found["general.languages"] == ["zh", "en"]


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "\n What?\n"},
]
PROMPTS: dict[Family, tuple[str, str, str]] = {  # user and assistant piece, and what stands before each text
    "b1-7b": ("<reserved_102>", "<reserved_103>", " "),
    "b2-13b": ("<reserved_106>", "<reserved_107>", ""),
}


def render(template: str, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    given = {"messages": messages, "add_generation_prompt": add_generation_prompt}
    return environment.from_string(template).render(given)


@pytest.mark.parametrize("family", PROMPTS)
def test_the_template_renders_the_official_prompt(family: Family, keys: Callable[..., dict[str, Any]]) -> None:
    template = keys(family)["tokenizer.chat_template"]
    user, assistant, space = PROMPTS[family]
    turns = f"{space}Be brief.{user}{space}你好{assistant}{space}你好！{user}{space}\n What?\n"
    assert render(template, TALK) == turns + assistant
    assert render(template, TALK, add_generation_prompt=False) == turns
    assert render(template, TALK[1:2]) == f"{user}{space}你好{assistant}"
    assert render(template, TALK[1:3]) == f"{user}{space}你好{assistant}{space}你好！"
    assert render(template, [{"role": "user", "content": ""}]) == user + assistant
    with pytest.raises(ValueError, match="only at the beginning"):
        render(template, [*TALK, TALK[0]])


@pytest.mark.parametrize("mixture", ["F32", "Q4_K_M"])
def test_the_planned_size_is_the_files_within_a_hundredth(mixture: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m-chat", SMALL)
    conversion = prepare(tmp_path / "m-chat", mixture)
    done = convert(conversion, tmp_path / "out.gguf", 2)
    assert done.size_bytes == (tmp_path / "out.gguf").stat().st_size
    assert abs(conversion.size_bytes / done.size_bytes - 1) < 0.01
    assert done.checked.tensors == 291
    assert done.checked.texts >= 10


def test_the_same_input_gives_the_same_file_twice(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m-chat", SMALL)
    for name, threads in (("a", 1), ("b", 4)):
        convert(prepare(tmp_path / "m-chat", "Q4_K_M"), tmp_path / f"{name}.gguf", threads)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_weights_too_large_for_their_type_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    import numpy as np

    from tests.support.stored import stored

    def edit(tensors: list[Any]) -> list[Any]:
        return [stored(t.name, np.full(t.shape, 1e9), "bf16") if "o_proj" in t.name else t for t in tensors]

    write_checkpoint(tmp_path / "m", SMALL, edit=edit)
    message = refusal(convert, prepare(tmp_path / "m", "F16"), tmp_path / "out.gguf", 2)
    assert "attn_output.weight has weights too large for its type F16" in message
    assert "-q BF16" in message
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_source_may_be_named_by_folder_file_or_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert find_source("config.json") == (Path(), None)
    assert find_source(str(tmp_path)) == (tmp_path, None)
    folder, name = find_source("demo")
    assert (folder.parts[-2:], name) == (("demo", "checkpoint"), "bq-demo")
    (tmp_path / "demo").mkdir()
    assert find_source("demo") == (folder, name), "a folder of that name without a checkpoint, as in a clone"
    (tmp_path / "demo" / "config.json").write_text("{}")
    assert find_source("demo") == (Path("demo"), None)


def test_the_plan_as_json_and_the_file_agree(tmp_path: Path) -> None:
    from bq.tui.conversion_plan import plan_data, plan_text

    write_checkpoint(tmp_path / "m-chat", SMALL)
    conversion = prepare(tmp_path / "m-chat", "Q5_K_M")
    data = json.loads(json.dumps(plan_data(conversion)))
    convert(conversion, tmp_path / "out.gguf", 2)
    tensors = GGUFReader(tmp_path / "out.gguf").tensors
    assert [(t["name"], t["type"], t["size_bytes"]) for t in data["tensors"]] == [
        (t.name, t.tensor_type.name, int(t.n_bytes)) for t in tensors
    ]
    assert data["file"] == "m-chat-Q5_K_M.gguf"
    text = plan_text(conversion)
    assert all(t.name in text for t in tensors)
