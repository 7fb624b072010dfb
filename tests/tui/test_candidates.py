"""What the picker is told of a model: how it would be loaded if the one that is loaded now made room."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.evaluation.figures import Figures, describe, figures_path, store_figures
from bq.runtime.fit import LoadOptions, Machine
from bq.runtime.host import Memory
from bq.runtime.memory import HOST, MIB, Estimate, Use
from bq.tui.candidates import examine, freed, held_by

Convert = Callable[..., Path]
GPU = Device("CUDA0", "a card", "gpu", "CUDA", 8000, 3000)
SHARED = Device("MTL0", "a chip", "gpu", "MTL", 8000, 3000)
MACHINE = Machine((GPU,), Memory(10_000, 4000), Cores(4, 4))
LOG = """
load_tensors:   CPU_Mapped model buffer size =   100.00 MiB
load_tensors:   CPU_REPACK model buffer size =    40.00 MiB
load_tensors:        CUDA0 model buffer size =    60.00 MiB
llama_kv_cache:        CPU KV buffer size =    16.00 MiB
"""


def loaded(mlock: bool = False) -> Any:
    uses = (Use(HOST, 90 * MIB, 16 * MIB, 8 * MIB), Use("CUDA0", 60 * MIB, 4 * MIB))
    return SimpleNamespace(used=Estimate(uses), plan=SimpleNamespace(mlock=mlock))


def test_mapped_weights_are_free_already_and_all_else_that_is_held_is_not() -> None:
    assert held_by(loaded(), LOG) == {HOST: (16 + 8 + 40) * MIB, "CUDA0": 64 * MIB}
    assert held_by(loaded(mlock=True), LOG) == {HOST: (16 + 8 + 140) * MIB, "CUDA0": 64 * MIB}


def test_what_is_held_is_free_on_its_device_and_on_the_host_where_the_two_share() -> None:
    after = freed(MACHINE, {HOST: 500, "CUDA0": 1000})
    assert (after.memory.available_bytes, after.devices[0].free_bytes) == (4500, 4000)
    shared = freed(replace(MACHINE, devices=(SHARED,)), {HOST: 500, "MTL0": 1000})
    assert (shared.memory.available_bytes, shared.devices[0].free_bytes) == (5500, 4000)


@given(st.dictionaries(st.sampled_from([HOST, "CUDA0", "other"]), st.integers(0, 1 << 50)))
def test_no_more_is_free_than_there_is(held: dict[str, int]) -> None:
    after = freed(MACHINE, held)
    assert 4000 <= after.memory.available_bytes <= after.memory.total_bytes
    assert 3000 <= after.devices[0].free_bytes <= after.devices[0].total_bytes


def on_machine_with(monkeypatch: pytest.MonkeyPatch, total: int, available: int) -> None:
    machine = Machine((), Memory(total, available), MACHINE.cores)
    monkeypatch.setattr("bq.runtime.loading.this_machine", lambda *_: machine)


def test_a_model_fits_if_the_loaded_one_makes_room(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = converted("b2-7b", "Q8_0"), LoadOptions(ctx=256, kv="f16")
    on_machine_with(monkeypatch, 1 << 40, 1 << 40)
    (known,) = examine([path], options, {})
    need = known.estimate_bytes
    assert (known.path, known.mixture, known.size_bytes, known.context) == (path, "Q8_0", path.stat().st_size, 256)
    assert (known.fits, known.error, known.free_bytes) == (True, "", 1 << 40)
    on_machine_with(monkeypatch, 4 * need, need // 2)
    (full,) = examine([path], options, {})
    (room,) = examine([path], options, {HOST: need})
    assert full == replace(known, fits=False, free_bytes=need // 2, plan=full.plan), "the figures stay"
    assert room == replace(known, free_bytes=need // 2 + need, plan=room.plan)


def test_the_measured_quality_comes_with_the_model(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    path = converted("b2-7b", "Q8_0")
    on_machine_with(monkeypatch, 1 << 40, 1 << 40)
    (unmeasured,) = examine([path], LoadOptions(), {})
    measured = Figures(
        8.2149, 0.05, 4096, 512, "bundled", "0" * 64, against="F16", kl_mean=0.01234, kl_mean_error=0.001
    )
    try:
        store_figures(path, measured)
        (known,) = examine([path], LoadOptions(), {})
    finally:
        figures_path(path).unlink()  # the file is shared with other tests
    assert unmeasured.quality == ""
    assert known == replace(unmeasured, quality=describe(measured))
    assert "KL 0.0123" in known.quality


def test_what_is_no_model_says_why(tmp_path: Path, converted: Convert) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + b"\xff" * 40)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    paths = [damaged, tmp_path / "none.gguf", tmp_path, tmp_path / "checkpoint"]
    found = examine(paths, LoadOptions(), {})
    assert [one.path for one in found] == paths
    assert all(one.error and not one.fits for one in found)
    assert "bq convert" in found[3].error
    (wrong,) = examine([converted("b2-7b", "Q8_0")], LoadOptions(device="CUDA7"), {})
    assert wrong.error.startswith("There is no device CUDA7.")
