"""A file as the old converters made it comes back to what a straight conversion of its checkpoint is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from bq.convert.convert import demo_checkpoint
from bq.convert.repair.head import SCALED, fold_rows
from bq.convert.repair.repair import OUTPUT_TYPES, RepairOptions, plan_repair, repair
from bq.runtime import ggml
from bq.runtime.evaluation.decoder import open_decoder
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import TensorEntry, read_gguf
from bq.runtime.known import file_warnings
from bq.runtime.loading import load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.values import LoadOptions
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import take_apart
from tests.support.old_converters import make_old

Convert = Callable[..., Path]
Floats = npt.NDArray[np.float32]
OUTPUT = "output.weight"
GREEDY = Sampling(temperature=0.0, repeat_penalty=1.0)
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
WIDE: dict[str, Any] = {"hidden": 256, "heads": 2, "ffn": 32}  # super-blocks of 256 fit


@dataclass(frozen=True)
class Trio:
    """A straight conversion, the old converter's file of the same checkpoint, and that one repaired."""

    straight: Path
    old: Path
    new: Path


@pytest.fixture(scope="module")
def trio(converted: Convert, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trio]:
    @cache
    def make(family: Family, mixture: str, is_wide: bool = False) -> Trio:
        straight = converted(family, mixture, **(WIDE if is_wide else SMALL))
        old = make_old(straight.parent / "checkpoint", tmp_path_factory.mktemp("old"), mixture, "mine-chat")
        before = old.read_bytes()
        new = mend(old)
        assert old.read_bytes() == before
        return Trio(straight, old, new)

    return make


def mend(path: Path, name: str = "new.gguf", **options: Any) -> Path:
    return repair(plan_repair(path, RepairOptions(**options)), path.with_name(name), threads=2, force=True).path


@cache
def tensors(path: Path) -> dict[str, tuple[int, bytes]]:
    return {one.name: (one.kind, one.data) for one in take_apart(path).tensors}


def divergence(path: Path, reference: Path) -> float:
    """The mean KL divergence of the next-token probabilities, in nats."""
    p, q = (_log_softmax(logits(one)) for one in (reference, path))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def logits(path: Path) -> Floats:
    ids = np.random.default_rng(3).integers(300, 700, 16).tolist()
    with open_decoder(path, 64, options=LoadOptions(threads=1)) as decoder:  # more threads wait for each other
        ((_, rows),) = decoder.logits(ids)
        return rows.copy()


def _log_softmax(rows: Floats) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    shifted: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return shifted


@pytest.mark.parametrize("family", ["b1-7b", "b2-13b"])
def test_an_unquantized_file_becomes_the_straight_conversion(trio: Callable[..., Trio], family: Family) -> None:
    files = trio(family, "F32")
    assert tensors(files.new) == tensors(files.straight)
    assert (tensors(files.new)[OUTPUT] != tensors(files.old)[OUTPUT]) == family.startswith("b2")
    assert file_warnings(read_gguf(files.new)) == ()


def test_f16_rows_become_those_of_a_straight_conversion_too() -> None:
    """The bf16 weights of a release are whole in float16, but for the smallest, whose steps of 2^-24 the norms then magnify."""
    rows = np.random.default_rng(4).standard_normal((64, 512), np.float32) * np.float32(0.02)
    rows = (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # bfloat16
    packed = ggml.quantize(GgmlType.F16, rows)
    folded = fold_rows(TensorEntry(OUTPUT, GgmlType.F16, (64, 512), 0, packed.nbytes), packed, GgmlType.F16)
    expected = (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)).astype(np.float16)
    found = folded.view(np.float16).reshape(64, 512)
    assert np.abs(found.astype(np.float32) - expected.astype(np.float32)).max() <= 2**-22
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize(
    ("family", "mixture", "is_wide", "kind"),
    [("b2-7b", "Q4_0", True, GgmlType.Q6_K), ("b2-13b", "Q8_0", False, GgmlType.Q8_0)],
)
def test_a_quantized_file_computes_what_a_straight_conversion_does(
    trio: Callable[..., Trio], family: Family, mixture: str, is_wide: bool, kind: GgmlType
) -> None:
    """Its quants are those of the raw rows and its scales are rounded to float16 twice, else it is the same file.

    The straight conversion itself diverges from F32 by 2.6e-3 in Q8_0, and by more in Q4_0: hundreds of times as much.
    """
    files = trio(family, mixture, is_wide)
    before, after, expected = tensors(files.old), tensors(files.new), tensors(files.straight)
    assert {name for name in before if before[name] != after[name]} == {OUTPUT}
    assert {name for name in after if after[name] != expected[name]} <= {OUTPUT}
    assert after[OUTPUT][0] == expected[OUTPUT][0] == kind
    healed, broken = divergence(files.new, files.straight), divergence(files.old, files.straight)
    print(f"{family} {mixture}: KL divergence from the straight conversion {broken:.2e} -> {healed:.2e}")
    assert healed < 1e-5 < 0.05 < broken


@pytest.mark.parametrize("kind", sorted(SCALED))
def test_folding_divides_the_scales_of_every_type(kind: GgmlType) -> None:
    """By gguf-py's own reading of the blocks: each row over its norm, but for float16's rounding of the scales."""
    rng = np.random.default_rng(kind)
    norms = np.exp2(rng.uniform(-3, 3, (40, 1)))
    packed = ggml.quantize(kind, (rng.standard_normal((40, 512)) / 512**0.5 * norms).astype(np.float32))
    entry = TensorEntry(OUTPUT, kind, (40, 512), 0, packed.nbytes)

    folded = fold_rows(entry, packed, kind)

    before, after = (
        gguf.quants.dequantize(one, gguf.GGMLQuantizationType(kind)).reshape(40, 512).astype(np.float64)
        for one in (packed, folded)
    )
    expected = before / np.linalg.norm(before, axis=1, keepdims=True)
    assert np.linalg.norm(after - expected, axis=1).max() < 2e-3
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=2e-3)


def test_scaling_loses_no_more_than_quantizing_again() -> None:
    """Beside the true rows, the error stays that of one quantization."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((64, 512)).astype(np.float32) * rng.uniform(0.5, 2, (64, 1)).astype(np.float32)
    truth = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def error(kind: GgmlType, packed: npt.NDArray[np.uint8]) -> float:
        return float(np.linalg.norm(ggml.dequantize(kind, packed, 512) - truth))

    for kind in (GgmlType.Q4_K, GgmlType.Q6_K, GgmlType.Q8_0):
        raw = ggml.quantize(kind, rows)
        scaled = fold_rows(TensorEntry(OUTPUT, kind, (64, 512), 0, raw.nbytes), raw, kind)
        wide = ggml.dequantize(kind, raw, 512)
        again = ggml.quantize(kind, wide / np.linalg.norm(wide, axis=1, keepdims=True).astype(np.float32))
        straight = error(kind, ggml.quantize(kind, truth))
        assert error(kind, scaled) < 1.02 * straight
        assert error(kind, scaled) <= error(kind, again) * 1.001


@pytest.mark.parametrize("kind", OUTPUT_TYPES)
def test_another_type_is_quantized_from_the_normalised_rows(kind: str) -> None:
    rows = np.random.default_rng(2).standard_normal((8, 512), np.float32) * 3
    packed = ggml.quantize(GgmlType.F32, rows)
    expected = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True).astype(np.float32)
    folded = fold_rows(TensorEntry(OUTPUT, GgmlType.F32, (8, 512), 0, packed.nbytes), packed, GgmlType[kind])
    np.testing.assert_allclose(
        ggml.dequantize(GgmlType[kind], folded, 512),
        ggml.dequantize(GgmlType[kind], ggml.quantize(GgmlType[kind], expected), 512),
        atol=2e-3,
    )


def test_the_output_may_get_another_type(trio: Callable[..., Trio], converted: Convert) -> None:
    """From F32 it is what a straight conversion to that type has."""
    straight, old = converted("b2-13b", "Q8_0", **SMALL), trio("b2-13b", "F32").old

    new = mend(old, "typed.gguf", output_type="Q8_0")

    assert tensors(new)[OUTPUT] == tensors(straight)[OUTPUT]
    before, after = tensors(old), tensors(new)
    assert {name for name in before if before[name] != after[name]} == {OUTPUT}


def test_the_demo_answers_as_after_a_straight_conversion(tmp_path: Path, demo_gguf: Path) -> None:
    old = make_old(demo_checkpoint(), tmp_path, "Q8_0", "demo-chat")

    def answers(path: Path) -> list[str]:
        with load(path, LoadOptions(threads=1)) as model:
            asked = [[Message("user", question)] for question in ("你是谁？", "What is bq?")]
            return ["".join(model.chat(one, sampling=GREEDY, max_tokens=12)) for one in asked]

    expected = answers(demo_gguf)
    assert answers(old) != expected
    assert answers(mend(old)) == expected


@pytest.mark.parametrize(
    ("family", "shape"),
    [*((family, {}) for family in FAMILIES), ("b2-7b", {"chat": False})],
)
def test_what_bq_made_needs_nothing(converted: Convert, family: Family, shape: dict[str, Any]) -> None:
    plan = plan_repair(converted(family, "Q8_0", **SMALL, **shape))
    assert not plan.is_needed
    assert [one.verdict for one in plan.findings] == ["note"] * len(plan.findings)


@pytest.mark.parametrize("family", ["b1-7b", "b2-13b"])
def test_the_keys_become_those_of_a_straight_conversion(trio: Callable[..., Trio], family: Family) -> None:
    """All but bq's own account of why; what only the old file has stays."""
    files = trio(family, "F32")
    found, expected = (
        {key.name: (key.kind, key.value) for key in take_apart(one).keys} for one in (files.new, files.straight)
    )

    unknown = {"baichuan.tensor_data_layout"}
    identity = {one for one in expected if one.startswith("general.") and not one.startswith("general.sampling")}
    own = {"bq.quantizer", *(f"bq.{one}.reason{ending}" for one in ("variant", "norm_head") for ending in ("", ".zh"))}
    assert found.keys() - expected.keys() == unknown
    assert expected.keys() - found.keys() <= identity | own
    groups = [one.split(".")[0] for one in found if one not in list(expected)[-2:]]
    assert sorted(groups, key=["general", "baichuan", "tokenizer", "bq"].index) == groups
    assert list(found)[-2:] == list(expected)[-2:]
    compared = found.keys() - unknown - identity - own
    assert {one: found[one] for one in compared} == {one: expected[one] for one in compared}
    assert b"repaired" in found["bq.norm_head.reason"][1]
