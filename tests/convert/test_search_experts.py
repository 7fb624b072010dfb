"""A search on a mixture of experts: their matrices share a type, the router keeps its own, and what is found holds."""

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest

from bq.convert.convert import convert, prepare
from bq.convert.search.found import rivals
from bq.convert.search.groups import Group, exact_weights, groups_of, matrices_outside
from bq.convert.search.measure import Sample, Source, measure, rows_of_file
from bq.convert.search.search import open_search, write_plan
from bq.convert.type_plan import read_type_plan
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums, write_imatrix
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.loading import load
from bq.runtime.tokenizer import load_tokenizer
from bq.runtime.values import LoadOptions
from tests.support import qwen_reference, reference
from tests.support.llama import logits
from tests.support.qwen import Shape, Written, config, write_qwen
from tests.support.stored import F32

T = GgmlType
SHAPE = Shape("qwen3moe", hidden=64, heads=4, kv_heads=2, width=32, blocks=2, experts=4, used=2, expert_ffn=32)
ON_CPU = LoadOptions(threads=1, gpu_layers=0)
FORMATS = (T.Q4_0, T.Q8_0)
CHUNK, SCORED = 64, slice(32, 63)  # what follows the last token is not known
TEXT = "你好，世界。the model reads the text and the text tells the model what to read. " * 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_qwen(tmp_path_factory.mktemp("moe") / "checkpoint", SHAPE)


@pytest.fixture(scope="module")
def exact(made: Written) -> GgufFile:
    out = made.folder.parent / "exact.gguf"
    convert(prepare(made.folder, "F32"), out, threads=2)
    return read_gguf(out)


def test_all_but_routers_and_norms_is_in_one_group(exact: GgufFile) -> None:
    groups = groups_of(exact, FORMATS)
    grouped = [name for group in groups for name in group.tensors]
    others = set(exact.tensors) - set(grouped)
    assert len(grouped) == len(set(grouped))
    assert {name.rpartition(".weight")[0].rpartition(".")[2] for name in others} == {
        *("attn_norm", "attn_q_norm", "attn_k_norm", "ffn_norm", "ffn_gate_inp", "output_norm")
    }
    assert {group.name.split()[0] for group in groups} >= {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    assert sum(group.weights for group in groups) + exact_weights(exact) == sum(
        prod(one.shape) for one in exact.tensors.values()
    )


@pytest.mark.parametrize("mixture", ["Q4_0", "Q8_0"])
def test_the_sizes_are_those_of_converted_files(made: Written, exact: GgufFile, mixture: str, tmp_path: Path) -> None:
    convert(prepare(made.folder, mixture), tmp_path / "x.gguf", threads=2)
    file = read_gguf(tmp_path / "x.gguf")
    groups = groups_of(exact, [T.Q4_0, T.Q4_1, T.Q5_0, T.Q6_K, T.Q8_0])
    (rival,) = (one for one in rivals(exact, groups, {}) if one.mixture.name == mixture)
    assert file.size_bytes <= rival.size_bytes <= file.size_bytes + 32 * len(file.tensors) + 4096
    assert matrices_outside(exact, groups) < file.size_bytes


def test_what_is_measured_is_the_divergence_that_rounded_experts_make(
    made: Written, exact: GgufFile, tmp_path: Path
) -> None:
    groups = {group.name: group for group in groups_of(exact, [T.Q4_0])}
    ids = tuple(np.random.default_rng(3).integers(0, 400, 128).tolist())
    wanted = [(groups["ffn_down_exps 1-1"], T.Q4_0), (groups["attn_output 0-0"], T.Q4_0)]
    found = list(measure(Source(exact, rows_of_file(exact)), wanted, Sample((ids,), 128), ON_CPU, 2, tmp_path))
    scored = slice(64, 127)
    before = made.logits(ids)[scored]
    for (group, _), one in zip(wanted, found, strict=True):
        after = qwen_reference.logits(rounded(made, group), config(SHAPE), ids)[scored]
        expected = divergence(before, after)
        print(f"{group.name}: {one.divergence:.5f}, by numpy {expected:.5f}")
        # llama.cpp holds the other weights, keys and values in half precision.
        assert one.divergence == pytest.approx(expected, rel=0.05)
        assert expected > 1e-4


def rounded(made: Written, group: Group) -> Mapping[str, F32]:
    """The checkpoint with the matrices of one group in Q4_0, each expert's on its own."""
    tensors = dict(made)
    part, _, span = group.name.partition(" ")
    block = span.split("-")[0]
    name = {"ffn_down_exps": r"mlp.experts.{}.down_proj", "attn_output": "self_attn.o_proj"}[part]
    for number in range(SHAPE.experts):
        full = f"model.layers.{block}.{name.format(number)}.weight"
        rows = np.ascontiguousarray(made[full])
        tensors[full] = ggml.dequantize(T.Q4_0, ggml.quantize(T.Q4_0, rows), rows.shape[1])
    return tensors


def divergence(expected: F32, found: F32) -> float:
    p, q = (np.log(reference.softmax(rows.astype(np.float64))) for rows in (expected, found))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def test_each_expert_is_rounded_by_the_importance_of_its_own_columns(
    made: Written, exact: GgufFile, tmp_path: Path
) -> None:
    columns = np.random.default_rng(5).uniform(0.01, 100, (SHAPE.experts, SHAPE.hidden)).astype(np.float32)
    sums = Sums(columns.ravel(), SHAPE.experts, (1.0,) * SHAPE.experts)
    write_imatrix(tmp_path / "x", ImportanceMatrix({"blk.0.ffn_gate_exps.weight": sums}, (), 1, 64))
    with open_search(str(exact.path), [T.Q4_0], tmp_path / "x", TEXT, 1, CHUNK) as search:
        wanted = [(group, T.Q4_0) for group in search.groups if group.name == "ffn_gate_exps 0-0"]
        (found,) = search.measure(wanted, ON_CPU, 1, tmp_path)
    ids = chunks(exact, 1)[0]
    own, first = (
        divergence(made.logits(ids)[SCORED], qwen_reference.logits(weighed(made, rows), config(SHAPE), ids)[SCORED])
        for rows in (columns, columns[[0] * SHAPE.experts])
    )
    assert found.divergence == pytest.approx(own, rel=0.05)
    assert first != pytest.approx(own, rel=0.1), "the first expert's importance is not everyone's"


def weighed(made: Written, importance: F32) -> Mapping[str, F32]:
    """The checkpoint with the first block's gates in Q4_0, each expert's by its row of importance."""
    tensors = dict(made)
    for number in range(SHAPE.experts):
        full = f"model.layers.0.mlp.experts.{number}.gate_proj.weight"
        rows = np.ascontiguousarray(made[full])
        packed = ggml.quantize(T.Q4_0, rows, np.ascontiguousarray(importance[number]))
        tensors[full] = ggml.dequantize(T.Q4_0, packed, rows.shape[1])
    return tensors


def chunks(file: GgufFile, count: int) -> list[list[int]]:
    """The beginning of the text as a search cuts it."""
    with load_tokenizer(file.path) as tokenizer:
        ids = list(tokenizer.encode(TEXT))
    return [ids[number * CHUNK : (number + 1) * CHUNK] for number in range(count)]


def test_a_matrix_of_another_width_is_refused(exact: GgufFile, tmp_path: Path) -> None:
    imatrix = tmp_path / "x.imatrix"
    wrong = ImportanceMatrix({"blk.0.ffn_gate_exps.weight": Sums(np.ones(SHAPE.hidden, np.float32), 1)}, (), 1, 64)
    write_imatrix(imatrix, wrong)
    with pytest.raises(BqError, match="4 × 64"), open_search(str(exact.path), [T.Q4_0], imatrix, TEXT, 1, 64):
        pass


def test_what_is_found_converts_loads_and_is_as_good_as_foretold(
    made: Written, exact: GgufFile, tmp_path: Path
) -> None:
    with open_search(str(made.folder), FORMATS, None, TEXT, 4, CHUNK) as search:
        list(search.measure(search.unmeasured(tmp_path), ON_CPU, 2, tmp_path))
        limits = [search.bytes_of(bits) for bits in (5.5, 7.0)]
        found = [search.find(limit) for limit in limits]
        write_plan(tmp_path / "x.types.json", search, found[0], limits[0])
    assert all(after.harm < before.harm for before, after in pairwise(found))
    assert found[0].has_experts
    plan = read_type_plan(tmp_path / "x.types.json")
    out = tmp_path / "found.gguf"
    convert(prepare(made.folder, "Q8_0", types=plan), out, threads=2)
    file = read_gguf(out)
    assert found[0].size_bytes - 4096 < file.size_bytes <= limits[0]
    assert {name: entry.kind for name, entry in file.tensors.items() if name in plan.types} == plan.types
    assert all(entry.kind == T.F32 for name, entry in file.tensors.items() if "ffn_gate_inp" in name)
    with load(out, LoadOptions(ctx=256, threads=1)) as model:
        assert len("".join(model.complete("the model", max_tokens=4))) > 0
    each = [divergence(*(logits(path, ids)[SCORED] for path in (exact.path, out))) for ids in chunks(exact, 4)]
    measured = sum(each) / len(each)
    print(f"foretold {found[0].harm:.5f}, measured {measured:.5f}")
    assert found[0].harm / 2 < measured < 1.2 * found[0].harm
