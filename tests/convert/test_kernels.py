"""The kernels' bytes are those of ggml_quantize_chunk, block for block, whatever the weights; skipped where numba is absent."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert import kernel_calls, write
from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import read_config
from bq.convert.convert import demo_checkpoint
from bq.convert.kernel_calls import HAVE_KERNELS, Kernel, load_kernels, rows_in_memory
from bq.convert.mixture import find_mixture
from bq.convert.plan import Plan, make_plan
from bq.convert.quantizer import GGML, Quantizer
from bq.convert.rows import Rows
from bq.convert.write import Target, write_tensors
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType
from tests.support.blocks import IMPORTANCE, WEIGHTS
from tests.support.families import Shape, write_checkpoint
from tests.support.stored import F32
from tests.support.thinned import thinned

pytest.importorskip("numba", reason="numba (the extra `fast`) is not installed")
KINDS = sorted(HAVE_KERNELS)
COLUMNS = 768  # three super-blocks to a row: groups of sixteen begin and end inside rows


@pytest.fixture(scope="session")
def kernels() -> dict[GgmlType, Kernel]:
    return dict(load_kernels(KINDS, with_importance=True).kernels) | dict(load_kernels(KINDS).kernels)


def by_ggml(kind: GgmlType, rows: F32, importance: F32 | None) -> "np.typing.NDArray[np.uint8]":
    return ggml.quantize(kind, np.ascontiguousarray(rows), importance)


def by_kernel(kernel: Kernel, kind: GgmlType, rows: F32, importance: F32 | None) -> "np.typing.NDArray[np.uint8]":
    packed = kernel_calls.quantize(kernel, kind, rows_in_memory(rows), importance, lambda: rows)
    assert packed is not None
    return packed


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_bytes_are_ggmls(kind: GgmlType, weights: str, importance: str, kernels: dict[GgmlType, Kernel]) -> None:
    rng = np.random.default_rng([KINDS.index(kind), *weights.encode()])
    rows = WEIGHTS[weights](rng, (37, COLUMNS))
    imp = IMPORTANCE[importance](rng, COLUMNS)
    found, expected = by_kernel(kernels[kind], kind, rows, imp), by_ggml(kind, rows, imp)
    width, size = ggml.block_size(kind)
    different = np.flatnonzero((found.reshape(-1, size) != expected.reshape(-1, size)).any(axis=1))
    assert not different.size, (different.size, rows.reshape(-1, width)[different[0]])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_ordinary_weights_are_not_left_to_ggml(kind: GgmlType, kernels: dict[GgmlType, Kernel]) -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_t(4, (512, COLUMNS)) * 0.02).astype(np.float32)
    found = kernel_calls._call(kernels[kind], kind, rows_in_memory(rows), None, None)
    assert found is not None
    assert found[1].mean() < 0.001


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_finite_floats(kernels: dict[GgmlType, Kernel], data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS), "type")
    seed = data.draw(st.integers(0, 2**32), "seed")
    low = data.draw(st.integers(-44, 36), "smallest size, a power of ten")
    high = data.draw(st.integers(low, 37), "largest size")
    rng = np.random.default_rng(seed)
    rows = (rng.choice([-1, 0, 1], (18, 256), p=[0.45, 0.1, 0.45]) * 10.0 ** rng.uniform(low, high, (18, 256))).astype(
        np.float32
    )
    imp = data.draw(st.sampled_from([None, rng.uniform(0, 2, 256).astype(np.float32)]), "importance")
    assert np.array_equal(by_kernel(kernels[kind], kind, rows, imp), by_ggml(kind, rows, imp))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_are_read_from_every_type_at_any_address(
    kind: GgmlType, dtype: str, kernels: dict[GgmlType, Kernel]
) -> None:
    """All 65,536 half floats that are finite among them, denormals too."""
    rng = np.random.default_rng(3)
    if dtype == "f32":
        source = rng.standard_normal((64, 1024), np.float32)
        wide = source.copy()
    elif dtype == "f16":
        source = rng.permutation(np.arange(1 << 16).astype(np.uint16)).view(np.float16).reshape(64, 1024)
        source = np.where(np.isfinite(source), source, np.float16(0)).astype(np.float16)
        wide = source.astype(np.float32)
    else:
        source = (rng.standard_normal((64, 1024), np.float32).view(np.uint32) >> 16).astype(np.uint16)
        wide = (source.astype(np.uint32) << 16).view(np.float32)
    shifted = np.zeros(source.nbytes + 1, np.uint8)
    shifted[1:] = source.view(np.uint8).ravel()
    order = rng.permutation(64)
    addresses = shifted.ctypes.data + 1 + order.astype(np.int64) * source.strides[0]
    numbers = {"f32": GgmlType.F32, "f16": GgmlType.F16, "bf16": GgmlType.BF16}
    rows = Rows(addresses, numbers[dtype], 1024, False, shifted)
    wide = np.ascontiguousarray(wide[order])
    packed = kernel_calls.quantize(kernels[kind], kind, rows, None, lambda: wide)
    assert packed is not None
    assert np.array_equal(packed, by_ggml(kind, wide, None))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_weight_that_is_not_finite_is_found_wherever_it_stands(
    kind: GgmlType, bad: float, dtype: str, kernels: dict[GgmlType, Kernel]
) -> None:
    rng = np.random.default_rng(4)
    for row, column in (
        (0, 0),
        (4, 255),
        (16, COLUMNS - 1),
        *zip(rng.integers(0, 17, 5), rng.integers(0, COLUMNS, 5), strict=True),
    ):
        wide = rng.standard_normal((17, COLUMNS), np.float32)
        wide[row, column] = bad
        source = {
            "f32": wide,
            "f16": wide.astype(np.float16),
            "bf16": (wide.view(np.uint32) >> 16).astype(np.uint16),
        }[dtype]
        addresses = source.ctypes.data + np.arange(17, dtype=np.int64) * source.strides[0]
        rows = Rows(
            addresses, {"f32": GgmlType.F32, "f16": GgmlType.F16, "bf16": GgmlType.BF16}[dtype], COLUMNS, False, source
        )
        assert kernel_calls.quantize(kernels[kind], kind, rows, None, lambda: wide) is None  # noqa: B023


def plan_of(folder: Path, mixture: str) -> Plan:
    checkpoint = open_checkpoint(folder)
    return make_plan(checkpoint, read_config(checkpoint), find_mixture(mixture), fold_norm_head=True)


def written(plan: Plan, quantizer: Quantizer, threads: int = 2) -> bytes:
    out = io.BytesIO()
    write_tensors([Target(plan, out, quantizer)], threads, lambda _: None)
    return out.getvalue()


@pytest.mark.parametrize("mixture", ["Q4_K_M", "Q5_K_S", "Q3_K_L", "Q2_K", "Q6_K", "IQ4_XS", "IQ4_NL"])
def test_the_demo_checkpoints_file_is_ggmls(mixture: str, kernels: dict[GgmlType, Kernel]) -> None:
    """Real weights, NormHead and RoPE order on the way in."""
    plan = thinned(plan_of(demo_checkpoint(), mixture))
    assert any(one.normalise for one in plan.tensors)
    assert written(plan, Quantizer(kernels)) == written(plan, GGML)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_threads_and_chunks_change_no_byte(
    dtype: str, kernels: dict[GgmlType, Kernel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, Shape(hidden=256, heads=4, ffn=512, dtype=dtype))  # type: ignore[arg-type]
    plan = thinned(plan_of(tmp_path, "Q4_K_M"))
    expected = written(plan, GGML)
    for chunk, threads in ((256 * 37, 3), (256 * 100, 2), (1 << 30, 1)):
        monkeypatch.setattr(write, "CHUNK_WEIGHTS", chunk)
        assert written(plan, Quantizer(kernels), threads) == expected, (chunk, threads)


def test_columns_with_gaps_are_copied(kernels: dict[GgmlType, Kernel], tmp_path: Path) -> None:
    from tests.support.stored import Stored

    def edit(tensors: list[Stored]) -> list[Stored]:
        def turned(one: Stored) -> Stored:
            return Stored(one.name, one.shape, one.storage, 0, (1, one.shape[0])) if "o_proj" in one.name else one

        return [turned(one) for one in tensors]

    write_checkpoint(tmp_path, Shape(hidden=256, heads=4, ffn=256), edit=edit)
    plan = plan_of(tmp_path, "Q4_K_M")
    assert plan.tensors[5].source.strides == (1, 256)
    assert written(plan, Quantizer(kernels)) == written(plan, GGML)


def test_an_error_names_the_tensor_and_the_row(kernels: dict[GgmlType, Kernel], tmp_path: Path) -> None:
    from tests.convert.test_write import spoiled

    edit = spoiled("model.layers.3.self_attn.W_pack.weight", 300, 9, np.inf)
    write_checkpoint(tmp_path, Shape(hidden=256, heads=4, ffn=256), edit=edit)  # type: ignore[arg-type]
    with pytest.raises(BqError, match=r"layers\.3\.self_attn\.W_pack\.weight in .*, row 300, column 9 is inf"):
        written(plan_of(tmp_path, "Q4_K_M"), Quantizer(kernels))
