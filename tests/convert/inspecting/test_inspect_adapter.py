"""`bq inspect` of an adapter's file, and of a model that adapters were merged into; of a Baichuan-M1, whose blocks differ."""

from pathlib import Path

import pytest

from bq.convert.adapter.gguf import plan_adapter, write_adapter
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.convert.inspect.adapter import AdapterReport, ChangedMatrix
from bq.convert.inspect.inspect import inspect
from bq.convert.inspect.model import ModelReport
from bq.runtime import language
from tests.support import adapters
from tests.support.families import Shape, write_checkpoint
from tests.support.m1 import Shape as M1
from tests.support.m1 import write_m1
from tests.support.wrong_files import text, write_wrong


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a base, an adapter of it, and the files of both ways to use that."""
    folder = tmp_path_factory.mktemp("inspected")
    base = write_checkpoint(folder / "base", Shape("b2-7b", hidden=32, heads=2, ffn=64, form="safetensors"))
    targets = ("W_pack", "down_proj", "embed_tokens")
    adapters.write_adapter(folder / "style", base, targets, rank=3, rank_pattern={"down_proj": 5})
    conversion = prepare(folder / "base", "Q8_0", adapters=[read_adapter(folder / "style")])
    write_adapter(plan_adapter(conversion), folder / "style.gguf")
    convert(conversion, folder / "merged.gguf", threads=2)
    return folder


def test_an_adapter_tells_its_matrices_and_their_ranks(folder: Path) -> None:
    report = inspect(str(folder / "style.gguf"))
    assert isinstance(report, AdapterReport)
    assert (report.name, report.architecture, report.problems) == ("style", "baichuan", ())
    assert {(one.name.split(".")[-1 if "blk" not in one.name else 2], one.rank) for one in report.matrices} == {
        ("attn_q", 3),
        ("attn_k", 3),
        ("attn_v", 3),
        ("ffn_down", 5),
        ("weight", 3),  # of token_embd
    }
    assert ChangedMatrix("token_embd.weight", 3, "F32") in report.matrices
    assert len(report.matrices) == 32 * 4 + 1


def test_an_adapter_of_another_kind_is_told(folder: Path, tmp_path: Path) -> None:
    report = inspect(str(write_wrong(folder / "style.gguf", tmp_path / "dora.gguf", text("adapter.type", "dora"))))
    assert isinstance(report, AdapterReport)
    assert "'dora', not lora" in str(report.problems[0])


def test_what_was_merged_is_told_and_reasons_in_the_language_in_use(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = inspect(str(folder / "merged.gguf"))
    assert isinstance(report, ModelReport)
    assert (report.adapters, report.variant_reason) == (("style",), "folder name")
    assert "row norms" in report.origin.norm_head_reason
    monkeypatch.setattr(language, "_current", "zh")
    chinese = inspect(str(folder / "merged.gguf"))
    assert isinstance(chinese, ModelReport)
    assert chinese.variant_reason == "文件夹名称"
    assert "行范数" in chinese.origin.norm_head_reason


def test_of_blocks_with_other_heads_the_most_are_told(tmp_path: Path) -> None:
    write_m1(tmp_path / "Baichuan-M1-tiny", M1())
    convert(prepare(tmp_path / "Baichuan-M1-tiny", "F32"), tmp_path / "m1.gguf", threads=2)
    report = inspect(str(tmp_path / "m1.gguf"))
    assert isinstance(report, ModelReport)
    heads = [M1().keys(block)[0] for block in range(M1().blocks)]
    assert len(set(heads)) > 1, "or it is no example"
    assert report.shape.kv_heads == max(heads)
    assert report.shape.heads > 0
