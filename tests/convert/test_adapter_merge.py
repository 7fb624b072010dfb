"""A merged file holds what PEFT's definition gives on whole matrices, whatever the chunks, and computes what that computes."""

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import quantize

from bq.convert import write
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.convert.rows import rows_of, wide_rows
from bq.convert.verify.blas import one_thread_each
from bq.runtime.ggml import GgmlType
from tests.support import reference
from tests.support.adapters import LINEAR, Made, merged, write_adapter
from tests.support.families import Checkpoint, Family, Shape, write_checkpoint
from tests.support.llama import logits
from tests.support.stored import F32

SMALL: dict[str, Any] = {"hidden": 32, "heads": 4, "ffn": 64, "form": "safetensors"}
TOKENS = 16
TOLERANCE = 1e-4  # of float32 sums in another order, over 40 blocks
Adapters = list[tuple[Made, float]]
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"o_proj": 3, r"^model\.layers\.7\.mlp\.up_proj": 6, "5.self_attn.W_pack": 2},
    "alpha_pattern": {r"layers\.1\d\.mlp\.(gate|down)_proj": 5, "up_proj": 12},
}


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    """For the products of the reference: small matrices on many threads wait for each other."""
    with one_thread_each():
        yield


Base = Callable[[Family], Checkpoint]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A checkpoint of a family, written once."""
    return cache(lambda family: write_checkpoint(tmp_path_factory.mktemp(family) / "base", Shape(family, **SMALL)))


def made_file(checkpoint: Checkpoint, adapters: Adapters, mixture: str = "F32") -> Path:
    out = adapters[0][0].folder.parent / f"merged-{mixture}.gguf"
    given = [read_adapter(made.folder, weight) for made, weight in adapters]
    convert(prepare(checkpoint.folder, mixture, adapters=given), out, threads=2, force=True)
    return out


def expected(checkpoint: Checkpoint, adapters: Adapters) -> dict[str, F32]:
    """The merged matrices under their names in the file, in its order of rows."""
    whole, heads = merged(checkpoint, adapters), checkpoint.shape.heads
    out = {"token_embd": whole["model.embed_tokens.weight"], "output": whole["lm_head.weight"]}
    if checkpoint.shape.generation == 2:
        out["output"] = reference.norm_head(out["output"])
    for number in range(checkpoint.shape.n_blocks):
        ours, theirs = f"blk.{number}.", f"model.layers.{number}."
        q, k, v = np.split(whole[theirs + "self_attn.W_pack.weight"], 3)
        out |= {ours + "attn_q": turned(q, heads), ours + "attn_k": turned(k, heads), ours + "attn_v": v}
        out[ours + "attn_output"] = whole[theirs + "self_attn.o_proj.weight"]
        out |= {ours + f"ffn_{name}": whole[f"{theirs}mlp.{name}_proj.weight"] for name in ("gate", "up", "down")}
    return out


def turned(rows: F32, heads: int) -> F32:
    """Both halves of each head interleaved."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def read(path: Path) -> dict[str, Any]:
    return {one.name.removesuffix(".weight"): one.data for one in GGUFReader(path).tensors}


def same(found: dict[str, Any], wanted: dict[str, F32]) -> list[str]:
    """The names of matrices that are the same to the bit, NormHead's to float32 rounding: its norms are summed otherwise."""
    return [
        name
        for name, rows in wanted.items()
        if np.array_equal(found[name], rows) or (name == "output" and np.allclose(found[name], rows, rtol=3e-7, atol=0))
    ]


@pytest.mark.parametrize(("family", "form"), [("b2-7b", "safetensors"), ("b1-13b", "bin")])
def test_every_row_and_logit_of_a_merged_file_is_that_of_the_definition(
    tmp_path: Path, base: Base, family: Family, form: Literal["safetensors", "bin"]
) -> None:
    checkpoint = base(family)
    targets = (*LINEAR, "embed_tokens", "lm_head")
    adapters = [(write_adapter(tmp_path / "mine", checkpoint, targets, dtype="bf16", form=form), 1.0)]
    ids = np.random.default_rng(7).integers(300, 700, TOKENS).tolist()

    path = made_file(checkpoint, adapters)
    wanted = expected(checkpoint, adapters)
    ours, right = logits(path, ids), reference.logits(merged(checkpoint, adapters), checkpoint.architecture, ids)

    assert same(read(path), wanted) == list(wanted)
    error = np.abs(ours - right).max() / np.abs(right).max()
    assert error < TOLERANCE
    assert (
        np.abs(ours - checkpoint.logits(ids)).max() / np.abs(right).max() > 1000 * TOLERANCE
    )  # it does change something


@pytest.mark.parametrize("keys", [PATTERNS, {**PATTERNS, "use_rslora": True, "lora_alpha": 3.5}])
def test_scales_follow_rank_alpha_rslora_and_patterns(tmp_path: Path, base: Base, keys: dict[str, Any]) -> None:
    checkpoint = base("b2-7b")
    adapters = [(write_adapter(tmp_path / "mine", checkpoint, **keys), 1.0)]
    wanted = expected(checkpoint, adapters)
    assert same(read(made_file(checkpoint, adapters)), wanted) == list(wanted)


def test_several_adapters_are_added_by_their_weights(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    one = write_adapter(tmp_path / "one", checkpoint, ("W_pack", "up_proj"), rank=3)
    two = write_adapter(
        tmp_path / "two", checkpoint, ("W_pack", "down_proj"), rank=260, seed=1
    )  # more than a step takes
    adapters = [(one, 0.5), (two, -1.25)]
    wanted = expected(checkpoint, adapters)
    assert same(read(made_file(checkpoint, adapters)), wanted) == list(wanted)


def test_quantized_rows_are_those_of_the_merged_matrix(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b1-13b")
    adapters = [(write_adapter(tmp_path / "mine", checkpoint), 1.0)]
    found = read(made_file(checkpoint, adapters, "Q8_0"))
    for name, rows in expected(checkpoint, adapters).items():
        assert np.array_equal(found[name], quantize(rows, GGMLQuantizationType.Q8_0)), name


def test_the_kernels_are_given_the_merged_rows_in_memory(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    made = write_adapter(tmp_path / "mine", checkpoint, ("W_pack", "lm_head"))
    plan = prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)]).plan
    whole = merged(checkpoint, [(made, 1.0)])
    q = turned(whole["model.layers.2.self_attn.W_pack.weight"][:32], 4)
    for name, wanted in (
        ("blk.2.attn_q.weight", q),
        ("output.weight", whole["lm_head.weight"]),
    ):  # they divide themselves
        rows = rows_of(next(one for one in plan.tensors if one.name == name), 5, 30)
        lying = [np.ctypeslib.as_array((ctypes.c_float * 32).from_address(int(at))) for at in rows.addresses]
        assert np.array_equal(np.stack(lying), wanted[5:30])
        assert rows.dtype == GgmlType.F32


def test_a_row_is_the_same_whatever_the_chunk(tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = base("b2-7b")
    adapters = [(write_adapter(tmp_path / "mine", checkpoint, (*LINEAR, "embed_tokens", "lm_head"), rank=33), 1.0)]
    whole = made_file(checkpoint, adapters).read_bytes()
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 32 * 37)
    assert made_file(checkpoint, adapters).read_bytes() == whole

    tensor = next(
        one
        for one in prepare(checkpoint.folder, "F32", adapters=[read_adapter(tmp_path / "mine")]).plan.tensors
        if one.name == "blk.3.attn_k.weight"
    )
    every, one = np.empty((32, 32), np.float32), np.empty((1, 32), np.float32)
    wide_rows(tensor, 0, 32, every)
    for row in range(32):
        wide_rows(tensor, row, row + 1, one)
        assert np.array_equal(one[0], every[row])
        assert np.array_equal(rows_of(tensor, row, row + 1).memory[0], every[row])


def test_a_file_tells_its_adapters(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    adapters = [
        (write_adapter(tmp_path / name, checkpoint, ("o_proj",)), w) for name, w in (("mine", 1.0), ("甲", 0.5))
    ]
    fields = GGUFReader(made_file(checkpoint, adapters)).fields
    assert fields["bq.adapters"].contents() == ["mine", "甲:0.5"]
    assert fields["general.name"].contents() == "base-mine-甲"


def test_a_module_saved_whole_takes_the_place_of_the_bases(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b1-7b")
    norm, head = "model.layers.2.input_layernorm.weight", "lm_head.weight"
    new = {norm: checkpoint[norm] * 2, head: checkpoint[head][::-1].copy()}
    names = {"base_model.model." + norm: new[norm], "base_model.model.lm_head.modules_to_save.weight": new[head]}
    made = write_adapter(tmp_path / "mine", checkpoint, ("W_pack",), edit=lambda tensors: tensors | names)
    found = read(made_file(checkpoint, [(made, 1.0)]))
    assert np.array_equal(found["output"], new[head])
    assert np.array_equal(found["blk.2.attn_norm"], new[norm])


def test_a_resized_vocabulary_brings_its_tokenizer(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    rng = np.random.default_rng(3)
    new = {name: rng.standard_normal((708, 32), np.float32) for name in ("model.embed_tokens", "lm_head")}
    names = {f"base_model.model.{name}.weight": rows for name, rows in new.items()}
    made = write_adapter(tmp_path / "mine", checkpoint, ("W_pack",), edit=lambda tensors: tensors | names)
    (made.folder / "tokenizer.model").write_bytes((checkpoint.folder / "tokenizer.model").read_bytes())
    (made.folder / "added_tokens.json").write_text('{"<tool>": 705}', encoding="utf-8")
    path = made_file(checkpoint, [(made, 1.0)])
    tokens = GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    assert (len(tokens), tokens[705]) == (708, "<tool>")
    assert np.array_equal(read(path)["token_embd"], new["model.embed_tokens"])


def test_the_bases_own_types_stay(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "base", Shape(hidden=256, heads=2, ffn=32))
    made = write_adapter(tmp_path / "mine", checkpoint, ("W_pack",))
    plain, changed = (
        prepare(checkpoint.folder, "Q4_K_M", adapters=given).plan for given in ((), [read_adapter(made.folder)])
    )
    assert [(one.name, one.kind, one.offset) for one in plain.tensors] == [
        (one.name, one.kind, one.offset) for one in changed.tensors
    ]
    assert any(one.kind == GgmlType.Q4_K and one.delta for one in changed.tensors)
