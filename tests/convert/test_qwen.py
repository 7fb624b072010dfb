"""Checkpoints in Qwen's layouts (Baichuan-M2 and M3): what llama.cpp computes from our file is what the checkpoint says, and every
tensor is the checkpoint's to the byte.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import read_config
from bq.convert.convert import convert, prepare
from bq.convert.mixture import find_mixture
from bq.convert.plan import make_plan
from bq.runtime.gguf_file import read_gguf
from tests.support.byte_equality import write_files
from tests.support.llama import logits
from tests.support.qwen import FAMILIES, Family, Shape, unwritten, weights, write_qwen
from tests.support.refusals import change_json, refusal
from tests.support.stored import Stored, stored

# Both sides sum in float32 in different orders; four blocks give about 6e-7, a wrong bias or a swapped expert above 1e-2.
TOLERANCE = 1e-5
IDS = np.random.default_rng(3).integers(256, 430, 24).tolist()
CASES = {
    "qwen2": Shape("qwen2"),
    "qwen2-tied-f32": Shape("qwen2", tied=True, dtype="f32", kv_heads=1),
    "qwen2-shards": Shape("qwen2", form="safetensors-shards", dtype="f16", base=10000.0),
    "qwen3moe": Shape("qwen3moe", width=24),
    "qwen3moe-tied": Shape("qwen3moe", tied=True, experts=8, used=3, kv_heads=6),
}


def error_of(folder: Path, shape: Shape, tmp_path: Path) -> float:
    checkpoint = write_qwen(folder, shape)
    ours = logits(write_files([prepare(folder, "F32")], tmp_path)[0], IDS)
    expected = checkpoint.logits(IDS)
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_reference(tmp_path: Path, case: str) -> None:
    assert error_of(tmp_path / "model", CASES[case], tmp_path) < TOLERANCE


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_rope_that_is_stretched_reaches_llama_cpp(tmp_path: Path, kind: str) -> None:
    """Its keys are read: linear by 4 is a position divided by 4, and yarn is neither that nor nothing."""
    from bq.runtime.structure import check_structure

    write_qwen(tmp_path / "model", Shape("qwen2"))
    plain = logits(write_files([prepare(tmp_path / "model", "F32")], tmp_path)[0], IDS)
    scaling = {"rope_type": kind, "factor": 4.0, "original_max_position_embeddings": 4096}
    change_json(tmp_path / "model" / "config.json", rope_scaling=scaling)
    path = write_files([prepare(tmp_path / "model", "F32")], tmp_path)[0]
    file = read_gguf(path)
    check_structure(file)
    assert file.text("qwen2.rope.scaling.type") == kind
    assert file.number("qwen2.rope.scaling.factor", 0) == 4
    assert file.count("qwen2.rope.scaling.original_context_length") == (4096 if kind == "yarn" else 0)
    assert np.abs(logits(path, IDS) - plain).max() > 100 * TOLERANCE * np.abs(plain).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_the_checkpoints(tmp_path: Path, family: Family) -> None:
    """In F32 nothing is rounded: each value is that of the source, experts one after the other."""
    shape = Shape(family, width=24 if family == "qwen3moe" else None)
    checkpoint = write_qwen(tmp_path / "model", shape)
    file = read_gguf(write_files([prepare(tmp_path / "model", "F32")], tmp_path)[0])
    found = {
        name: file.bytes[one.start : one.start + one.size_bytes].view(np.float32).reshape(one.shape)
        for name, one in file.tensors.items()
    }
    from gguf import MODEL_ARCH, get_tensor_name_map

    arch = MODEL_ARCH.QWEN3MOE if shape.is_moe else MODEL_ARCH.QWEN2
    names = get_tensor_name_map(arch, shape.blocks)
    stacks: dict[str, list[str]] = {}
    for weight in weights(shape):
        base = weight.name.rpartition(".")
        parts = base[0].split(".")
        if "experts" in parts:
            parts.pop(parts.index("experts") + 1)
        ours = names.get_name(".".join(parts))
        assert ours is not None, weight.name
        stacks.setdefault(f"{ours}.{base[2]}", []).append(weight.name)
    assert set(found) == set(stacks)
    for name, sources in stacks.items():
        expected = np.stack([checkpoint[source] for source in sources])
        assert np.array_equal(found[name], expected if len(sources) > 1 else expected[0]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_stand_in_llama_cpps_order(family: Family) -> None:
    checkpoint = unwritten(Shape(family, blocks=11))
    plan = make_plan(checkpoint, read_config(checkpoint), find_mixture("Q4_K_M"), False)
    names = [tensor.name for tensor in plan.tensors]
    blocks = [int(name.split(".")[1]) if name.startswith("blk") else -1 for name in names]
    assert list(zip(blocks, names, strict=True)) == sorted(zip(blocks, names, strict=True))
    assert len(names) == len(set(names)) == 3 + 11 * 12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_conversion_reads_back_and_says_what_it_is(tmp_path: Path, family: Family) -> None:
    write_qwen(tmp_path / "model", Shape(family, experts=8, used=4, width=24 if family == "qwen3moe" else None))
    conversion = prepare(tmp_path / "model", "Q8_0")
    convert(conversion, tmp_path / "out.gguf", threads=2)
    file = read_gguf(tmp_path / "out.gguf")
    assert file.architecture == family
    assert (file.shape_count("attention.head_count"), file.shape_count("attention.head_count_kv")) == (6, 2)
    assert file.shape_number("rope.freq_base", 0) == 1e6
    assert file.shape_count("attention.key_length") == (24 if family == "qwen3moe" else 0)
    assert file.shape_count("expert_count") == (8 if family == "qwen3moe" else 0)
    assert file.shape_count("expert_used_count") == (4 if family == "qwen3moe" else 0)
    assert file.text("bq.norm_head") == "none"
    assert "bq.generation" not in file.metadata
    assert "bq.role.user_id" not in file.metadata
    assert file.number("general.sampling.top_p", 0) == pytest.approx(0.95)


def test_a_draft_model_in_a_folder_of_its_own_is_left_out(tmp_path: Path) -> None:
    write_qwen(tmp_path / "model", Shape("qwen2"))
    plain = [tensor.name for tensor in prepare(tmp_path / "model", "F32").plan.tensors]
    write_qwen(tmp_path / "model" / "draft", Shape("qwen2", blocks=1, seed=5))
    assert [tensor.name for tensor in prepare(tmp_path / "model", "F32").plan.tensors] == plain


def test_a_tied_output_that_was_saved_all_the_same_is_left_out(tmp_path: Path) -> None:
    def doubled(tensors: list[Stored]) -> list[Stored]:
        return [*tensors, replace(tensors[0], name="lm_head.weight")]

    write_qwen(tmp_path / "model", Shape("qwen2", tied=True), edit=doubled)
    assert "output.weight" not in [tensor.name for tensor in prepare(tmp_path / "model", "F32").plan.tensors]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "model.layers.1.self_attn.k_proj.bias",
            "1 tensors are missing, the first is model.layers.1.self_attn.k_proj.bias",
        ),
        ("model.layers.3.mlp.experts.5.up_proj.weight", "the first is model.layers.3.mlp.experts.5.up_proj.weight"),
    ],
)
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, name: str, says: str) -> None:
    family: Family = "qwen2" if "bias" in name else "qwen3moe"
    write_qwen(tmp_path / "model", Shape(family), edit=lambda every: [one for one in every if one.name != name])
    assert says in refusal(prepare, tmp_path / "model", "F32")


def test_an_expert_of_another_shape_or_that_is_no_number_is_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.experts.4.down_proj.weight"

    def changed(values: np.ndarray) -> None:
        write_qwen(
            tmp_path / "model",
            Shape("qwen3moe"),
            edit=lambda every: [stored(name, values, "bf16") if one.name == name else one for one in every],
        )

    changed(np.zeros((96, 32)))
    assert f"{name} in model.safetensors has the shape [96, 32]" in refusal(prepare, tmp_path / "model", "F32")
    broken = np.ones((96, 64))
    broken[7, 3] = np.nan
    changed(broken)
    conversion = prepare(tmp_path / "model", "Q8_0")
    message = refusal(convert, conversion, tmp_path / "out.gguf", 2)
    assert f"{name} in model.safetensors, row 7, column 3 is nan" in message
    assert not (tmp_path / "out.gguf").exists()


def test_a_model_of_many_experts_is_read_without_its_weights(tmp_path: Path) -> None:
    write_qwen(tmp_path / "model", Shape("qwen3moe"))
    plan = prepare(tmp_path / "model", "Q4_K_M").plan
    assert open_checkpoint(tmp_path / "model").tensors.keys() == {
        source.name for tensor in plan.tensors for source in (tensor.source, *(one.source for one in tensor.others))
    }
