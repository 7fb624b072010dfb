"""In Qwen's layouts too our file is, byte for byte, the one that llama.cpp's own quantizer makes from our F32 file: grouped heads, tied
outputs, and experts, each with an importance of its own, change the types of many a mixture.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bq.convert import write
from bq.convert.convert import prepare_several, with_importance
from bq.convert.importance import Importance
from bq.convert.kernel_calls import is_installed
from bq.convert.mixture import CALIBRATED_MIXTURES, MIXTURES
from bq.convert.plan import Plan
from bq.convert.quantizer import choose_quantizer
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums
from tests.support.byte_equality import Wish, first_difference, quantize_as_wished, write_files
from tests.support.llama import quantize_with_llama
from tests.support.qwen import Shape, write_qwen
from tests.support.refusals import refusal
from tests.support.stored import F32, Stored, stored
from tests.support.weights import Weight, values

EVERY = MIXTURES | CALIBRATED_MIXTURES
COUNT = 512
LIVE = (0, 2, 7)  # blocks: the first and the last eighth, and one between that has more bits
# 8 blocks, so that an eighth is one; 4 heads to a key head is where llama.cpp begins to give attn_v more bits.
DENSE = Shape("qwen2", hidden=256, blocks=8, heads=8, kv_heads=2, ffn=256, padding=4)
MOE = Shape("qwen3moe", hidden=256, blocks=8, heads=8, kv_heads=2, width=64, experts=3, expert_ffn=256, padding=4)
SHAPES = {
    "grouped": DENSE,
    "hardly-grouped-tied": replace(DENSE, kv_heads=4, tied=True),
    "narrow-tied": replace(DENSE, hidden=64, heads=4, kv_heads=1, ffn=96, tied=True),
    "experts": MOE,
    "8-experts": replace(MOE, experts=8, kv_heads=4, width=None, expert_ffn=32),  # ffn_down falls back
}


def sparse(tensors: list[Stored]) -> list[Stored]:
    """A few rows of some blocks are random and all others zero, which no search takes long for."""
    return [one if len(one.shape) == 1 else stored(one.name, _few_rows(one), "bf16") for one in tensors]


def _few_rows(one: Stored) -> F32:
    found = np.zeros(one.shape, np.float32)
    _, kind, number, *_ = [*one.name.split("."), ""]
    if kind != "layers" or int(number) in LIVE:
        height = one.shape[0]
        live = [0, height // 2 + 1, height - 1]
        found[live] = values(Weight(one.name, (3, one.shape[1])), "bf16", seed=1)
    return found


def write_source(folder: Path, shape: Shape) -> Path:
    """The folder of a checkpoint, with its F32 conversion in it as F32.gguf."""
    write_qwen(folder, shape, edit=sparse)
    write_files(prepare_several(folder, ["F32"]), folder)
    return folder


def gathered(plan: Plan) -> ImportanceMatrix:
    """What a model of this plan could give: columns that differ by orders of magnitude, others for each expert."""
    rng = np.random.default_rng(0)
    entries = {}
    for tensor in plan.tensors:
        if tensor.is_matrix and tensor.name.startswith("blk."):
            squares = np.exp(3 * rng.standard_normal(int(np.prod(tensor.column_shape)))).astype(np.float32) * COUNT
            entries[tensor.name] = Sums(squares, COUNT)
    return ImportanceMatrix(entries, ("text.txt",), 4, 128)


def wish_of(matrix: ImportanceMatrix) -> Wish:
    weights: dict[str, F32] = {name: one.squares / np.float32(COUNT) for name, one in matrix.entries.items()}
    keys = (
        ("quantize.imatrix.file", "my.imatrix"),
        ("quantize.imatrix.dataset", "text.txt"),
        ("quantize.imatrix.entries_count", len(matrix.entries)),
        ("quantize.imatrix.chunks_count", 4),
    )
    return Wish(weights, keys)


# Those whose types heads, experts, a tied output or the width change; eight experts are a case of their own in most.
CHANGED = {
    "grouped": ["Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_M", "IQ3_S", "IQ4_XS", "IQ4_NL"],
    "hardly-grouped-tied": ["Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "IQ3_M"],
    "narrow-tied": ["F16", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_M", "IQ4_XS"],
    "experts": ["Q2_K", "Q3_K_M", "Q4_K_M"],
    "8-experts": [
        *("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_M"),
        *("IQ3_S", "IQ3_M", "IQ4_XS", "IQ4_NL"),
    ],
}
# The others below 3 bits follow the rules of IQ2_XXS, and their tables take llama.cpp many seconds to build.
CHANGED_BY_IMPORTANCE = {
    "grouped": ["IQ2_XXS", "IQ3_XS", "Q2_K_S", "Q4_0", "IQ4_XS"],
    "8-experts": ["IQ2_XXS", "IQ3_XS", "Q2_K_S"],
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_mixture_is_llama_cpps_own_file(name: str, tmp_path: Path) -> None:
    folder, theirs = write_source(tmp_path / "model", SHAPES[name]), tmp_path / "theirs.gguf"
    mixtures = CHANGED[name]
    for mixture, ours in zip(mixtures, write_files(prepare_several(folder, mixtures), tmp_path), strict=True):
        quantize_with_llama(folder / "F32.gguf", theirs, MIXTURES[mixture].file_type)
        assert ours.read_bytes() == theirs.read_bytes(), first_difference(ours, theirs, mixture)
        ours.unlink()


@pytest.mark.parametrize("name", CHANGED_BY_IMPORTANCE)
def test_with_an_importance_too(name: str, tmp_path: Path) -> None:
    folder, theirs = write_source(tmp_path / "model", SHAPES[name]), tmp_path / "theirs.gguf"
    mixtures = CHANGED_BY_IMPORTANCE[name]
    matrix = gathered(prepare_several(folder, ["F32"])[0].plan)
    conversions = prepare_several(folder, mixtures, importance=Importance(matrix, "my.imatrix"))
    for mixture, ours in zip(mixtures, write_files(conversions, tmp_path), strict=True):
        assert quantize_as_wished(folder / "F32.gguf", theirs, EVERY[mixture].file_type, wish_of(matrix)) == 0
        assert ours.read_bytes() == theirs.read_bytes(), first_difference(ours, theirs, mixture)
        ours.unlink()


@pytest.mark.skipif(not is_installed(), reason="numba (the extra `fast`) is not installed")
def test_the_fast_kernels_and_chunks_across_experts_make_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_source(tmp_path / "model", replace(MOE, blocks=2))
    (plain,) = prepare_several(folder, ["Q6_K"])
    conversion = with_importance(plain, Importance(gathered(plain.plan), "my.imatrix"))
    whole = write_files([conversion], tmp_path)[0].read_bytes()[-conversion.plan.data_bytes :]
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 256 * 300)  # of 256 rows for each expert
    assert write_files([conversion], tmp_path)[0].read_bytes()[-conversion.plan.data_bytes :] == whole
    quantizer = choose_quantizer(conversion.plan.tensors, "fast").quantizer
    assert quantizer.kernels
    assert write_files([conversion], tmp_path, quantizer)[0].read_bytes()[-conversion.plan.data_bytes :] == whole


def test_an_importance_that_misses_experts_is_refused(tmp_path: Path) -> None:
    write_qwen(tmp_path / "model", MOE, edit=sparse)
    (conversion,) = prepare_several(tmp_path / "model", ["Q4_K_M"])
    matrix = gathered(conversion.plan)
    name = "blk.3.ffn_up_exps.weight"
    short = {**matrix.entries, name: Sums(np.ones(2 * 256, np.float32), 1)}
    message = refusal(with_importance, conversion, Importance(replace(matrix, entries=short), "my.imatrix"))
    assert f"{name} has rows of 3 × 256, and its entry there has 512" in message


def test_what_no_mixture_touches_stays_f32(tmp_path: Path) -> None:
    write_qwen(tmp_path / "model", MOE, edit=sparse)
    parts = ("ffn_gate_inp", "attn_q_norm", "attn_k_norm", "attn_norm", "ffn_norm")
    names = {f"blk.{block}.{part}.weight" for block in range(MOE.blocks) for part in parts} | {"output_norm.weight"}
    for conversion in prepare_several(tmp_path / "model", ["Q2_K", "F16"]):
        assert {one.name for one in conversion.plan.tensors if one.kind.name == "F32"} == names
        assert not names & set(conversion.plan.matrices)
