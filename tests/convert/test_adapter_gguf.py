"""An adapter's own file, loaded by llama.cpp beside its base, computes what the merged model computes; what cannot be one is refused."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from bq.convert.adapter.gguf import plan_adapter, write_adapter
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.convert.verify.blas import one_thread_each
from bq.runtime.adapters import GivenAdapter, attach
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from tests.support import reference
from tests.support.adapters import LINEAR, Made, merged
from tests.support.adapters import write_adapter as make_adapter
from tests.support.families import Checkpoint, Family, Shape, write_checkpoint
from tests.support.llama import logits

TOKENS = 12
# Relative to the largest logit, as for merged files: float32 sums in another order, W·x and B·(A·x) apart.
TOLERANCE = 1e-4
IDS = np.random.default_rng(7).integers(300, 700, TOKENS).tolist()
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"o_proj": 3},
    "alpha_pattern": {"up_proj": 12, "W_pack": 1},
    "use_rslora": True,
}


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    with one_thread_each():
        yield


Base = Callable[[Family], Checkpoint]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A checkpoint of a family, written once."""

    def make(family: Family) -> Checkpoint:
        shape = Shape(family, hidden=32, heads=4, ffn=64, form="safetensors")
        return write_checkpoint(tmp_path_factory.mktemp(family) / "base", shape)

    return cache(make)


def own_file(checkpoint: Checkpoint, made: Made, weight: float = 1.0) -> Path:
    conversion = prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder, weight)])
    return write_adapter(plan_adapter(conversion), made.folder / "adapter.gguf")


def error_with(checkpoint: Checkpoint, files: list[tuple[Path, float]], adapters: list[tuple[Made, float]]) -> float:
    """How far llama.cpp with the files is from the reference with the adapters merged."""
    model = checkpoint.folder.parent / "base.gguf"
    if not model.exists():
        convert(prepare(checkpoint.folder, "F32"), model, threads=2)
    given = [GivenAdapter(path, weight) for path, weight in files]
    ours = logits(model, IDS, lambda loaded, context: attach(loaded, context, read_gguf(model), given))
    right = reference.logits(merged(checkpoint, adapters), checkpoint.architecture, IDS)
    return float(np.abs(ours - right).max() / np.abs(right).max())


@pytest.mark.parametrize("family", ["b2-7b", "b1-13b"])
def test_llama_cpp_computes_with_it_what_the_merged_model_computes(tmp_path: Path, base: Base, family: Family) -> None:
    checkpoint = base(family)
    outer = ("embed_tokens", "lm_head") if family.startswith("b1") else ("embed_tokens",)
    made = make_adapter(tmp_path / "mine", checkpoint, (*LINEAR, *outer), **(PATTERNS if family == "b2-7b" else {}))
    path = own_file(checkpoint, made)
    assert error_with(checkpoint, [(path, 1.0)], [(made, 1.0)]) < TOLERANCE
    tensors = {one.name: one for one in GGUFReader(path).tensors}
    shared = [tensors[f"blk.3.attn_{part}.weight.lora_a"].data for part in "qkv"]
    assert all(np.array_equal(one, shared[0]) for one in shared)


def test_several_files_are_added_by_their_weights(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    one = make_adapter(tmp_path / "one", checkpoint, ("W_pack",))
    two = make_adapter(tmp_path / "two", checkpoint, ("W_pack", "down_proj"), rank=2, seed=1)
    files = [
        (own_file(checkpoint, one), 0.5),
        (own_file(checkpoint, two, -2.0), 0.25),
    ]  # a weight of its own is in the file
    assert error_with(checkpoint, files, [(one, 0.5), (two, -0.5)]) < TOLERANCE


def test_its_metadata_is_that_of_an_adapter(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    fields = GGUFReader(own_file(checkpoint, make_adapter(tmp_path / "mine", checkpoint, lora_alpha=24))).fields
    assert {name: fields[name].contents() for name in ("general.architecture", "general.type", "general.name")} == {
        "general.architecture": "baichuan",
        "general.type": "adapter",
        "general.name": "mine",
    }
    assert (fields["adapter.type"].contents(), fields["adapter.lora.alpha"].contents()) == ("lora", 24.0)


def test_the_planned_size_is_the_files(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    made = make_adapter(tmp_path / "mine", checkpoint, rank=16)
    plan = plan_adapter(prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)]))
    size = write_adapter(plan, tmp_path / "out.gguf").stat().st_size
    assert size <= plan.size_bytes < 1.1 * size


def refused(checkpoint: Checkpoint, *folders: Path) -> BqError:
    conversion = prepare(checkpoint.folder, "F32", adapters=[read_adapter(folder) for folder in folders])
    with pytest.raises(BqError) as caught:
        plan_adapter(conversion)
    return caught.value


def test_what_norm_head_divides_afterwards_is_refused(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    made = make_adapter(tmp_path / "mine", checkpoint, ("W_pack", "lm_head"))
    assert "NormHead" in str(refused(checkpoint, made.folder))


def test_a_module_that_is_replaced_whole_is_refused(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    norm = {"base_model.model.model.norm.weight": checkpoint["model.norm.weight"]}
    made = make_adapter(tmp_path / "mine", checkpoint, ("W_pack",), edit=lambda tensors: tensors | norm)
    assert "replaces model.norm.weight whole" in str(refused(checkpoint, made.folder))
    alone = make_adapter(tmp_path / "alone", checkpoint, ("W_pack",), edit=lambda tensors: norm)
    assert "replaces model.norm.weight whole" in str(refused(checkpoint, alone.folder))


def test_two_adapters_are_no_file(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    folders = [make_adapter(tmp_path / name, checkpoint, ("o_proj",)).folder for name in ("one", "two")]
    assert isinstance(refused(checkpoint, *folders), UsageError)


def test_an_existing_file_is_kept(tmp_path: Path, base: Base) -> None:
    checkpoint = base("b2-7b")
    made = make_adapter(tmp_path / "mine", checkpoint, ("o_proj",))
    plan = plan_adapter(prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)]))
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_adapter(plan, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"
    write_adapter(plan, tmp_path / "out.gguf", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out.gguf"]
