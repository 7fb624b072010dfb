"""GPTQ releases: every weight is what the format's definition gives for it, in any chunk, for all forms that are read; the others are
refused with the reason.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bq.convert import write
from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.convert import prepare
from bq.convert.rows import wide_rows
from bq.runtime.gguf_file import read_gguf
from tests.support import qwen, qwen_reference
from tests.support.byte_equality import write_files
from tests.support.gptq import Packed, Packing, element, pack, write_arrays
from tests.support.llama import logits
from tests.support.qwen import Family, Shape, config, weights
from tests.support.refusals import change_json, refusal
from tests.support.stored import F32

Arrays = dict[str, npt.NDArray[Any]]
FORMS = {
    "int4": Packing(),
    "int4-zeros": Packing(symmetric=False),
    "int4-act-order": Packing(act_order=True, symmetric=False),
    "int4-v2": Packing(symmetric=False, is_v1=False),
    "int4-one-group": Packing(group=-1),
    "int4-without-g_idx": Packing(has_g_idx=False),
    "int8": Packing(bits=8, symmetric=False),
    "int2": Packing(bits=2, group=16),
}
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_gptq(folder: Path, shape: Shape, packing: Packing, more: Arrays | None = None) -> dict[str, Packed]:
    """A checkpoint whose projections are packed and all else is f16; the packed matrices by name."""
    qwen.write_qwen(folder, shape)
    arrays: Arrays = {}
    packed: dict[str, Packed] = {}
    checkpoint = qwen.Written(folder, shape)
    for number, weight in enumerate(weights(shape)):
        base = weight.name.removesuffix(".weight")
        if not base.endswith(PROJECTIONS) or weight.name.endswith(".bias"):
            arrays[weight.name] = checkpoint[weight.name].astype(np.float16)
            continue
        one = packed[weight.name] = pack(weight.shape, packing, seed=number)
        parts = {"qweight": one.qweight, "qzeros": one.qzeros, "scales": one.scales, "g_idx": one.g_idx}
        if not packing.has_g_idx:
            del parts["g_idx"]
        arrays |= {f"{base}.{part}": values for part, values in parts.items()}
    write_arrays(folder / "model.safetensors", arrays | (more or {}))
    change_json(folder / "config.json", quantization_config=packing.config())
    return packed


def whole(one: Packed, packing: Packing) -> F32:
    """The matrix element by element."""
    inputs, outputs = len(one.g_idx), one.scales.shape[1]
    return np.array([[element(one, packing, o, i) for i in range(inputs)] for o in range(outputs)], np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_every_weight_is_the_definitions(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packing = FORMS[form]
    packed = write_gptq(tmp_path / "model", Shape("qwen2", hidden=64, heads=4, kv_heads=2, ffn=96, blocks=1), packing)
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 64 * 7)  # chunks that begin within a word of zero points
    path = write_files([prepare(tmp_path / "model", "F32")], tmp_path)[0]
    file = read_gguf(path)
    for ours, theirs in {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "ffn_down": "mlp.down_proj",
    }.items():
        one = file.tensors[f"blk.0.{ours}.weight"]
        found = file.bytes[one.start : one.start + one.size_bytes].view(np.float32).reshape(one.shape)
        assert np.array_equal(found, whole(packed[f"model.layers.0.{theirs}.weight"], packing)), ours


@pytest.mark.parametrize("family", qwen.FAMILIES)
def test_logits_are_those_of_the_unpacked_weights(tmp_path: Path, family: Family) -> None:
    shape = Shape(family, hidden=64, heads=4, kv_heads=2, ffn=96, experts=3, expert_ffn=32, blocks=2, dtype="f16")
    packing = Packing(symmetric=False)
    packed = write_gptq(tmp_path / "model", shape, packing)
    checkpoint = qwen.Written(tmp_path / "model", shape)
    tensors = {name: whole(packed[name], packing) if name in packed else checkpoint[name] for name in checkpoint}
    ids = list(range(260, 290))
    ours = logits(write_files([prepare(tmp_path / "model", "F32")], tmp_path)[0], ids)
    expected = qwen_reference.logits(tensors, config(shape), ids)
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()


def test_an_embedding_and_norms_are_no_matrices_of_it(tmp_path: Path) -> None:
    write_gptq(tmp_path / "model", Shape("qwen2", hidden=64, heads=4, kv_heads=2, ffn=96, blocks=1), Packing())
    plan = prepare(tmp_path / "model", "Q8_0").plan
    assert {tensor.source.dtype for tensor in plan.tensors if tensor.name.startswith(("token", "output"))} == {"f16"}


SMALL = Shape("qwen2", hidden=64, heads=4, kv_heads=2, ffn=96, blocks=1)
BIAS = "model.layers.0.self_attn.o_proj.bias"


def test_biases_of_zeros_are_left_out_and_others_refused(tmp_path: Path) -> None:
    """AutoGPTQ writes one for every layer."""
    zeros = {BIAS: np.zeros(64, np.float16)}
    write_gptq(tmp_path / "model", SMALL, Packing(), zeros)
    names = [tensor.name for tensor in prepare(tmp_path / "model", "F32").plan.tensors]
    assert "blk.0.attn_output.bias" not in names
    assert "blk.0.attn_q.bias" in names
    write_gptq(tmp_path / "model", SMALL, Packing(), {BIAS: np.ones(64, np.float16)})
    assert f"too many for this config, the first is {BIAS}" in refusal(prepare, tmp_path / "model", "F32")


QWEIGHT = "model.layers.0.self_attn.o_proj.qweight"


@pytest.mark.parametrize(
    ("part", "values", "says"),
    [
        (
            "qweight",
            np.zeros((16, 64), np.int32),
            "qzeros in model.safetensors is i32 [2, 8], by config.json it should be",
        ),
        ("qweight", np.zeros((8, 60), np.int32), "qweight in model.safetensors has 60 outputs"),
        ("qweight", np.zeros((8, 64), np.float32), "qweight in model.safetensors is f32 [8, 64]"),
        ("qzeros", np.zeros((2, 9), np.int32), "qzeros in model.safetensors is i32 [2, 9]"),
        ("scales", np.zeros((3, 64), np.float16), "scales in model.safetensors is f16 [3, 64]"),
        ("scales", np.zeros((2, 64), np.int32), "scales in model.safetensors is i32 [2, 64]"),
        ("g_idx", np.zeros(63, np.int32), "g_idx in model.safetensors is i32 [63]"),
        ("g_idx", np.full(64, 2, np.int32), "g_idx in model.safetensors names a group that is not there (2 are)"),
        ("g_idx", np.full(64, -1, np.int32), "names a group that is not there"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, part: str, values: Any, says: str) -> None:
    write_gptq(tmp_path / "model", SMALL, Packing(), {f"model.layers.0.self_attn.o_proj.{part}": values})

    def read() -> None:
        for tensor in prepare(tmp_path / "model", "F32").plan.tensors:
            wide_rows(tensor, 0, 1, np.empty((1, tensor.columns), np.float32))

    assert says in refusal(read)


def test_what_was_read_is_not_kept(tmp_path: Path) -> None:
    """Memory does not grow with the number of matrices."""
    write_gptq(tmp_path / "model", SMALL, Packing())
    for tensor in prepare(tmp_path / "model", "F32").plan.tensors:
        wide_rows(tensor, 0, 1, np.empty((1, tensor.columns), np.float32))
        assert not any(isinstance(value, np.ndarray) for value in vars(tensor.source).values())


def test_a_matrix_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    twice = {"model.layers.0.self_attn.o_proj.weight": np.zeros((64, 64), np.float16)}
    write_gptq(tmp_path / "model", SMALL, Packing(), twice)
    assert f"{QWEIGHT} in model.safetensors is there, and so is its weight" in refusal(
        prepare, tmp_path / "model", "F32"
    )


def test_an_order_of_its_own_is_not_guessed(tmp_path: Path) -> None:
    write_gptq(tmp_path / "model", SMALL, Packing(act_order=True, has_g_idx=False))
    assert "mlp.down_proj.qweight is there, but not its g_idx" in refusal(prepare, tmp_path / "model", "F32")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"bits": 3}, "it has 3 bits in groups of 32"),
        ({"bits": "4"}, "it has '4' bits"),
        ({"bits": 4.0}, "it has 4.0 bits"),
        ({"group_size": 0}, "in groups of 0"),
        ({"quant_method": "awq"}, "it is quantized by 'awq'"),
        ({"quant_method": "fp8"}, "it is quantized by 'fp8'"),
        ({"quant_method": None}, "it is quantized by None"),
        ({"checkpoint_format": "marlin"}, "its codes are packed as 'marlin'"),
        ({"checkpoint_format": ["gptq"]}, "its codes are packed as ['gptq']"),
        ({"pack_dtype": "int8"}, "its codes are packed as"),
        ({"dynamic": {"+:.*o_proj.*": {"bits": 8}}}, "some of its matrices are packed otherwise"),
        ({"dynamic": ["x"]}, "some of its matrices are packed otherwise"),
        ({"quant_method": "auto-round"}, "its codes are packed as None"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}, "packed as 'auto_round:auto_awq'"),
    ],
)
def test_another_quantization_is_refused_with_the_reason(changes: dict[str, Any], says: str) -> None:
    quantization = Packing().config() | changes
    checkpoint = Checkpoint(Path(), config(SMALL) | {"quantization_config": quantization}, (), {})
    message = refusal(read_config, checkpoint)
    assert says in message
    assert "bf16 release" in message


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({}, 1),
        ({"checkpoint_format": "gptq_v2"}, 0),
        ({"dynamic": {"-:.*gate.*": {}}}, 1),
        (
            {
                "quant_method": "auto-round",
                "packing_format": "auto_round:auto_gptq",
                "extra_config": {"x": {"bits": 16}},
            },
            1,
        ),
    ],
)
def test_the_forms_of_the_tools_are_known(changes: dict[str, Any], offset: int) -> None:
    quantization = Packing().config() | changes
    found = read_config(Checkpoint(Path(), config(SMALL) | {"quantization_config": quantization}, (), {})).gptq
    assert found is not None
    assert (found.bits, found.group, found.offset) == (4, 32, offset)
