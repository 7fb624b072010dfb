"""The plan is llama.cpp's order of tensors, without gaps but for alignment, each row from its place in the source."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.mixture import MIXTURES, find_mixture
from bq.convert.plan import Plan, make_plan, row_order
from bq.runtime.ggml import GgmlType
from bq.runtime.releases import releases
from tests.support.families import FAMILIES, Family, Shape
from tests.support.unwritten import release, release_shape, unwritten

LAYOUTS = {one.layout_name: one.layout for one in releases() if one.layout is not None}
QUICK = (
    "F16",
    "Q4_K_M",
    "IQ4_XS",
    "Q2_K",
)  # of 36,000 matrices; the types of all mixtures are held against llama.cpp's elsewhere


def plan_of(shape: Shape, mixture: str = "Q4_K_M", fold: bool = False) -> Plan:
    checkpoint = unwritten(shape)
    return make_plan(checkpoint, read_config(checkpoint), find_mixture(mixture), fold)


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_stand_in_llama_cpps_order(family: Family) -> None:
    names = [tensor.name for tensor in plan_of(Shape(family)).tensors]
    parts = ["attn_k", "attn_norm", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_norm", "ffn_up"]
    blocks = 40 if family.endswith("13b") else 32
    expected = ["output.weight", "output_norm.weight", "token_embd.weight"]
    assert names == expected + [f"blk.{i}.{part}.weight" for i in range(blocks) for part in parts]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_offsets_are_aligned_and_sums_agree(mixture: str) -> None:
    plan = plan_of(Shape("b2-13b", hidden=66, heads=3, ffn=102), mixture)
    end = 0
    for tensor in plan.tensors:
        assert tensor.offset % 32 == 0
        assert 0 <= tensor.offset - end < 32
        end = tensor.offset + tensor.size_bytes
    assert 0 <= plan.data_bytes - end < 32
    assert plan.weights == sum(int(np.prod(tensor.shape)) for tensor in plan.tensors)
    assert plan.bits_per_weight == 8 * sum(tensor.size_bytes for tensor in plan.tensors) / plan.weights


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_sizes_of_models_toml_are_the_plans(layout: str) -> None:
    listed = LAYOUTS[layout]
    assert set(listed.sizes) == set(MIXTURES)
    checkpoint = release(layout)
    config = read_config(checkpoint)
    assert config.architecture == listed.architecture
    for mixture in QUICK if config.experts else MIXTURES:
        plan = make_plan(checkpoint, config, find_mixture(mixture), False)
        assert listed.sizes[mixture] == sum(tensor.size_bytes for tensor in plan.tensors), mixture
        assert listed.weights == plan.weights


@pytest.mark.parametrize(
    ("layout", "mixture", "gib", "bits"),
    [
        ("baichuan-7b", "Q4_K_M", 3.97, 4.87),
        ("baichuan2-7b", "Q4_K_M", 4.29, 4.91),
        ("baichuan2-7b", "Q2_K", 2.77, None),
        ("baichuan-13b", "Q4_K_M", 7.97, 5.16),
        ("baichuan2-13b", "Q4_K_M", 8.38, 5.18),
        ("baichuan2-13b", "Q8_0", 13.75, None),
    ],
)
def test_sizes_are_those_that_llama_cpp_itself_made(layout: str, mixture: str, gib: float, bits: float | None) -> None:
    plan = plan_of(release_shape(layout), mixture)
    assert round(plan.data_bytes / 2**30, 2) == gib
    assert bits is None or round(plan.bits_per_weight, 2) == bits


def test_norms_stay_f32_and_matrices_get_their_type() -> None:
    plan = plan_of(Shape(), "F16")
    assert {tensor.kind for tensor in plan.tensors if len(tensor.shape) == 1} == {GgmlType.F32}
    assert {tensor.kind for tensor in plan.tensors if len(tensor.shape) == 2} == {GgmlType.F16}


def test_only_the_output_is_folded_and_only_q_and_k_are_rotated() -> None:
    plan = plan_of(Shape(), fold=True)
    assert [tensor.name for tensor in plan.tensors if tensor.normalise] == ["output.weight"]
    rotated = {tensor.name.split(".")[2] for tensor in plan.tensors if tensor.head_width}
    assert rotated == {"attn_q", "attn_k"}
    assert not any(tensor.normalise for tensor in plan_of(Shape()).tensors)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_rows_follow_the_converters_formula_in_any_pieces(part: str) -> None:
    shape = Shape(hidden=24, heads=3)
    tensor = next(one for one in plan_of(shape).tensors if one.name == f"blk.2.attn_{part}.weight")
    packed = np.arange(72)[:, None] * np.ones((1, 24), int)
    w = packed[24 * "qkv".index(part) :][:24]
    if part != "v":  # llama.cpp's converter, _reverse_hf_permute
        w = w.reshape(3, 2, 8 // 2, 24).swapaxes(1, 2).reshape(24, 24)
    for step in (1, 5, 24):
        pieces = [packed[row_order(tensor, i, min(i + step, 24))] for i in range(0, 24, step)]
        assert np.array_equal(np.concatenate(pieces), w)


def llama_layout(checkpoint: Checkpoint) -> Checkpoint:
    """W_pack as q, k and v apart, as LlamaForCausalLM has them."""
    tensors: dict[str, Any] = {}
    for name, source in checkpoint.tensors.items():
        if "W_pack" in name:
            for part in "qkv":
                other = name.replace("W_pack", f"{part}_proj")
                tensors[other] = replace(source, name=other, shape=(source.shape[1], source.shape[1]))
        else:
            tensors[name] = source
    return replace(checkpoint, config={**checkpoint.config, "architectures": ["LlamaForCausalLM"]}, tensors=tensors)


def test_a_llama_layout_has_q_k_and_v_of_their_own() -> None:
    checkpoint = llama_layout(unwritten(Shape()))
    plan = make_plan(checkpoint, read_config(checkpoint), find_mixture("F32"), False)
    sources = {tensor.name: (tensor.source.name, tensor.first_row) for tensor in plan.tensors}
    assert sources["blk.7.attn_k.weight"] == ("model.layers.7.self_attn.k_proj.weight", 0)
    assert [(t.name, t.shape, t.offset) for t in plan.tensors] == [
        (t.name, t.shape, t.offset) for t in plan_of(Shape(), "F32").tensors
    ]


def test_a_tied_output_is_the_embedding_only_if_the_config_says_so() -> None:
    checkpoint = unwritten(Shape())
    del checkpoint.tensors["lm_head.weight"]
    checkpoint.config["tie_word_embeddings"] = True
    plan = make_plan(checkpoint, read_config(checkpoint), find_mixture("F32"), False)
    assert plan.tensors[0].source.name == "model.embed_tokens.weight"
