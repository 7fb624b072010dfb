"""config.json decides the shape, and what llama.cpp cannot run is refused with key, value and remedy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.model_config import Scaling
from tests.support.families import FAMILIES, Family, Shape, config
from tests.support.refusals import refusal


def of(changes: dict[str, Any], family: Family = "b2-7b") -> Checkpoint:
    merged = config(Shape(family)) | changes
    return Checkpoint(Path(), {key: value for key, value in merged.items() if value != "gone"}, (), {})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_four_families_are_read(family: Family) -> None:
    found = read_config(of({}, family))
    assert (found.hidden, found.heads, found.ffn, found.vocab, found.context) == (192, 6, 320, 704, 4096)
    assert found.position == ("alibi" if family.endswith("13b") else "rope")
    assert found.blocks == (40 if family.endswith("13b") else 32)
    assert not found.is_llama_layout


@pytest.mark.parametrize("release", ["Baichuan-13B-Chat", "Baichuan2-7B-Chat", "Baichuan2-13B-Chat"])
def test_the_releases_own_configs_are_read(release: str, shared_data: Path) -> None:
    real = json.loads((shared_data / "releases" / release / "config.json").read_text())
    found = read_config(Checkpoint(Path(), real, (), {}))
    assert found.head_width == 128
    assert found.context == 4096
    assert found.position == ("alibi" if "13B" in release else "rope")


@pytest.mark.parametrize("blocks", [1, 2, 31, 33, 39, 41, 64])
def test_other_block_counts_are_refused(blocks: int) -> None:
    message = refusal(read_config, of({"num_hidden_layers": blocks}))
    assert f"num_hidden_layers is {blocks}" in message
    assert "32 blocks (RoPE) or 40 (ALiBi)" in message


def test_a_llama_layout_with_32_blocks_is_taken_and_with_40_refused() -> None:
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    assert read_config(of(llama)).is_llama_layout
    message = refusal(read_config, of(llama | {"num_hidden_layers": 40}))
    assert "num_hidden_layers is 40" in message
    assert "the 13B has ALiBi" in message


def test_a_llama_layout_may_stretch_rope_and_a_baichuan_has_no_such_key() -> None:
    changes = {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert read_config(of(changes)).scaling is None
    assert read_config(of(changes | {"architectures": ["LlamaForCausalLM"]})).scaling == Scaling("linear", 2.0, None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}, "bq models"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "bq models"),
        ({"architectures": [], "model_type": "gone"}, "not given"),
        ({"architectures": "BaichuanForCausalLM", "model_type": "gone"}, "expected BaichuanForCausalLM"),
    ],
)
def test_other_architectures_are_refused_with_a_remedy(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(read_config, of(changes))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"quantization_config": {"load_in_4bit": True}}, "4-bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "4-bit"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized"),
        ({"quantization_bit": 8}, "quantized"),
    ],
)
def test_a_repack_is_refused_by_its_config(changes: dict[str, Any], kind: str) -> None:
    message = refusal(read_config, of(changes))
    assert f"this is a {kind} repack" in message
    assert "bf16 release" in message


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size"]
)
@pytest.mark.parametrize("value", ["gone", 0, -1, True, 2.5, "4096", None, [1], 1 << 40])
def test_a_count_that_is_none_is_refused_by_key_and_value(key: str, value: Any) -> None:
    message = refusal(read_config, of({key: value}))
    assert f"{key} is {None if value == 'gone' else value!r}" in message


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1e-6", True, None])
def test_a_number_that_is_none_is_refused_by_key_and_value(key: str, value: Any) -> None:
    assert f"{key} is {value!r}" in refusal(read_config, of({key: value}))


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 2}, {"num_attention_heads": 5}, {"hidden_size": 6 * 33}])
def test_attention_that_is_not_baichuans_is_refused(changes: dict[str, Any]) -> None:
    assert "no Baichuan attention" in refusal(read_config, of(changes))


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"model_max_length": 8192}, 8192),
        ({"model_max_length": "gone"}, 4096),
        ({"model_max_length": "gone", "max_position_embeddings": 2048}, 2048),
        ({"model_max_length": "gone", "max_position_embeddings": "gone"}, 4096),
    ],
)
def test_the_context_comes_from_whichever_key_the_release_has(changes: dict[str, Any], context: int) -> None:
    assert read_config(of(changes)).context == context


def test_rope_base_and_eps_come_from_the_config() -> None:
    found = read_config(of({"rope_theta": 20000, "rms_norm_eps": 1e-5}))
    assert (found.rope_base, found.norm_eps) == (20000.0, 1e-5)
    assert read_config(of({})).rope_base == 10000.0
    assert replace(found, blocks=40).position == "alibi"
