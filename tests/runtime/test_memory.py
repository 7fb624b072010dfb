"""The estimate of memory is what llama.cpp then takes, by device, and its report is read as it stands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.devices import Device
from bq.runtime.gguf_file import read_gguf
from bq.runtime.loading import LoadOptions, load
from bq.runtime.memory import (
    HOST,
    MIB,
    Setting,
    Shape,
    estimate,
    homes_of_layers,
    kv_bytes,
    shape_of,
)
from bq.runtime.memory_report import device_of_buffer, reported_use
from tests.support.families import FAMILIES, Family

Convert = Callable[..., Path]
SMALL: dict[str, Any] = {"hidden": 256, "heads": 4, "ffn": 704}
GIB = 1 << 30


def gpu(name: str, free: int = 8 * GIB) -> Device:
    return Device(name, "", "gpu", "CUDA", free, free)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("ctx", "kv", "batch", "n_seq"),
    [(512, "f16", 512, 1), (1000, "q8_0", 128, 8), (4096, "q8_0", 512, 1), (4096, "f16", 64, 1)],
)
def test_every_part_is_what_llama_cpp_takes(
    converted: Convert, family: Family, ctx: int, kv: str, batch: int, n_seq: int
) -> None:
    path = converted(family, "Q8_0", **SMALL)
    with load(path, LoadOptions(ctx=ctx, kv=kv, batch=batch, n_seq=n_seq, threads=1)) as model:
        predicted, used = model.fit.plan.estimate.of(HOST), model.fit.used.of(HOST)
    assert predicted.weights == pytest.approx(used.weights, rel=0.02)
    assert predicted.kv == pytest.approx(used.kv, rel=0.001, abs=MIB / 100)  # the log has two decimals of MiB
    assert predicted.compute == pytest.approx(used.compute, rel=0.10)


def test_the_shape_is_the_files(converted: Convert) -> None:
    path = converted("b2-7b", "Q8_0", **SMALL)
    file = read_gguf(path)
    shape = shape_of(file)
    assert (shape.hidden, shape.ffn, shape.vocab, shape.trained, len(shape.blocks)) == (256, 704, 704, 4096, 32)
    assert shape.weights == sum(tensor.size_bytes for tensor in file.tensors.values())
    assert shape.embedding == file.tensors["token_embd.weight"].size_bytes
    assert set(shape.blocks) == {
        sum(tensor.size_bytes for name, tensor in file.tensors.items() if name.startswith("blk.7."))
    }


SEVEN = Shape(4096, 11008, 125696, 4096, 300 * MIB, 400 * MIB, (128 * MIB,) * 32, 292 / 256)


def test_the_kv_cache_of_a_7b_takes_half_a_mib_per_token() -> None:
    """512 KiB in f16; q8_0 stores 32 values in 34 bytes."""
    assert kv_bytes(SEVEN, 1, "f16") == 512 << 10
    assert kv_bytes(SEVEN, 4096, "q8_0") == (2 * GIB) * 34 // 64


def test_few_outputs_keep_the_compute_buffer_small() -> None:
    """The logits of 512 positions of a vocabulary of 125,696 would be 245 MiB."""
    few, all_ = (estimate(SEVEN, Setting(4096, outputs=outputs)).of(HOST).compute for outputs in (32, 512))
    assert few < 105 * MIB
    assert all_ > 245 * MIB


def test_the_last_layers_go_to_the_gpus_by_their_free_memory() -> None:
    gpus = (gpu("A", 3 * GIB), gpu("B", GIB))
    homes = homes_of_layers(32, 16, gpus)
    assert homes == [HOST] * 17 + ["A"] * 12 + ["B"] * 4
    assert homes_of_layers(32, 33, gpus).count(HOST) == homes_of_layers(32, 999, gpus).count(HOST) == 0
    assert homes_of_layers(32, 0, gpus) == homes_of_layers(32, 33, ()) == [HOST] * 33
    assert homes_of_layers(32, 1, gpus)[-1] == "A"


@given(
    layers=st.integers(0, 40),
    kv=st.sampled_from(["f16", "q8_0"]),
    ctx=st.integers(1, 4096),
    free=st.lists(st.integers(1, 80), max_size=4),
)
def test_no_weight_and_no_key_is_lost_between_devices(layers: int, kv: str, ctx: int, free: list[int]) -> None:
    gpus = [gpu(f"CUDA{i}", size * GIB) for i, size in enumerate(free)]
    found = estimate(SEVEN, Setting(ctx, kv, gpu_layers=layers), gpus)
    assert sum(use.weights for use in found.uses) == SEVEN.weights
    assert sum(use.kv for use in found.uses) == kv_bytes(SEVEN, -(-ctx // 256) * 256, kv)
    assert found.of(HOST).weights >= SEVEN.embedding
    assert len({use.device for use in found.uses}) == len(found.uses)


# The forms of llama.cpp's log: llama-model.cpp, llama-kv-cache.cpp, llama-context.cpp.


def report(*buffers: tuple[str, str, float]) -> str:
    return "".join(f"some_function: {name:>12} {what} buffer size = {mib:8.2f} MiB\n" for name, what, mib in buffers)


def test_a_report_of_a_gpu_and_the_host() -> None:
    log = report(
        ("CPU_Mapped", "model", 300),
        ("CUDA0", "model", 4496),
        ("CUDA0", "KV", 2048),
        ("CUDA0", "compute", 100.5),
        ("CUDA_Host", "compute", 16),
    )
    used = reported_use("unrelated\n" + log + "output buffer of another kind", SEVEN)
    assert (used.of("CUDA0").weights, used.of("CUDA0").kv) == (4496 * MIB, 2048 * MIB)
    assert (used.of(HOST).weights, used.of(HOST).compute) == (300 * MIB, 16 * MIB)
    assert used.of(HOST).kv == used.of("CUDA1").total == 0


def test_a_mapped_buffer_counts_only_what_lies_nowhere_else() -> None:
    """It spans the file from its first to its last tensor; repacked weights, or those on a Mac's GPU, lie between."""
    repacked = reported_use(report(("CPU_Mapped", "model", 4796), ("CPU_REPACK", "model", 4000)), SEVEN)
    assert repacked.of(HOST).weights == SEVEN.weights
    mac = reported_use(report(("CPU_Mapped", "model", 300), ("MTL0_Mapped", "model", 4796)), SEVEN)
    assert (mac.of(HOST).weights, mac.of("MTL0").weights) == (300 * MIB, 4496 * MIB)


@pytest.mark.parametrize(
    ("buffer", "device"),
    [
        ("CPU", HOST),
        ("CPU_Mapped", HOST),
        ("CPU_REPACK", HOST),
        ("CUDA_Host", HOST),
        ("CUDA1", "CUDA1"),
        ("MTL0_Private", "MTL0"),
    ],
)
def test_the_device_of_a_buffer(buffer: str, device: str) -> None:
    assert device_of_buffer(buffer) == device


@given(st.text(alphabet="CPU_Mapped model buffer size = 0123456789.\nKVMiB:", max_size=200))
def test_a_log_of_any_form_is_no_error(log: str) -> None:
    assert reported_use(log, SEVEN).total >= 0
