"""`bq verify` passes every right file and names what is wrong with every wrong one, alone and against its checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.convert import convert, prepare
from bq.convert.importance import Importance
from bq.convert.quantizer import GGML
from bq.convert.verify import weight_checks as weight_checks_module
from bq.convert.verify.against import Against, check_against
from bq.convert.verify.check import Check
from bq.convert.verify.comparison import compare
from bq.convert.verify.file_checks import check_file
from bq.convert.verify.weight_checks import judge, weight_checks
from bq.runtime import ggml
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import read_gguf
from tests.support import wrong_files as wrong
from tests.support.families import Checkpoint, Family, Shape
from tests.support.gguf_writer import F32, Parts, encoded
from tests.support.wrong_files import Edit, write_wrong

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}
WIDE: dict[str, Any] = {"hidden": 256, "heads": 2, "ffn": 64}
RIGHT: list[tuple[Family, str, dict[str, Any]]] = [
    ("b1-7b", "F32", SMALL),
    ("b2-7b", "F16", SMALL | {"dtype": "f32"}),
    ("b2-13b", "BF16", SMALL | {"dtype": "f16", "chat": False}),
    ("b1-13b", "Q8_0", SMALL | {"normalized_head": False, "form": "safetensors"}),
    ("b2-7b", "Q8_0", SMALL | {"normalized_head": True, "vocab": 720}),
    ("b2-13b", "Q5_1", {"hidden": 96, "heads": 6, "ffn": 160}),
    ("b1-7b", "Q4_0", SMALL),
    ("b2-7b", "Q4_K_M", WIDE),
    ("b1-13b", "Q6_K", SMALL),
    ("b2-13b", "IQ4_NL", SMALL),
    ("b1-7b", "Q3_K_M", SMALL),
    ("b2-7b", "Q5_K_S", {"hidden": 256, "heads": 2, "ffn": 64, "chat": False}),
]


def source_of(path: Path) -> Path:
    return path.parent / "checkpoint"


def faults(checks: Sequence[Check] | Iterator[Check]) -> list[Check]:
    return [check for check in checks if check.verdict != "pass"]


def alone(path: Path) -> list[Check]:
    return list(check_file(path, 2))


def against(path: Path, source: Path, tokens: int = 8) -> list[Check]:
    return list(check_against(path, source, Against(2, tokens)))


@pytest.mark.parametrize(("family", "mixture", "shape"), RIGHT)
def test_a_right_file_passes_every_check(
    converted: Convert, family: Family, mixture: str, shape: dict[str, Any]
) -> None:
    path = converted(family, mixture, **shape)
    checks = [*alone(path), *against(path, source_of(path))]
    assert faults(checks) == []
    found = {check.name: check.details for check in checks}
    assert found["weights"]["exact"] == found["weights"]["tensors"]
    assert found["logits"]["tokens"] == 8
    assert found["token-ids"]["texts"] > 100


# What each fault does to a file of one family, the check that fails alone (None where a file alone cannot tell), and words.
FAULTS: dict[str, tuple[Family, Edit, str | None, str]] = {
    "NormHead left out": ("b2-7b", lambda parts: parts, "norm-head", "NormHead is not folded"),
    "normalised on Baichuan 1": ("b1-7b", wrong.normalised_head, "norm-head", "as only Baichuan 2 needs it"),
    "layer zeroed": ("b1-13b", wrong.zeroed_layer(3), "zeros", "block 3 (every matrix)"),
    "role pieces NORMAL": ("b2-7b", wrong.typed(1, 195, 196), "role-pieces", "Role pieces are not CONTROL"),
    "no user-defined pieces": ("b2-7b", wrong.all_ordinary, "token-types", "208 user-defined pieces"[3:]),
    "prefix": ("b1-7b", wrong.flag(wrong.SPACE_PREFIX, True), "space-prefix", "puts spaces into texts"),
    "prefix missing": ("b1-7b", wrong.without(wrong.SPACE_PREFIX), "space-prefix", "is missing"),
    "Baichuan 1 without its space": ("b1-7b", wrong.flag(wrong.DUMMY_PREFIX, False), "space-prefix", "puts no space"),
    "wrong generation": ("b2-7b", wrong.number("bq.generation", 1), "generation", "contradicts itself"),
    "bytes typed as text": ("b2-7b", wrong.typed(1, 300), "byte-pieces", "not typed as bytes"),
    "no end": ("b2-7b", wrong.number("tokenizer.ggml.eos_token_id", 500), "stop-ids", "answers do not end"),
    "another generation's template": (
        "b2-7b",
        wrong.text("tokenizer.chat_template", "<reserved_102>x<reserved_103>"),
        "chat-template",
        "<reserved_102>",
    ),
}
# The cause that is found against the checkpoint.
CAUSES: dict[str, tuple[Family, Edit, str, str]] = {
    "q and k not reordered": ("b2-7b", wrong.not_reordered, "order", "q and k are not reordered"),
    "q alone not reordered on ALiBi": (
        "b1-13b",
        lambda parts: wrong.not_reordered(parts, ("attn_q",)),
        "order",
        "q and k are not reordered",
    ),
    "swapped": (
        "b2-7b",
        wrong.swapped("blk.3.ffn_up.weight", "blk.4.ffn_gate.weight"),
        "other-tensor",
        "blk.3.ffn_up.weight holds what should be blk.4.ffn_gate.weight",
    ),
    "layer zeroed": ("b1-13b", wrong.zeroed_layer(3), "zeros", "blk.3.attn_k.weight"),
    "normalised on Baichuan 1": ("b1-7b", wrong.normalised_head, "normalised-head", "has no NormHead"),
    "half a matrix lost": (
        "b2-7b",
        wrong.with_rows("blk.2.ffn_up.weight", lambda rows: rows * (np.arange(len(rows)) < 40)[:, None]),
        "rows",
        "blk.2.ffn_up.weight",
    ),
    "twice as large": (
        "b2-7b",
        wrong.with_rows("blk.2.ffn_up.weight", lambda rows: rows * 2),
        "scaled",
        "other lengths",
    ),
    "not of this checkpoint": (
        "b2-7b",
        wrong.with_rows("blk.2.ffn_up.weight", lambda rows: np.random.default_rng(0).permuted(rows)),
        "unknown",
        "not this checkpoint's",
    ),
}


def made(
    tmp_path: Path, converted: Convert, family: Family, name: str, edit: Edit, mixture: str = "Q8_0"
) -> tuple[Path, Path]:
    """A wrong file, and its checkpoint."""
    right = converted(family, mixture, **SMALL)
    if name == "NormHead left out":
        edit = wrong.without_norm_head(Checkpoint(source_of(right), Shape(family, **SMALL))["lm_head.weight"])
    return write_wrong(right, tmp_path / "wrong.gguf", edit), source_of(right)


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_file_fails_by_itself_and_says_why(tmp_path: Path, converted: Convert, name: str) -> None:
    family, edit, check, words = FAULTS[name]
    path, _ = made(tmp_path, converted, family, name, edit)
    found = [one for one in faults(alone(path)) if one.name == check and one.verdict == "failure"]
    assert len(found) == 1
    assert words in found[0].text
    assert "bq" in found[0].remedy


@pytest.mark.parametrize("name", [*CAUSES, "NormHead left out"])
def test_the_cause_of_wrong_weights_is_found_in_the_checkpoint(tmp_path: Path, converted: Convert, name: str) -> None:
    family, edit, cause, words = CAUSES.get(name, ("b2-7b", lambda parts: parts, "raw-head", "NormHead is left out"))
    path, source = made(tmp_path, converted, family, name, edit)
    found = faults(weight_checks(read_gguf(path), prepare(source, "F32"), None, 2, lambda *_: None))
    assert found
    assert {one.details["cause"] for one in found} == {cause}
    assert words in found[0].text


@pytest.mark.parametrize(
    "name", ["swapped", "layer zeroed", "q and k not reordered", "NormHead left out", "twice as large"]
)
def test_the_cause_is_found_where_bytes_say_nothing(
    tmp_path: Path, converted: Convert, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As in a file with an importance matrix: another quantizer's bytes, none of which are the same."""
    monkeypatch.setattr(weight_checks_module, "file_quantizer", lambda *_: Otherwise())
    family, edit, cause, words = CAUSES.get(name, ("b2-7b", lambda parts: parts, "raw-head", "NormHead is left out"))
    path, source = made(tmp_path, converted, family, name, edit, "Q4_0")
    right, *found = weight_checks(read_gguf(path), prepare(source, "F32"), None, 2, lambda *_: None)
    assert right.details["close"] > 200
    assert "Q4_0" in right.text
    assert {one.details["cause"] for one in found} == {cause}
    assert words in found[0].text


class Otherwise:
    """A quantizer none of whose blocks are llama.cpp's."""

    def quantize(self, tensor: Any, start: int, stop: int, wide: Any) -> Any:
        return ~GGML.quantize(tensor, start, stop, wide)


@given(st.data())
@settings(max_examples=40, deadline=None, database=None)
def test_any_flipped_bit_is_found_and_its_block_named(converted: Convert, data: st.DataObject) -> None:
    right = converted("b2-7b", "Q4_K_M", **WIDE)
    file, plan = read_gguf(right), prepare(source_of(right), "F32").plan
    tensors = [replace(tensor, kind=file.tensors[tensor.name].kind) for tensor in plan.tensors]
    tensor = data.draw(st.sampled_from(tensors), "tensor")
    bit = data.draw(st.integers(0, 8 * tensor.size_bytes - 1), "bit")
    flipped = np.array(file.bytes)
    flipped[file.tensors[tensor.name].start + bit // 8] ^= 1 << bit % 8
    broken = replace(file)
    broken.__dict__["bytes"] = flipped
    found = judge(list(compare(broken, [tensor], GGML, 1, lambda *_: None)))
    (one,) = found.damaged
    width, size = ggml.block_size(tensor.kind)
    block = bit // 8 // size
    assert one.different == 1
    assert (one.places[0].row, one.places[0].block) == divmod(block, tensor.columns // width)


@pytest.mark.parametrize("bit", [14, 12, 13])
def test_a_flipped_bit_of_a_scale_is_found_where_bytes_say_nothing(
    tmp_path: Path, converted: Convert, monkeypatch: pytest.MonkeyPatch, bit: int
) -> None:
    monkeypatch.setattr(weight_checks_module, "file_quantizer", lambda *_: Otherwise())
    right = converted("b2-7b", "Q8_0", **SMALL)
    block = 2 * 37 + 1  # rows have two blocks of 34 bytes
    path = write_wrong(right, tmp_path / "x.gguf", wrong.flipped_bit("blk.9.ffn_gate.weight", 8 * 34 * block + bit))
    (found,) = faults(weight_checks(read_gguf(path), prepare(source_of(right), "F32"), None, 2, lambda *_: None))
    assert (found.details["tensor"], found.details["row"], found.details["block"]) == ("blk.9.ffn_gate.weight", 37, 1)


def test_with_alibi_q_and_k_in_the_same_other_order_are_no_failure(tmp_path: Path, converted: Convert) -> None:
    path, source = made(tmp_path, converted, "b1-13b", "", wrong.not_reordered)
    (found,) = faults(against(path, source))
    assert found.verdict == "warning"
    assert "changes nothing" in found.text


def rope_base(base: float) -> Edit:
    return lambda parts: parts.with_key("baichuan.rope.freq_base", F32, encoded(F32, base))


def test_other_positions_show_in_settings_and_logits(tmp_path: Path, converted: Convert) -> None:
    """Weights and ids are right; what is computed is not."""
    path, source = made(tmp_path, converted, "b2-7b", "", rope_base(100.0), "F32")
    found = {one.name: one for one in faults(against(path, source, tokens=40))}
    assert sorted(found) == ["logits", "settings"]
    assert "rope.freq_base: 100.0 (10000.0)" in found["settings"].text
    assert found["logits"].details["parted"] is not None
    assert [one.name for one in faults(alone(path))] == ["positions"]


def test_token_ids_are_compared_with_those_of_sentencepiece(tmp_path: Path, converted: Convert) -> None:
    path, source = made(tmp_path, converted, "b1-7b", "", wrong.flag(wrong.DUMMY_PREFIX, False))
    found = {one.name: one for one in faults(against(path, source))}
    assert sorted(found) == ["settings", "token-ids"]
    assert "你好" in found["token-ids"].text
    path, source = made(tmp_path, converted, "b2-7b", "", wrong.all_ordinary)
    found = {one.name: one for one in faults(against(path, source))}
    assert sorted(found) == ["token-ids", "vocabulary"]
    assert "3 is '<SEP>' (0, NORMAL), expected '<SEP>' (0, USER_DEFINED)" in found["vocabulary"].text


def test_a_checkpoint_of_another_shape_is_told_and_no_weights_are_compared(converted: Convert) -> None:
    path, other = converted("b2-7b", "Q8_0", **SMALL), converted("b2-7b", "F32", **SMALL, vocab=710)
    found = faults(against(path, source_of(other)))
    assert {one.name for one in found} == {"tensors", "vocabulary"}
    assert "output.weight [704, 64] ([710, 64])" in found[0].text


def test_a_checkpoint_with_other_weights_is_told(converted: Convert) -> None:
    path, other = converted("b2-7b", "Q8_0", **SMALL), converted("b2-7b", "F32", **SMALL, seed=9)
    found = {one.name: one for one in faults(against(path, source_of(other)))}
    assert sorted(found) == ["logits", "weights"]
    assert "tensors are not this checkpoint's" in found["weights"].text
    assert len(found["weights"].details["tensors"]) == 291


def test_a_file_of_an_old_converter_has_all_its_faults_told(tmp_path: Path, converted: Convert) -> None:
    right = converted("b2-13b", "Q8_0", **SMALL)
    head = Checkpoint(source_of(right), Shape("b2-13b", **SMALL))["lm_head.weight"]
    path = write_wrong(right, tmp_path / "x.gguf", wrong.as_old_converters_did(head))
    found = {one.name: one.verdict for one in faults(alone(path))}
    failures = [name for name, verdict in found.items() if verdict == "failure"]
    assert failures == ["token-types", "role-pieces", "space-prefix", "norm-head"]
    assert {"stop-ids", "sentence-marks", "chat-template", "metadata"} == found.keys() - set(failures)


def test_what_bq_copes_with_is_a_warning(tmp_path: Path, converted: Convert) -> None:
    right = converted("b2-7b", "Q8_0", **SMALL)
    edits = (
        wrong.foreign,
        wrong.typed(4, 195, 196),
        wrong.without("tokenizer.chat_template", "tokenizer.ggml.eot_token_id"),
    )
    found = faults(alone(write_wrong(right, tmp_path / "x.gguf", *edits)))
    assert {one.verdict for one in found} == {"warning"}
    assert [one.name for one in found] == ["role-pieces", "stop-ids", "chat-template", "metadata"]


def test_a_file_that_calls_itself_something_else_is_told(tmp_path: Path, converted: Convert) -> None:
    right = converted("b2-7b", "Q8_0", **SMALL)
    (found,) = faults(alone(write_wrong(right, tmp_path / "x.gguf", wrong.number("general.file_type", 2))))
    assert (found.name, found.verdict) == ("file-type", "warning")
    assert "calls itself Q4_0" in found.text


@pytest.mark.parametrize("kind", ["nan", "infinity"])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, converted: Convert, kind: str) -> None:
    def broken(parts: Parts) -> Parts:
        data = bytearray(wrong.tensor(parts, "blk.1.ffn_down.weight").data)
        data[34 * 2 * 5 : 34 * 2 * 5 + 2] = np.float16(kind if kind == "nan" else np.inf).tobytes()
        return wrong.with_data(parts, "blk.1.ffn_down.weight", bytes(data))

    right = converted("b2-7b", "Q8_0", **SMALL)
    path = write_wrong(right, tmp_path / "x.gguf", broken)
    (found,) = faults(alone(path))
    assert (found.name, found.verdict) == ("values", "failure")
    assert "blk.1.ffn_down.weight (row 5)" in found.text
    (found,) = faults(weight_checks(read_gguf(path), prepare(source_of(right), "F32"), None, 2, lambda *_: None))
    assert (found.details["row"], found.details["block"]) == (5, 0)


def test_one_row_of_the_head_left_out_of_the_fold_is_counted(tmp_path: Path, converted: Convert) -> None:
    def stray(rows: Any) -> Any:
        return np.where((np.arange(len(rows)) == 77)[:, None], rows * 3, rows)

    path, _ = made(tmp_path, converted, "b2-7b", "", wrong.with_rows("output.weight", stray))
    (found,) = faults(alone(path))
    assert (found.name, found.details["strays"]) == ("norm-head", 1)


def test_a_broken_structure_is_a_failure_and_ends_the_checks(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(converted("b2-7b", "Q8_0", **SMALL).read_bytes()[:-100000])
    (found,) = alone(path)
    assert (found.name, found.verdict) == ("structure", "failure")
    (tmp_path / "y.gguf").write_bytes(b"GGUF")
    (found,) = alone(tmp_path / "y.gguf")
    assert "only 4 bytes" in found.text


def test_a_model_of_another_kind_is_a_wrong_use(tmp_path: Path, converted: Convert) -> None:
    path = write_wrong(
        converted("b2-7b", "Q8_0", **SMALL), tmp_path / "x.gguf", wrong.text("general.architecture", "llama")
    )
    with pytest.raises(UsageError, match="llama model"):
        alone(path)


def test_blocks_that_another_build_rounds_otherwise_are_no_damage(
    converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few blocks in every tensor of a type, all of them as near as the type allows."""

    class Build:
        def quantize(self, tensor: Any, start: int, stop: int, wide: Any) -> Any:
            packed = GGML.quantize(tensor, start, stop, wide)
            if tensor.kind == GgmlType.Q8_0:
                packed[0, 0] ^= 1
            return packed

    monkeypatch.setattr(weight_checks_module, "file_quantizer", lambda *_: Build())
    right = converted("b2-7b", "Q8_0", **SMALL)
    (found,) = weight_checks(read_gguf(right), prepare(source_of(right), "F32"), None, 2, lambda *_: None)
    assert found.verdict == "pass"
    assert (found.details["exact"], found.details["close"]) == (65, 226)


def test_a_file_made_with_an_importance_matrix_is_proven_with_it_and_close_without(
    tmp_path: Path, converted: Convert
) -> None:
    source = source_of(converted("b2-7b", "Q8_0", **SMALL))
    plain, rng = prepare(source, "Q4_0"), np.random.default_rng(0)
    matrices = [tensor for tensor in plain.plan.tensors if len(tensor.shape) == 2]
    sums = {one.name: Sums(rng.uniform(0.1, 9, one.columns).astype(np.float32), 1.0) for one in matrices}
    importance = Importance(ImportanceMatrix(sums, ("text",), 1, 512), "imatrix.gguf")
    path = tmp_path / "x.gguf"
    convert(prepare(source, "Q4_0", importance=importance), path, 2)
    assert faults(alone(path)) == []
    for known, exact in ((importance, 291), (None, 66)):  # the norms, and output.weight in Q8_0, need none
        (found,) = weight_checks(read_gguf(path), prepare(source, "F32"), known, 2, lambda *_: None)
        assert (found.verdict, found.details["tensors"]) == ("pass", 291)
        assert found.details["exact"] == exact
