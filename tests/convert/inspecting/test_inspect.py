"""What is told of a file is what other readers find in it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from bq.convert.inspect.inspect import MatrixReport, TypesReport, inspect
from bq.convert.inspect.model import ModelReport, inspect_model, part_of
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.figures import Figures, store_figures
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import STRING, U32, Parts, encoded, text

from .common import SMALL, Convert


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
        keys = (replace(key, name=key.name.replace("baichuan.", "qwen3.")) for key in parts.keys)
        kept = replace(parts, keys=tuple(key for key in keys if not key.name.startswith("bq.")))
        for key, value in (("head_count_kv", 1), ("key_length", 48)):
            kept = kept.with_key(f"qwen3.attention.{key}", U32, encoded(U32, value))
        return kept.with_key("general.architecture", STRING, text("qwen3"))

    report = edited(edit)
    assert (report.architecture, report.variant, report.generation) == ("qwen3", "", None)
    assert (report.shape.hidden, report.shape.kv_heads, report.shape.position) == (64, 1, "rope")
    assert (report.shape.head_width, report.shape.kv_bytes_per_token) == (48, 2 * 32 * 48 * 2)
    assert report.vocabulary is not None
    assert all(one.use not in ("user", "assistant") for one in report.vocabulary.special)
    assert [str(one) for one in report.problems] == [
        "x.gguf is a qwen3 model; bq runs Baichuan models. Use llama.cpp itself for it; bq runs the architectures baichuan, "
        "qwen2, qwen3moe."
    ]
    assert report.warnings == ()


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
    with pytest.raises(UsageError, match="bq pull baichuan2-7b-chat"):
        inspect("baichuan2-7b-chat")
    with pytest.raises(UsageError, match=r"Name one of these: .*x\.gguf"):
        inspect(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        inspect(str(tmp_path / "empty"))
