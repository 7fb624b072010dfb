"""With an importance matrix our file is, byte for byte, the one that llama.cpp's quantizer makes from our F32 file and that matrix.

llama.cpp gets the mean squares and the keys as its tool llama-quantize gives them (tools/quantize/quantize.cpp), reckoned here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bq.convert import write
from bq.convert.convert import convert, prepare, prepare_several, with_importance
from bq.convert.importance import TO_COME, Importance
from bq.convert.kernel_calls import is_installed
from bq.convert.mixture import CALIBRATED_MIXTURES, MIXTURES
from bq.convert.quantizer import choose_quantizer
from bq.convert.type_plan import TypePlan
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import read_gguf
from tests.support.byte_equality import (
    BOTH,
    FFN_NOT,
    SMALL,
    Widths,
    Wish,
    first_difference,
    quantize_as_wished,
    write_files,
    write_sparse,
)
from tests.support.families import Family, Shape, write_checkpoint
from tests.support.refusals import advised_refusal, refusal
from tests.support.stored import F32, Stored, stored

CHUNKS, COUNT = 7, 3584
EVERY = MIXTURES | CALIBRATED_MIXTURES
CHANGED = [
    *CALIBRATED_MIXTURES,
    "Q4_0",
    "Q5_0",
    "IQ4_NL",
    "IQ4_XS",
]  # whose types depend on whether there is an importance


def gathered(widths: Widths, blocks: int, seed: int = 0) -> ImportanceMatrix:
    """What a model of these widths could give: columns that differ by orders of magnitude, some of them always zero."""
    rng = np.random.default_rng(seed)

    def sums(columns: int) -> Sums:
        squares = np.exp(3 * rng.standard_normal(columns)).astype(np.float32) * COUNT
        squares[rng.random(columns) < 0.1] = 0
        return Sums(squares, COUNT)

    parts = ("attn_k", "attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    entries = {
        f"blk.{block}.{part}.weight": sums(widths.ffn if part == "ffn_down" else widths.hidden)
        for block in range(blocks)
        for part in parts
    }
    return ImportanceMatrix(entries, ("wiki 中文.txt", "more.txt"), CHUNKS, 512)


def wish_of(matrix: ImportanceMatrix, file: str) -> Wish:
    weights: dict[str, F32] = {name: one.squares / np.float32(one.count) for name, one in matrix.entries.items()}
    keys = (
        ("quantize.imatrix.file", file),
        ("quantize.imatrix.dataset", matrix.datasets[0]),
        ("quantize.imatrix.entries_count", len(matrix.entries)),
        ("quantize.imatrix.chunks_count", matrix.chunks),
    )
    return Wish(weights, keys)


@pytest.mark.parametrize(
    ("family", "widths", "mixtures"),
    [
        ("b1-7b", BOTH, [*CHANGED, "Q4_K_M"]),
        ("b2-13b", FFN_NOT, CHANGED),
        ("b2-13b", SMALL[0], [*EVERY]),
        ("b2-7b", SMALL[2], CHANGED),
    ],
    ids=["7B", "13B", "every-mixture", "7B-small"],
)
def test_every_mixture_is_llama_cpps_own_file(
    family: Family, widths: Widths, mixtures: list[str], tmp_path: Path
) -> None:
    folder, theirs = write_sparse(tmp_path / "model", family, widths), tmp_path / "theirs.gguf"
    matrix = gathered(widths, 40 if family == "b2-13b" else 32)
    conversions = prepare_several(folder, mixtures, importance=Importance(matrix, "my.imatrix"))
    wish = wish_of(matrix, "my.imatrix")
    for name, ours in zip(mixtures, write_files(conversions, tmp_path), strict=True):
        assert quantize_as_wished(folder / "f32.gguf", theirs, EVERY[name].file_type, wish) == 0
        assert ours.read_bytes() == theirs.read_bytes(), first_difference(ours, theirs, name)
        ours.unlink()


@pytest.mark.skipif(not is_installed(), reason="numba (the extra `fast`) is not installed")
def test_the_fast_kernels_weigh_errors_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some matrices of a type without an entry: the kernels are called both ways."""
    write_checkpoint(tmp_path / "model", Shape(hidden=256, heads=4, ffn=256))
    matrix = gathered(BOTH, 32)
    known = {name: sums for name, sums in matrix.entries.items() if "ffn_up" not in name}
    importance = Importance(replace(matrix, entries=known), "my.imatrix")
    conversion = prepare(tmp_path / "model", "Q6_K", importance=importance)
    choice = choose_quantizer(conversion.plan.tensors, "fast")
    assert "their bytes are llama.cpp's" in str(choice.note)
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 256 * 37)

    def data(path: Path) -> bytes:
        return path.read_bytes()[-conversion.plan.data_bytes :]

    plain = data(write_files([prepare(tmp_path / "model", "Q6_K")], tmp_path)[0])
    by_ggml = data(write_files([conversion], tmp_path)[0])
    assert data(write_files([conversion], tmp_path, choice.quantizer)[0]) == by_ggml != plain


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m-chat"
    write_checkpoint(folder, Shape(hidden=256, heads=4, ffn=512))
    return folder


FITS = Widths("fits", 256, 4, 512)
Edit = Callable[[dict[str, Sums]], object]


def edited(edit: Edit, widths: Widths = FITS, blocks: int = 32) -> Importance:
    matrix = gathered(widths, blocks)
    entries = dict(matrix.entries)
    edit(entries)
    return Importance(replace(matrix, entries=entries), "my.imatrix")


def sums(columns: int, value: float = 1.0) -> Sums:
    return Sums(np.full(columns, value, np.float32), 1)


@pytest.mark.parametrize("mixture", CALIBRATED_MIXTURES)
def test_without_a_matrix_the_low_mixtures_are_refused(mixture: str, model: Path) -> None:
    message = advised_refusal(prepare, model, mixture)
    assert "no use without an importance matrix" in message
    assert "`bq imatrix`" in message
    assert "--calibrate" in message


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda one: one.pop("blk.3.attn_q.weight"), "no entry for blk.3.attn_q.weight, which would be IQ2_XXS"),
        (
            lambda one: one.update({"blk.3.attn_v.weight": sums(255)}),
            "blk.3.attn_v.weight has rows of 256, and its entry there has 255",
        ),
        (
            lambda one: one.update({"blk.9.ffn_up.weight": sums(256, np.nan)}),
            "entry for blk.9.ffn_up.weight has values",
        ),
        (
            lambda one: one.update({"blk.9.ffn_up.weight": sums(256, np.inf)}),
            "entry for blk.9.ffn_up.weight has values",
        ),
        (lambda one: one.update({"blk.9.ffn_up.weight": sums(256, -1)}), "entry for blk.9.ffn_up.weight has values"),
        (lambda one: one.update({"blk.9.ffn_up.weight": sums(256, 1e30)}), "entry for blk.9.ffn_up.weight has values"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_by_the_tensors_name(edit: Edit, says: str, model: Path) -> None:
    message = advised_refusal(prepare, model, "IQ2_XXS", importance=edited(edit))
    assert message.startswith("my.imatrix does not fit: ")
    assert says in message


def test_a_matrix_of_another_model_is_refused(model: Path) -> None:
    wider = edited(lambda _: None, Widths("wider", 512, 4, 512))
    assert "blk.0.attn_k.weight has rows of 256, and its entry there has 512" in refusal(
        prepare, model, "Q4_K_M", importance=wider
    )

    def rename(entries: dict[str, Sums]) -> None:
        renamed = {f"other.{name}": one for name, one in entries.items()}
        entries.clear()
        entries.update(renamed)

    message = refusal(prepare, model, "Q4_K_M", importance=edited(rename))
    assert "none of its tensors is in this model, the first is 'other.blk.0.attn_k.weight'" in message


def test_what_llama_cpp_tolerates_is_told(model: Path) -> None:
    def edit(entries: dict[str, Sums]) -> None:
        del entries["blk.3.attn_q.weight"]
        entries["token_embd.weight"] = sums(7)  # llama.cpp passes over it
        entries["blk.99.attn_q.weight"] = sums(256)

    conversion = prepare(model, "Q4_K_M", importance=edited(edit))
    weighed = {one.name for one in conversion.plan.tensors if one.importance is not None}
    assert len(weighed) == 7 * 32 - 1
    assert "token_embd.weight" not in weighed
    knows, idle = conversion.importance_notes
    assert "knows nothing of 1 matrices, the first is blk.3.attn_q.weight" in knows
    assert "1 entries for tensors that this model has not, the first is 'blk.99.attn_q.weight'" in idle
    assert not prepare(model, "Q4_K_M", importance=edited(lambda _: None)).importance_notes


def test_a_matrix_that_is_still_to_come_decides_on_types_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    later = prepare(model, "Q5_0", importance=TO_COME)
    now = with_importance(later, edited(lambda _: None))
    assert later.plan == now.plan != prepare(model, "Q5_0").plan
    with pytest.raises(ValueError, match="still to be gathered"):
        convert(later, tmp_path / "out.gguf", 2)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("kind", "largest"), [(GgmlType.IQ3_S, 1e12), (GgmlType.IQ3_XXS, -1e30)])
def test_weights_that_end_llama_cpp_are_refused(kind: GgmlType, largest: float, tmp_path: Path) -> None:

    def edit(tensors: list[Stored]) -> list[Stored]:
        return [stored(t.name, np.full(t.shape, largest), "bf16") if "o_proj" in t.name else t for t in tensors]

    write_checkpoint(tmp_path / "m", Shape(hidden=256, heads=4, ffn=512), edit=edit)
    plan = TypePlan("mine", "Q4_0", {"*.attn_output.weight": kind})
    conversion = prepare(tmp_path / "m", "Q4_0", types=plan, importance=edited(lambda _: None))
    message = advised_refusal(convert, conversion, tmp_path / "out.gguf", 2)
    assert "blk.0.attn_output.weight has weights too large for its type" in message
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_keys_are_cut_as_llama_quantize_cuts_them_but_between_characters(model: Path, tmp_path: Path) -> None:
    matrix = replace(gathered(FITS, 32), datasets=("文" * 100,), chunks=0)
    conversion = prepare(model, "Q8_0", importance=Importance(matrix, "p" * 200))
    keys = read_gguf(write_files([conversion], tmp_path)[0]).metadata
    assert keys["quantize.imatrix.file"] == "p" * 127
    assert keys["quantize.imatrix.dataset"] == "文" * 42
    assert [*keys][-3:] == ["quantize.imatrix.file", "quantize.imatrix.dataset", "quantize.imatrix.entries_count"]
