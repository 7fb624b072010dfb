"""Inspecting, repairing and searching do their work on files of Baichuan-M2's and M3's layouts, or say in a line why not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bq.convert.convert import convert, prepare
from bq.convert.inspect.checkpoint import inspect_checkpoint
from bq.convert.inspect.model import inspect_model
from bq.convert.repair.repair import RepairOptions, plan_repair
from bq.convert.search.found import rivals
from bq.convert.search.groups import groups_of, matrices_outside
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import read_gguf
from tests.support import wrong_files as wrong
from tests.support.qwen import FAMILIES, Family, Shape, write_qwen
from tests.support.refusals import advised_refusal

Made = Callable[[Family], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("later")
    for family in FAMILIES:
        write_qwen(folder / family, Shape(family, width=32 if family == "qwen3moe" else None, blocks=2))
        convert(prepare(folder / family, "Q8_0"), folder / f"{family}.gguf", 2)
    return lambda family: folder / f"{family}.gguf"


def test_a_mixture_of_experts_shows_who_it_is_and_its_experts(made: Made) -> None:
    path = made("qwen3moe")
    report, of_folder = inspect_model(path), inspect_checkpoint(path.parent / "qwen3moe")
    assert (report.architecture, report.variant, report.generation, report.problems) == ("qwen3moe", "chat", None, ())
    for shape in (report.shape, of_folder.shape):
        assert (shape.experts, shape.experts_used, shape.ffn, shape.head_width, shape.kv_heads) == (6, 2, 64, 32, 2)
        assert shape.kv_bytes_per_token == 2 * 2 * (2 * 32) * 2
    assert {"ffn_gate_exps", "ffn_gate_inp", "attn_q_norm"} <= {group.name for group in report.by_part()}


def test_a_dense_model_shows_its_grouped_heads(made: Made) -> None:
    report = inspect_model(made("qwen2"))
    assert (report.shape.heads, report.shape.kv_heads, report.shape.experts, report.shape.ffn) == (6, 2, 0, 160)
    assert report.shape.rope_base == 1e6


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repair_is_told_to_be_needless_or_what_is_wrong(tmp_path: Path, made: Made, family: Family) -> None:
    assert "There is nothing to repair in" in advised_refusal(plan_repair, made(family), RepairOptions())
    path = wrong.write_wrong(made(family), tmp_path / "x.gguf", wrong.text("tokenizer.chat_template", "[INST]"))
    message = advised_refusal(plan_repair, path, RepairOptions())
    assert f"of x.gguf, a {family}: The chat template does not write <|im_start|>" in message
    assert "Convert the checkpoint again" in message


def test_a_search_has_groups_for_every_matrix_of_a_dense_model(made: Made) -> None:
    file = read_gguf(made("qwen2"))
    groups = groups_of(file, [GgmlType.Q8_0, GgmlType.IQ4_NL])
    assert {name for group in groups for name in group.tensors} == {
        name for name, entry in file.tensors.items() if len(entry.shape) == 2
    }
    assert matrices_outside(file, groups) < file.size_bytes
    assert rivals(file, groups, {})
