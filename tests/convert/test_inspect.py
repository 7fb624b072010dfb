"""What is told of a file or folder is what other readers find in it, and what is broken is told as far as it goes."""

import json
import math
import random
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from bq.convert.convert import convert, prepare
from bq.convert.inspect.checkpoint import CheckpointReport, inspect_checkpoint
from bq.convert.inspect.gguf_remains import read_remains
from bq.convert.inspect.inspect import MatrixReport, TypesReport, inspect
from bq.convert.inspect.model import ModelReport, inspect_model, part_of
from bq.runtime import gguf_file
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.figures import Figures, store_figures
from tests.conftest import DEMO_CHECKPOINT
from tests.support.broken_gguf import broken
from tests.support.families import FAMILIES, FORMS, Family, Form, Shape, write_checkpoint
from tests.support.gguf_writer import ARRAY, I32, STRING, U32, Parts, encoded, take_apart, text
from tests.support.refusals import change_json, only_refuses

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def edited(path: Path, tmp_path: Path) -> Callable[..., ModelReport]:
    """The report of that file after an edit."""

    def make(edit: Callable[[Parts], Parts | bytes]) -> ModelReport:
        new = edit(take_apart(path))
        (tmp_path / "x.gguf").write_bytes(new if isinstance(new, bytes) else new.to_bytes())
        return inspect_model(tmp_path / "x.gguf")

    return make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a small checkpoint, to be changed: each has its own copy."""
    kept: dict[Shape, Path] = {}

    def make(**shape: Any) -> Path:
        one = Shape(**(SMALL | {"vocab": 704, "form": "bin-shards"} | shape))
        if one not in kept:
            kept[one] = tmp_path_factory.mktemp("kept") / "mine-chat"
            write_checkpoint(kept[one], one)
        copy = tmp_path_factory.mktemp("copy") / "mine-chat"
        shutil.copytree(kept[one], copy)
        return copy

    return make


# GGUF files.


@pytest.mark.parametrize("family", FAMILIES)
def test_metadata_and_tensors_are_those_that_gguf_reads(family: Family, converted: Convert) -> None:
    file = converted(family, "Q8_0", **SMALL)
    report, reader = inspect_model(file), GGUFReader(file)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert {one.key: one.value for one in report.metadata} == {key: field.contents() for key, field in fields.items()}
    found = [(one.name, one.kind, one.shape, one.size_bytes, one.start) for one in report.tensors]
    assert found == [
        (one.name, one.tensor_type.name, tuple(map(int, reversed(one.shape))), one.n_bytes, one.data_offset)
        for one in reader.tensors
    ]
    assert report.weights == sum(int(one.n_elements) for one in reader.tensors)
    assert report.bits_per_weight == pytest.approx(8 * sum(one.n_bytes for one in reader.tensors) / report.weights)
    assert (report.problems, report.warnings) == ((), ())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_says_what_the_checkpoint_was(family: Family, converted: Convert) -> None:
    report = inspect_model(converted(family, "Q8_0", **SMALL))
    shape = report.shape
    blocks = 40 if family.endswith("13b") else 32
    assert (report.generation, report.variant, report.mixture) == (int(family[1]), "chat", "Q8_0")
    assert (shape.hidden, shape.blocks, shape.heads, shape.ffn, shape.context) == (64, blocks, 2, 96, 4096)
    assert (shape.position, shape.rope_base) == (("alibi", None) if blocks == 40 else ("rope", 10000.0))
    assert shape.kv_bytes_per_token == 2 * 2 * blocks * 64  # keys and values, two bytes each
    assert report.origin.norm_head == ("folded" if family.startswith("b2") else "none")
    assert report.origin.bq_version
    assert "modeling_baichuan.py" in report.origin.norm_head_reason


def test_groups_hold_every_tensor_once(converted: Convert) -> None:
    report = inspect_model(converted("b2-7b", "Q4_K_M", **SMALL))
    for groups in (report.by_type(), report.by_part()):
        assert sum(one.tensors for one in groups) == len(report.tensors)
        assert sum(one.weights for one in groups) == report.weights
        assert sum(one.share for one in groups) == pytest.approx(1)
        assert [one.size_bytes for one in groups] == sorted((one.size_bytes for one in groups), reverse=True)
    parts = {one.name: one for one in report.by_part()}
    assert parts["attn_q"].tensors == parts["ffn_down"].tensors == 32
    assert set(parts["attn_v"].types) == {"Q8_0", "Q5_0"}  # what 256-wide types become in rows of 64
    assert part_of("blk.12.attn_q.bias") == "attn_q.bias"


def test_the_vocabulary_is_counted_and_its_ids_are_named(path: Path) -> None:
    vocabulary = inspect_model(path).vocabulary
    fields = GGUFReader(path).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    pieces = fields["tokenizer.ggml.tokens"].contents()
    assert vocabulary is not None
    names = {1: "normal", 2: "unknown", 3: "control", 4: "user_defined", 5: "unused", 6: "byte"}
    assert {one.kind: one.count for one in vocabulary.kinds} == {names[k]: n for k, n in Counter(types).items()}
    for kind in vocabulary.kinds:
        assert all(names[types[pieces.index(one)]] == kind.kind for one in kind.samples)
        assert len(kind.samples) == min(10, kind.count)
    special = {one.use: (one.id, one.piece, one.kind) for one in vocabulary.special}
    assert special["user"] == special["eot"] == (195, "<reserved_106>", "control")
    assert special["assistant"] == (196, "<reserved_107>", "control")
    assert special["eos"] == (2, "</s>", "control")
    assert (vocabulary.add_space_prefix, vocabulary.add_bos, vocabulary.add_eos) == (False, False, False)
    assert vocabulary.chat_template == fields["tokenizer.chat_template"].contents()


def test_a_special_id_outside_the_vocabulary_has_no_piece(edited: Callable[..., ModelReport]) -> None:
    report = edited(lambda parts: parts.with_key("tokenizer.ggml.eos_token_id", U32, encoded(U32, 1 << 30)))
    assert report.vocabulary is not None
    (eos,) = (one for one in report.vocabulary.special if one.use == "eos")
    assert (eos.id, eos.piece, eos.kind) == (1 << 30, None, "")
    assert report.problems  # and llama.cpp would not take it


def test_a_release_is_named_only_if_the_file_has_its_shape(
    edited: Callable[..., ModelReport], shared_data: Path
) -> None:
    named = edited(lambda parts: parts.with_key("general.name", STRING, text("Baichuan2-7B-Chat")))
    assert named.release is None
    real = inspect_model(shared_data / "baichuan-7b-vocab.gguf")
    assert (real.release, real.licence, real.generation) == ("baichuan-7b", "Baichuan-7B model licence", 1)
    assert [str(one) for one in real.problems] == ["baichuan-7b-vocab.gguf holds no weights."]
    assert any("typed as ordinary ones" in one for one in real.warnings)


def test_what_another_program_says_of_itself_is_kept(edited: Callable[..., ModelReport]) -> None:
    keys = {"general.quantized_by": "someone", "general.source.url": "https://x", "quantize.imatrix.file": "a.dat"}

    def edit(parts: Parts) -> Parts:
        parts = parts.without_key(*(key.name for key in parts.keys if key.name.startswith("bq.")))
        for key, value in keys.items():
            parts = parts.with_key(key, STRING, text(value))
        return parts

    origin = edited(edit).origin
    assert (origin.bq_version, origin.quantizer, origin.norm_head) == ("", "", "")
    assert dict(origin.details) == keys


def test_warnings_of_files_known_to_be_wrong_are_passed_on(edited: Callable[..., ModelReport]) -> None:
    def edit(parts: Parts) -> Parts:
        parts = parts.without_key(*(key.name for key in parts.keys if key.name.startswith("bq.")))
        return parts.without_key("tokenizer.chat_template")

    assert any("no chat template" in one for one in edited(edit).warnings)


def test_figures_beside_the_file_are_found(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(path, tmp_path / "x.gguf"))
    assert inspect_model(copy).figures == ()
    figures = Figures(8.5, 0.1, 7000, 512, "bundled", "0" * 64, "F16", 0.0123, 0.001)
    store_figures(copy, figures)
    assert inspect_model(copy).figures == (figures,)


def test_another_architecture_shows_what_it_has(edited: Callable[..., ModelReport]) -> None:
    def edit(parts: Parts) -> Parts:
        keys = (replace(key, name=key.name.replace("baichuan.", "qwen2.")) for key in parts.keys)
        kept = replace(parts, keys=tuple(key for key in keys if not key.name.startswith("bq.")))
        for key, value in (("head_count_kv", 1), ("key_length", 48)):
            kept = kept.with_key(f"qwen2.attention.{key}", U32, encoded(U32, value))
        return kept.with_key("general.architecture", STRING, text("qwen2"))

    report = edited(edit)
    assert (report.architecture, report.variant, report.generation) == ("qwen2", "", None)
    assert (report.shape.hidden, report.shape.kv_heads, report.shape.position) == (64, 1, "rope")
    assert (report.shape.head_width, report.shape.kv_bytes_per_token) == (48, 2 * 32 * 48 * 2)
    assert report.vocabulary is not None
    assert all(one.use not in ("user", "assistant") for one in report.vocabulary.special)
    assert [str(one) for one in report.problems] == [
        "x.gguf is a qwen2 model; bq runs Baichuan models. Use llama.cpp itself for it."
    ]
    assert report.warnings == ()


def test_a_download_that_broke_off_shows_its_header_and_how_much_is_there(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) * 3 // 4])
    whole, cut = inspect_model(path), inspect_model(tmp_path / "cut.gguf")
    assert (cut.metadata, cut.tensors) == (whole.metadata, whole.tensors)
    assert cut.has_whole_header
    assert "should lie at bytes" in cut.problems[0].cause
    assert "75% of it is there" in cut.problems[1].cause


def test_a_header_that_breaks_off_keeps_what_stands_before(path: Path, tmp_path: Path) -> None:
    data, whole = path.read_bytes(), inspect_model(path)
    end = whole.tensors[0].start
    for length in random.Random(0).sample(range(24, end), 30):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        cut = inspect_model(tmp_path / "cut.gguf")
        assert cut.metadata == whole.metadata[: len(cut.metadata)]
        assert [(one.name, one.kind, one.shape) for one in cut.tensors] == [
            (one.name, one.kind, one.shape) for one in whole.tensors[: len(cut.tensors)]
        ]
        assert len(cut.problems) == 1  # how much is missing cannot be told
        assert cut.warnings == ()  # what is not there may have been cut off


def test_types_that_bq_does_not_run_are_named(edited: Callable[..., ModelReport]) -> None:
    def retyped(kind: int) -> Callable[[Parts], Parts]:
        return lambda parts: parts.with_tensor(3, replace(parts.tensors[3], kind=kind))

    report = edited(retyped(39))
    assert (report.tensors[3].kind, report.tensors[3].size_bytes) == (
        "MXFP4",
        math.prod(report.tensors[3].shape) // 32 * 17,
    )
    assert "type 39" in str(report.problems[0])
    report = edited(retyped(77))
    assert (report.tensors[3].kind, report.tensors[3].size_bytes) == ("type 77", None)
    assert report.bits_per_weight is not None


def test_every_kind_of_broken_file_gives_a_report_or_a_line(path: Path, tmp_path: Path) -> None:
    """Some of the corpus that bq.runtime.gguf_file is held against."""
    parts = take_apart(path)
    corpus = list(broken(parts, flips=100))
    file = tmp_path / "broken.gguf"
    shown = 0
    for _, make in random.Random(1).sample(corpus, 60):
        file.write_bytes(make())
        shown += only_refuses(inspect_model, file) is not None
    assert shown > 30


@pytest.mark.parametrize(
    "tail",
    [
        text("k") + encoded(U32, ARRAY) + encoded(U32, I32) + b"\xff" * 8,
        text("k") + encoded(U32, ARRAY) + encoded(U32, STRING) + b"\xff" * 7 + b"\0",
        text("k") + encoded(U32, STRING) + b"\xff" * 8,
        b"\xff" * 8,
        text("k") + encoded(U32, 99),
    ],
    ids=["array", "strings", "string", "key", "type"],
)
def test_what_a_broken_header_claims_takes_no_memory(tail: bytes, tmp_path: Path) -> None:
    head = Parts((), (), counts=(3, 1 << 40)).header()
    (tmp_path / "x.gguf").write_bytes(head + tail + bytes(1000))
    tracemalloc.start()
    try:
        remains = read_remains(tmp_path / "x.gguf")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (dict(remains.file.metadata), remains.tensors) == ({}, ())
    assert remains.fault is not None
    assert not remains.has_whole_header


@pytest.mark.parametrize("bound", ["MAX_STRING", "MAX_ARRAY"])
def test_text_and_arrays_are_bounded_as_for_a_sound_file(
    bound: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(path.read_bytes()[:-1])
    before = read_remains(file).file.metadata
    monkeypatch.setattr(gguf_file, bound, 1000)
    after = read_remains(file)
    assert "tokenizer.ggml.token_type" not in after.file.metadata
    assert list(after.file.metadata) == list(before)[: len(after.file.metadata)]
    assert not after.has_whole_header


def test_weights_are_not_read(path: Path, tmp_path: Path) -> None:
    """A tensor of 4 GiB that is a hole in the file."""
    parts = take_apart(path)
    big = replace(parts.tensors[0], name="big", dims=(1 << 10, 1 << 20), kind=0, data=b"")
    file = tmp_path / "x.gguf"
    header = Parts(parts.keys, (big,)).header()
    with file.open("wb") as out:
        out.write(header)
        out.truncate(-(-len(header) // 32) * 32 + (4 << 30))
    tracemalloc.start()
    try:
        report = inspect_model(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert report.tensors[0].size_bytes == 4 << 30


# What else is inspected.


def test_an_importance_matrix_shows_where_columns_differ(tmp_path: Path) -> None:
    """Written by gguf's own writer, as llama-imatrix lays it out."""
    file = tmp_path / "m.gguf"
    writer = GGUFWriter(None, "")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["a.txt", "b.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, sums in (("blk.0.attn_q.weight", [0, 8, 4, 4]), ("blk.0.ffn_down.weight", [2, 2])):
        writer.add_tensor(f"{name}.in_sum2", np.array([sums], np.float32))
        writer.add_tensor(f"{name}.counts", np.array([[2]], np.float32))
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    report = inspect(str(file))
    assert isinstance(report, MatrixReport)
    assert (report.datasets, report.chunks, report.chunk_size) == (("a.txt", "b.txt"), 7, 512)
    q, down = report.entries
    assert (q.columns, q.count, q.least, q.mean, q.greatest, q.spread, q.unused) == (4, 2, 0, 2, 4, 2, 1)
    assert (down.spread, down.unused) == (1, 0)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BqError):
        inspect(str(file))


def test_a_plan_of_types_is_known_by_its_format(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    plan = {"format": "bq-types-1", "name": "mine", "base": "Q4_K_M", "types": {"blk.*.attn_v.weight": "Q6_K"}}
    file.write_text(json.dumps(plan))
    report = inspect(str(file))
    assert isinstance(report, TypesReport)
    assert {name: kind.name for name, kind in report.plan.types.items()} == plan["types"]
    file.write_text(json.dumps(plan | {"base": "Q99"}))
    with pytest.raises(BqError, match="base"):
        inspect(str(file))


def test_what_is_none_of_them_is_told(tmp_path: Path, path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"<html>")
    with pytest.raises(BqError, match="it is a web page"):
        inspect(str(tmp_path / "x.gguf"))
    with pytest.raises(BqError, match="There is no file"):
        inspect(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="hf download baichuan-inc/Baichuan2-7B-Chat"):
        inspect("baichuan2-7b-chat")
    with pytest.raises(UsageError, match=r"Name one of these: .*x\.gguf"):
        inspect(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        inspect(str(tmp_path / "empty"))


# Checkpoints.


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
            "llama.cpp has no such architecture yet",
        ),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 1}, "Qwen's layout"),
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
