"""What is told of a checkpoint is what a conversion makes of it, and what is missing or broken is told beside the rest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.convert.convert import convert, prepare
from bq.convert.inspect.checkpoint import CheckpointReport, inspect_checkpoint
from bq.convert.inspect.inspect import inspect
from bq.convert.inspect.model import inspect_model
from tests.conftest import DEMO_CHECKPOINT
from tests.support.families import FAMILIES, FORMS, Family, Form
from tests.support.refusals import change_json

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(("family", "form"), zip(FAMILIES, FORMS, strict=True))
def test_a_checkpoint_is_read_and_decided_as_a_conversion_does(
    family: Family, form: Form, folder: Callable[..., Path]
) -> None:
    source = folder(family=family, form=form)
    report = inspect(str(source))
    assert isinstance(report, CheckpointReport)
    assert report.problems == ()
    assert (report.generation, report.variant, report.name) == (int(family[1]), "chat", "mine-chat")
    assert report.norm_head is family.startswith("b2")
    assert report.norm_head_reasons
    assert report.shape.position == ("alibi" if family.endswith("13b") else "rope")
    assert {one.name for one in report.files} == {
        path.name for path in source.glob("*model*.[bs][ia]*") if "json" not in path.name
    }
    assert sum(one.tensors for one in report.files) == len(report.tensors)
    assert report.vocabulary is not None
    assert (report.vocabulary.size, report.vocabulary.padding) == (704, 4)


def test_the_sizes_of_a_conversion_are_told(folder: Callable[..., Path], tmp_path: Path) -> None:
    source = folder()
    sizes = {one.mixture: one for one in inspect_checkpoint(source).possible}
    convert(prepare(source, "Q8_0"), tmp_path / "x.gguf", 2)
    assert sizes["Q8_0"].size_bytes == pytest.approx((tmp_path / "x.gguf").stat().st_size, abs=4096)
    assert sizes["Q8_0"].bits_per_weight == pytest.approx(inspect_model(tmp_path / "x.gguf").bits_per_weight)
    assert sizes["IQ2_XXS"].needs_importance
    assert not sizes["Q4_K_M"].needs_importance


def test_a_mixture_of_bqs_own_is_offered_only_where_it_differs(folder: Callable[..., Path]) -> None:
    narrow = inspect_checkpoint(folder())
    even = inspect_checkpoint(folder(hidden=256, ffn=256))
    assert "Q4_K_M_NL" in {one.mixture for one in narrow.possible}
    assert "Q4_K_M_NL" not in {one.mixture for one in even.possible}


def test_the_bundled_checkpoint_has_its_own_name() -> None:
    if not (DEMO_CHECKPOINT / "pytorch_model.bin").is_file():
        pytest.skip("demo/checkpoint is not there: demo/train.py makes it")
    report = inspect("demo")
    assert isinstance(report, CheckpointReport)
    assert (report.name, report.problems) == ("bq-demo", ())


def test_a_file_of_a_checkpoint_means_its_folder(folder: Callable[..., Path]) -> None:
    source = folder()
    report = inspect(str(source / "config.json"))
    assert isinstance(report, CheckpointReport)
    assert report.path == source


def test_missing_shards_and_pointers_are_told_and_the_rest_is_shown(folder: Callable[..., Path]) -> None:
    source = folder()
    first, second, third = sorted(source.glob("pytorch_model-*.bin"))
    first.unlink()
    second.write_text(LFS)
    report = inspect_checkpoint(source)
    assert [one.state for one in report.files] == ["missing", "pointer", "whole"]
    assert report.files[2].name == third.name
    assert len(report.tensors) == report.files[2].tensors > 0
    assert [one.cause for one in report.problems] == [f"1 of 3 shards are missing in {source}: {first.name}."]
    assert report.shape.hidden == 64
    assert report.vocabulary is not None
    assert (report.possible, report.norm_head) == ((), None)


def test_a_damaged_file_is_told_apart_from_an_empty_one(folder: Callable[..., Path]) -> None:
    source = folder()
    first, second, _ = sorted(source.glob("pytorch_model-*.bin"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-500])
    report = inspect_checkpoint(source)
    assert [one.state for one in report.files] == ["empty", "broken", "whole"]
    assert first.name in report.problems[0].cause


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architectures": ["BaichuanM1ForCausalLM"], "model_type": "baichuan_m1"},
            "Baichuan-M1",
        ),
        (
            {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_key_value_heads": 1},
            "is Qwen3ForCausalLM",
        ),
        ({"architectures": ["BaichuanForCausalLM"], "quantization_config": {"load_in_4bit": True}}, "4-bit repack"),
        ({"architectures": ["BaichuanForCausalLM"], "num_hidden_layers": 48}, "num_hidden_layers is 48"),
    ],
    ids=["m1", "qwen", "4-bit", "blocks"],
)
def test_other_layouts_show_their_shape_and_one_problem(
    changes: dict[str, Any], words: str, folder: Callable[..., Path]
) -> None:
    source = folder()
    change_json(source / "config.json", **changes)
    min(source.glob("*.bin")).unlink()  # that a shard is missing is no news then
    report = inspect_checkpoint(source)
    assert len(report.problems) == 1
    assert words in str(report.problems[0])
    assert report.architecture == changes["architectures"][0]
    assert (report.shape.hidden, report.shape.ffn) == (64, 96)
    assert report.shape.blocks == changes.get("num_hidden_layers", 32)
    assert report.shape.kv_heads == changes.get("num_key_value_heads", 2)
    assert report.tensors
    assert report.possible == ()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[1]", "config.json holds no JSON object"),
        ("config.json", '{"architectures": 7, "hidden_size": "x"}', "the architecture is not given"),
        ("tokenizer.model", "junk", "tokenizer.model"),
        ("tokenizer.model", LFS, "tokenizer.model is a Git LFS pointer"),
        ("generation_config.json", '{"temperature": "hot"}', "temperature is 'hot'"),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": "../x.bin"}}', "outside its folder"),
        ("pytorch_model.bin.index.json", '{"weight_map": {"a": "x\\u0000.bin"}}', "x"),
    ],
)
def test_broken_companions_become_problems(name: str, content: str, words: str, folder: Callable[..., Path]) -> None:
    source = folder()
    (source / name).write_text(content)
    report = inspect_checkpoint(source)
    assert words in str(report.problems[0])
    assert len({str(one) for one in report.problems}) == len(report.problems)


def test_the_release_folders_of_the_hub_are_described_without_their_weights(shared_data: Path) -> None:
    report = inspect_checkpoint(shared_data / "releases" / "Baichuan2-13B-Chat")
    assert (report.release, report.shape.position, report.shape.ffn) == ("baichuan2-13b-chat", "alibi", 13696)
    assert report.shape.kv_bytes_per_token == 800 << 10
    assert [one.state for one in report.files] == ["missing"] * 3
