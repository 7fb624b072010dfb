"""A plan of types decides as it says, as llama.cpp's own overrides do, and whatever else its file holds is refused in a line."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.convert import in_mixture, in_types, prepare
from bq.convert.importance import Importance
from bq.convert.mixture import ALL_MIXTURES, MIXTURES, UNQUANTIZED, find_mixture
from bq.convert.plan import fallbacks
from bq.convert.type_plan import FORMAT, TypePlan, read_type_plan, write_type_plan
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import FileType, describe_file
from tests.support.byte_equality import FFN_NOT, Wish, first_difference, quantize_as_wished, write_files, write_sparse
from tests.support.families import Shape, write_checkpoint
from tests.support.refusals import advised_refusal, only_refuses, refusal

T = GgmlType
PLAN = TypePlan(
    "search-4.5bpw",
    "Q4_K_M",
    {
        "output.weight": T.Q8_0,
        "blk.3.ffn_down.weight": T.Q3_K,  # falls back
        "blk.6.attn_q.weight": T.IQ3_S,
        "blk.17.ffn_up.weight": T.F16,
        "blk.31.attn_v.weight": T.Q2_K,
        "blk.1*.attn_output.weight": T.Q5_K,
        "blk.17.attn_output.weight": T.Q2_K,  # the pattern before it counts
    },
)


def file_of(folder: Path, **changes: Any) -> Path:
    content = {
        "format": FORMAT,
        "name": "mine",
        "base": "Q4_K_M",
        "types": {"output.weight": "Q6_K"},
        "note": {"a": [1]},
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_the_file_is_the_one_of_llama_cpps_overrides(tmp_path: Path) -> None:
    """All types are given to it: of matrices that are overridden it takes no count, which shifts the mixture's choice for others."""
    folder = write_sparse(tmp_path / "model", "b2-7b", FFN_NOT)
    planned = prepare(folder, "Q8_0", types=PLAN)
    f32 = replace(planned, plan=in_mixture(planned, find_mixture("F32")).plan)
    (source,) = write_files([f32], tmp_path)
    source = source.rename(tmp_path / "f32.gguf")
    (ours,) = write_files([planned], tmp_path)
    theirs = tmp_path / "theirs.gguf"
    types = {f"^{re.escape(one.name)}$": int(one.wanted) for one in planned.plan.tensors if len(one.shape) == 2}
    assert quantize_as_wished(source, theirs, FileType.Q4_K_M, Wish(types=types)) == 0
    assert ours.name == "search-4.5bpw.gguf"
    assert ours.read_bytes() == theirs.read_bytes(), first_difference(ours, theirs, PLAN.name)
    kinds = {tensor.name: tensor.kind for tensor in planned.plan.tensors}
    assert kinds["blk.3.ffn_down.weight"] == T.Q4_0
    assert kinds["blk.17.attn_output.weight"] == T.Q5_K
    assert ("ffn_down", 32, T.Q3_K, T.Q4_0, 1) in [
        (one.part, one.columns, one.wanted, one.given, one.tensors) for one in fallbacks(planned.plan)
    ]


def test_the_file_says_the_plans_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m-chat", Shape(hidden=64, heads=4, ffn=96))
    planned = prepare(tmp_path / "m-chat", "Q8_0", types=TypePlan("mine", "Q5_K_S", {"output.weight": T.Q8_0}))
    assert planned.file_name == "m-chat-mine.gguf"
    file = read_gguf(write_files([planned], tmp_path)[0])
    assert describe_file(file).mixture == "mine"
    assert file.metadata["general.file_type"] == FileType.Q5_K_S


def test_a_conversion_goes_from_plan_to_plan_and_back(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", Shape(hidden=64, heads=4, ffn=96))
    conversion = prepare(tmp_path / "m", "Q8_0")
    planned = in_types(conversion, TypePlan("mine", "Q4_0", {"blk.5.*": T.Q5_1}))
    kinds = {tensor.name: tensor.kind for tensor in planned.plan.tensors}
    assert (kinds["blk.5.attn_q.weight"], kinds["blk.4.attn_q.weight"]) == (T.Q5_1, T.Q4_0)
    assert kinds["blk.5.attn_norm.weight"] == T.F32
    back = in_mixture(planned, find_mixture("Q8_0"))
    assert (back.types, back.mixture_name, back.plan) == (None, "Q8_0", conversion.plan)


@pytest.mark.parametrize("pattern", ["blk.99.attn_q.weight", "blk.*.attn_x.weight", "*.bias", "output_norm.weight"])
def test_a_name_that_is_no_matrix_of_the_model_is_refused(pattern: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", Shape(hidden=64, heads=4, ffn=96))
    message = advised_refusal(prepare, tmp_path / "m", "Q8_0", types=TypePlan("mine", "Q4_0", {pattern: T.Q8_0}))
    assert f"mine: {pattern} matches no matrix of this model" in message


@pytest.mark.parametrize("name", ["blk.7.attn_q.weight", "token_embd.weight", "output.weight"])
def test_a_type_that_needs_an_importance_is_refused_without_one(name: str, tmp_path: Path) -> None:
    """Also where llama.cpp would end the process: it asks for one in blocks alone."""
    write_checkpoint(tmp_path / "m", Shape(hidden=256, heads=4, ffn=256))
    plan = TypePlan("mine", "Q4_0", {name: T.IQ2_XS})
    message = advised_refusal(prepare, tmp_path / "m", "Q8_0", types=plan)
    assert f"{name} would be IQ2_XS, which is no use without an importance matrix" in message
    assert "--calibrate" in message
    matrix = ImportanceMatrix({name: Sums(np.ones(256, np.float32), 1)}, (), 1, 512)
    prepared = prepare(tmp_path / "m", "Q8_0", types=plan, importance=Importance(matrix, "my.imatrix"))
    assert {one.name for one in prepared.plan.tensors if one.importance is not None} == {name}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_type_plan(tmp_path / "plan.json", PLAN, {"limit": 4.5, "作者": None})
    assert read_type_plan(tmp_path / "plan.json") == PLAN
    assert [*read_type_plan(tmp_path / "plan.json").types] == [*PLAN.types]
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert content["types"]["blk.3.ffn_down.weight"] == "Q3_K"
    assert content["note"] == {"limit": 4.5, "作者": None}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "bq-types-2"}, 'does not say "format": "bq-types-1"'),
        ({"more": 1}, "unknown key 'more'"),
        ({"name": ""}, '"name" must be'),
        ({"name": "../../up"}, '"name" must be'),
        ({"name": "x" * 65}, '"name" must be'),
        ({"name": "q4_k_m"}, '"name" must be'),
        ({"name": 7}, '"name" must be'),
        ({"base": "Q9"}, '"base" must be'),
        ({"base": "F16"}, '"base" must be'),
        ({"base": None}, '"base" must be'),
        ({"types": []}, '"types" must be'),
        ({"types": {"output.weight": "Q9_K"}}, "output.weight has the unknown type 'Q9_K'"),
        ({"types": {"output.weight": 8}}, "output.weight has the unknown type '8'"),
        ({"types": {"": "Q8_0"}}, "a name of 0 characters"),
        ({"types": {"x" * 65: "Q8_0"}}, "a name of 65 characters"),
        ({"types": dict.fromkeys(map(str, range(4097)), "Q8_0")}, '"types" must be'),
    ],
)
def test_a_file_that_is_no_plan_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert says in advised_refusal(read_type_plan, file_of(tmp_path, **changes))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"types": {"a": "Q8_0", "a": "Q6_K"}}', "'a' stands twice"),
        (b"\xff\xfe", "is no JSON"),
        (b" " * ((1 << 20) + 1), "is larger than 1,048,576 bytes"),
    ],
)
def test_bytes_that_are_no_plan_are_refused(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(data)
    assert says in refusal(read_type_plan, tmp_path / "plan.json")


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in advised_refusal(read_type_plan, tmp_path)
    assert "There is no file" in advised_refusal(read_type_plan, tmp_path / "none")
    assert "cannot be written" in refusal(write_type_plan, tmp_path / "none" / "plan.json", PLAN, {})


def test_a_plan_that_would_be_refused_is_not_written(tmp_path: Path) -> None:
    assert '"name" must be' in refusal(write_type_plan, tmp_path / "plan.json", replace(PLAN, name="a/b"), {})
    assert not [*tmp_path.iterdir()]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([*T.__members__, *MIXTURES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "*", "output.weight"]), inner),
    max_leaves=9,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "base", "types", "note", "x"), JSON)))
@settings(max_examples=150, deadline=None)
def test_any_json_is_a_plan_or_refused(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    path = file_of(tmp_path_factory.getbasetemp(), **content)
    plan = only_refuses(read_type_plan, path)
    if plan is not None:
        assert ALL_MIXTURES[plan.base].default not in UNQUANTIZED
        assert all(isinstance(kind, GgmlType) for kind in plan.types.values())
