"""Bytes depend on the plan alone, not on threads or chunks; a weight that is no number stops the work by name."""

import io
from pathlib import Path

import numpy as np
import pytest

from bq.convert import write
from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import read_config
from bq.convert.mixture import find_mixture
from bq.convert.plan import Plan, make_plan
from bq.convert.rows import normalise_rows
from bq.convert.write import Progress, Target, write_tensors
from bq.runtime.errors import BqError
from tests.support.families import Shape, write_checkpoint
from tests.support.refusals import refusal
from tests.support.stored import F32, Stored, storage_of, stored
from tests.support.thinned import thinned

SMALL = Shape(hidden=64, heads=4, ffn=96)


def plan_of(folder: Path, mixture: str = "F32", fold: bool = True) -> Plan:
    checkpoint = open_checkpoint(folder)
    return make_plan(checkpoint, read_config(checkpoint), find_mixture(mixture), fold)


def written(plan: Plan, threads: int = 2) -> bytes:
    out = io.BytesIO()
    write_tensors([Target(plan, out)], threads, lambda _: None)
    return out.getvalue()


def tensors_of(plan: Plan, data: bytes) -> dict[str, F32]:
    return {
        one.name: np.frombuffer(data, np.float32, one.weights, one.offset).reshape(one.shape) for one in plan.tensors
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("write")
    write_checkpoint(path, SMALL)
    return path


@pytest.mark.parametrize("mixture", ["F32", "BF16", "Q4_K_M", "IQ4_NL"])
def test_threads_and_chunks_change_no_byte(mixture: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(folder, mixture)
    assert len(written(plan, 1)) == plan.data_bytes
    plan = thinned(plan)
    expected = written(plan, 1)
    for chunk, threads in ((1, 3), (64 * 7, 1), (64 * 7, 5), (1 << 12, 16), (1 << 30, 2)):
        monkeypatch.setattr(write, "CHUNK_WEIGHTS", chunk)
        assert written(plan, threads) == expected, (chunk, threads)


def test_every_tensor_holds_the_checkpoints_values(folder: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, SMALL)
    plan = plan_of(folder)
    found = tensors_of(plan, written(plan))
    packed = source["model.layers.5.self_attn.W_pack.weight"]
    q, k, v = packed[:64], packed[64:128], packed[128:]
    for name, w in (("q", q), ("k", k)):  # llama.cpp's converter: w.reshape(heads, 2, d/2, H).swapaxes(1, 2)
        expected = w.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
        assert np.array_equal(found[f"blk.5.attn_{name}.weight"], expected)
    assert np.array_equal(found["blk.5.attn_v.weight"], v)
    assert np.array_equal(found["blk.31.ffn_down.weight"], source["model.layers.31.mlp.down_proj.weight"])
    assert np.array_equal(found["output_norm.weight"], source["model.norm.weight"])
    head = source["lm_head.weight"].astype(np.float64)
    exact = head / np.linalg.norm(head, axis=1, keepdims=True)
    assert np.abs(found["output.weight"] / exact - 1).max() < 2e-7


def test_without_a_fold_the_output_is_as_it_was(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, fold=False)
    found = tensors_of(plan, written(plan))["output.weight"]
    assert np.array_equal(found, write_checkpoint(tmp_path, SMALL)["lm_head.weight"])


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_normalised_rows_are_within_rounding_of_a_float64_oracle(scale: float) -> None:
    rows = (np.random.default_rng(1).standard_normal((50, 301)) * scale).astype(np.float32)
    wide = rows.astype(np.float64)
    exact = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    normalise_rows(rows)
    assert np.allclose(rows, exact, rtol=2e-7, atol=0)


def test_a_row_of_zeros_stays_zero() -> None:
    rows = np.zeros((2, 8), np.float32)
    normalise_rows(rows)
    assert not rows.any()


def spoiled(name: str, row: int, column: int, value: float) -> "object":
    """An edit for write_checkpoint that puts one bad value into a tensor."""

    def edit(tensors: list[Stored]) -> list[Stored]:
        result = []
        for one in tensors:
            if one.name == name:
                values = np.ones(one.shape, "<f4")
                values[(row, column) if values.ndim == 2 else column] = value
                bits = (values.view("<u4") >> 16).astype("<u2").tobytes()
                storage = storage_of(values, "bf16")
                one = Stored(name, one.shape, type(storage)("bf16", values.size, lambda bits=bits: [bits]))
            result.append(one)
        return result

    return edit


@pytest.mark.parametrize("mixture", ["F32", "BF16", "Q4_K_M", "Q8_0"])
@pytest.mark.parametrize(
    ("name", "row", "column", "value"),
    [
        ("model.layers.3.self_attn.W_pack.weight", 64 + 37, 5, np.nan),
        ("model.layers.3.self_attn.W_pack.weight", 3, 63, np.inf),
        ("lm_head.weight", 700, 0, -np.inf),
        ("model.norm.weight", 0, 9, np.nan),
    ],
)
def test_a_weight_that_is_no_number_is_named(
    name: str, row: int, column: int, value: float, mixture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, SMALL, edit=spoiled(name, row, column, value))  # type: ignore[arg-type]
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 64 * 10)
    message = refusal(written, plan_of(tmp_path, mixture))
    assert f"{name} in pytorch_model.bin, row {row}, column {column} is {value}." in message


def test_tensors_of_one_storage_and_strided_ones_are_read_in_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    both, turned = rng.standard_normal((2, 96, 64)), rng.standard_normal((96, 64))
    shared, other = storage_of(both, "bf16"), storage_of(turned, "f16")
    new = {
        "model.layers.0.mlp.gate_proj.weight": Stored("", (96, 64), shared),
        "model.layers.0.mlp.up_proj.weight": Stored("", (96, 64), shared, offset=96 * 64),
        "model.layers.0.mlp.down_proj.weight": Stored("", (64, 96), other, strides=(1, 64)),
    }

    def edit(tensors: list[Stored]) -> list[Stored]:
        made = {k: Stored(k, v.shape, v.storage, v.offset, v.strides) for k, v in new.items()}
        return [made.get(one.name, one) for one in tensors]

    write_checkpoint(tmp_path, SMALL, edit=edit)
    plan = plan_of(tmp_path)
    found = tensors_of(plan, written(plan))
    for part, expected, tolerance in (("gate", both[0], 0.01), ("up", both[1], 0.01), ("down", turned.T, 0.001)):
        assert np.allclose(found[f"blk.0.ffn_{part}.weight"], expected, rtol=tolerance, atol=1e-4)


def test_a_safetensors_file_at_odd_bytes_gives_the_same(folder: Path, tmp_path: Path) -> None:
    import json

    write_checkpoint(tmp_path, Shape(hidden=64, heads=4, ffn=96, form="safetensors"))
    path = tmp_path / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length])).encode()
    header += b" " * (1 - len(header) % 2)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    plan = plan_of(tmp_path)
    assert not plan.tensors[0].source.view().flags.aligned
    assert written(plan) == written(plan_of(folder))


def test_progress_is_told_in_order_and_ends_at_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 64 * 50)
    plan, told = plan_of(folder, "Q8_0"), list[Progress]()
    write_tensors([Target(plan, io.BytesIO())], 3, told.append)
    assert [one.weights_done for one in told] == sorted(one.weights_done for one in told)
    assert (told[-1].weights_done, told[-1].bytes_written) == (plan.weights, plan.data_bytes)
    assert list(dict.fromkeys(one.tensor for one in told)) == [tensor.name for tensor in plan.tensors]


def test_an_error_of_the_disk_passes_through_and_ends_the_threads(folder: Path) -> None:
    import threading

    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_tensors([Target(plan_of(folder), Full())], 4, lambda _: None)
    assert not any(thread.name.startswith("quantize") for thread in threading.enumerate())


def test_memory_is_a_few_chunks_whatever_the_tensors_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    big = stored("x", np.zeros(1))
    assert big.numel == 1
    write_checkpoint(tmp_path, Shape(hidden=64, heads=4, ffn=4096))
    monkeypatch.setattr(write, "CHUNK_WEIGHTS", 1 << 14)
    plan = plan_of(tmp_path, "Q8_0")
    with open("/dev/null", "wb") as out:
        tracemalloc.start()
        write_tensors([Target(plan, out)], 2, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 3_000_000


def test_the_error_is_the_first_in_the_files_order(tmp_path: Path) -> None:
    def edit(tensors: list[Stored]) -> list[Stored]:
        first = spoiled("model.layers.0.mlp.up_proj.weight", 1, 1, np.nan)(tensors)  # type: ignore[operator]
        return spoiled("model.layers.9.mlp.up_proj.weight", 1, 1, np.nan)(first)  # type: ignore[operator, no-any-return]

    write_checkpoint(tmp_path, SMALL, edit=edit)
    with pytest.raises(BqError, match=r"layers\.0\."):
        written(plan_of(tmp_path), 8)


def test_every_tensor_lies_at_its_planned_offset_though_sizes_are_odd(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, Shape(hidden=66, heads=3, ffn=33))
    plan = plan_of(tmp_path)
    assert any(tensor.size_bytes % 32 for tensor in plan.tensors)
    found = tensors_of(plan, written(plan))
    for block in (0, 31):
        assert np.array_equal(found[f"blk.{block}.ffn_up.weight"], source[f"model.layers.{block}.mlp.up_proj.weight"])
