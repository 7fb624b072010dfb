"""config.json of Qwen's layouts: the shape is read, and what llama.cpp's graph does not compute is refused by key and value."""

from pathlib import Path
from typing import Any

import pytest

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.model_config import Experts, ModelConfig, Scaling
from tests.support.qwen import FAMILIES, Family, Shape, config
from tests.support.refusals import advised_refusal, refusal

SHAPES: dict[Family, Shape] = {"qwen2": Shape("qwen2"), "qwen3moe": Shape("qwen3moe", width=24)}


def of(changes: dict[str, Any], family: Family = "qwen2") -> Checkpoint:
    merged = config(SHAPES[family]) | changes
    return Checkpoint(Path(), {key: value for key, value in merged.items() if value != "gone"}, (), {})


def test_a_dense_one_is_read() -> None:
    found = read_config(of({}))
    assert found == ModelConfig("qwen2", 96, 4, 6, 2, 16, 160, 444, 4096, 1e-6, 1e6)
    assert found.position == "rope"


def test_one_with_experts_is_read() -> None:
    found = read_config(of({}, "qwen3moe"))
    assert (found.architecture, found.head_width, found.experts) == ("qwen3moe", 24, Experts(6, 2, 64))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_name_of_a_class_the_model_type_counts(family: Family) -> None:
    assert read_config(of({"architectures": "gone"}, family)).architecture == family


@pytest.mark.parametrize(
    ("changes", "base"),
    [
        ({"rope_theta": "gone"}, 1e4),
        ({"rope_theta": "gone", "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, 5e6),
        ({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}}, 1e6),
    ],
)
def test_the_base_of_rope_is_where_transformers_writes_it(changes: dict[str, Any], base: float) -> None:
    assert read_config(of(changes)).rope_base == base


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_a_stretched_rope_is_read(key: str) -> None:
    yarn = {key: "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read_config(of({"rope_scaling": yarn})).scaling == Scaling("yarn", 4.0, 32768)
    assert read_config(of({"rope_scaling": {key: "yarn", "factor": 2.0}})).scaling == Scaling("yarn", 2.0, 4096)
    assert read_config(of({"rope_scaling": {key: "linear", "factor": 2.0}})).scaling == Scaling("linear", 2.0, None)
    assert read_config(of({"rope_scaling": {key: "default"}})).scaling is None


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"type": "dynamic", "factor": 2.0}, "rope_scaling is 'dynamic'"),
        ({"type": "llama3", "factor": 2.0}, "rope_scaling is 'llama3'"),
        ({"type": "yarn", "factor": 2.0, "beta_fast": 16}, "rope_scaling is 'yarn' (beta_fast)"),
        ({"type": "yarn"}, "factor is None"),
        ({"type": "yarn", "factor": -1}, "factor is -1"),
        ([1], "rope_scaling is [1]"),
    ],
)
def test_a_rope_that_llama_cpp_would_compute_otherwise_is_refused(scaling: Any, says: str) -> None:
    assert says in refusal(read_config, of({"rope_scaling": scaling}))


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window is True, llama.cpp's graph has no windows"),
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act is 'gelu', llama.cpp computes silu"),
        ("qwen2", {"head_dim": 32}, "6 heads 32 wide do not make up 96"),
        ("qwen2", {"num_key_value_heads": 4}, "6 heads 16 wide, 4 of them for keys"),
        ("qwen2", {"num_hidden_layers": 513}, "513 blocks"),
        ("qwen2", {"num_attention_heads": 200}, "heads 0 wide"),
        ("qwen3moe", {"attention_bias": True}, "attention_bias is True, llama.cpp's graph has no bias there"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob is False, llama.cpp divides"),
        ("qwen3moe", {"norm_topk_prob": "gone"}, "norm_topk_prob is None, llama.cpp divides"),
        ("qwen3moe", {"mlp_only_layers": [0]}, "mlp_only_layers is [0], llama.cpp has experts in every block"),
        ("qwen3moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2, llama.cpp has experts in every block"),
        ("qwen3moe", {"num_experts_per_tok": 7}, "7 of 6 experts are used"),
        ("qwen3moe", {"num_experts": 2048}, "2 of 2048 experts are used"),
        ("qwen3moe", {"head_dim": 17}, "6 heads 17 wide"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(family: Family, changes: dict[str, Any], says: str) -> None:
    assert says in advised_refusal(read_config, of(changes, family))


COUNTS = [
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "intermediate_size",
    "vocab_size",
]


@pytest.mark.parametrize("key", [*COUNTS, "max_position_embeddings"])
@pytest.mark.parametrize("value", [0, -1, True, 2.5, "4", 1 << 40])
def test_a_count_that_is_none_is_refused_by_key_and_value(key: str, value: Any) -> None:
    assert f"{key} is {value!r}" in refusal(read_config, of({key: value}))


@pytest.mark.parametrize("key", ["num_experts", "num_experts_per_tok", "moe_intermediate_size", "head_dim"])
@pytest.mark.parametrize("value", [0, "8", 1.5])
def test_so_is_one_of_the_experts(key: str, value: Any) -> None:
    assert f"{key} is {value!r}" in refusal(read_config, of({key: value}, "qwen3moe"))
