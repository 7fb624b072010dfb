"""LoRA adapters count in the estimate of memory, on the device where llama.cpp puts them: beside the matrices they change."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.convert.adapter.gguf import plan_adapter, write_adapter
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.errors import BqError
from bq.runtime.fit import Machine, plans
from bq.runtime.fit_advice import describe
from bq.runtime.gguf_file import read_gguf
from bq.runtime.host import Memory
from bq.runtime.loading import LoadOptions, choose, load
from bq.runtime.memory import HOST, MIB, Setting, Shape, estimate, shape_of
from bq.runtime.memory_report import reported_use
from bq.runtime.tensor_parts import Parts
from tests.support.adapters import write_adapter as make_adapter
from tests.support.families import Family, write_checkpoint
from tests.support.families import Shape as Made
from tests.support.workers import needs_rpc, run_apart, running

GIB = 1 << 30
TARGETS: dict[Family, tuple[str, ...]] = {
    "b2-7b": ("W_pack", "down_proj"),
    "b1-13b": ("o_proj", "up_proj", "embed_tokens", "lm_head"),
}
SEVEN = Shape(4096, 11008, 125696, 4096, 300 * MIB, 400 * MIB, (128 * MIB,) * 32, 292 / 256)
# Of rank 64 for all matrices of a 7B, in F32.
MINE = Parts(0, 0, (19 * MIB,) * 32, (0,) * 32, 0)
OTHER = Parts(30 * MIB, 31 * MIB, (MIB,) * 32, (0,) * 32, 0)
SPREAD = """
import json, sys
from bq.runtime.loading import load
from bq.runtime.values import LoadOptions
path, adapter, rpc = sys.argv[1:]
with load(path, LoadOptions(threads=1, ctx=256, gpu_layers=10, adapters=(adapter,), rpc=rpc)) as model:
    fit = model.fit
    print(json.dumps([(fit.plan.estimate.of(name).adapters, fit.used.of(name).adapters) for name in ("CPU", "RPC0")]))
"""


@pytest.fixture(scope="module", params=TARGETS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's file, and an adapter's for it."""
    family: Family = request.param
    folder = tmp_path_factory.mktemp("adapters")
    checkpoint = write_checkpoint(folder / "tiny", Made(family, hidden=128, heads=2, ffn=256, form="safetensors"))
    adapters = [read_adapter(make_adapter(folder / "mine", checkpoint, TARGETS[family], rank=16).folder)]
    model, adapter = folder / "model.gguf", folder / "adapter.gguf"
    convert(prepare(checkpoint.folder, "Q8_0"), model, threads=2)
    write_adapter(plan_adapter(prepare(checkpoint.folder, "Q8_0", adapters=adapters)), adapter)
    return model, adapter


@pytest.mark.parametrize("count", [0, 1, 2])
def test_what_they_take_is_foretold(files: tuple[Path, Path], count: int) -> None:
    model, adapter = files
    with load(model, LoadOptions(ctx=256, threads=1, gpu_layers=0, adapters=(f"{adapter}:0.5",) * count)) as loaded:
        predicted, used = loaded.fit.plan.estimate.of(HOST), loaded.fit.used.of(HOST)
        assert predicted.adapters == pytest.approx(used.adapters, rel=0.02)
        assert predicted.compute == pytest.approx(used.compute, rel=0.1)
        assert ("adapters" in describe(loaded.fit.plan)) == (count > 0)
    tensors = sum(one.size_bytes for one in read_gguf(adapter).tensors.values())
    assert predicted.adapters == count * tensors
    assert tensors > MIB // 2


def test_each_device_has_what_is_for_its_matrices(files: tuple[Path, Path], bq_command: Path) -> None:
    needs_rpc()
    with running(bq_command, 1) as workers:
        done = run_apart(SPREAD, *files, workers[0].endpoint)
    found = json.loads(done.stdout)
    assert all(used > MIB // 4 for _, used in found)
    for predicted, used in found:
        assert predicted == pytest.approx(used, rel=0.05)


@given(st.integers(0, 33), st.lists(st.sampled_from([MINE, OTHER]), max_size=3), st.integers(1, 3))
def test_none_of_it_is_lost_between_devices(layers: int, adapters: list[Parts], cards: int) -> None:
    gpus = [Device(f"CUDA{i}", "", "gpu", "CUDA", 8 * GIB, 8 * GIB) for i in range(cards)]
    found = estimate(replace(SEVEN, adapters=tuple(adapters)), Setting(512, gpu_layers=layers), gpus)
    assert sum(use.adapters for use in found.uses) == sum(a.embedding + a.output + sum(a.blocks) for a in adapters)
    assert found.of(HOST).adapters >= sum(one.embedding for one in adapters)


def test_fewer_layers_fit_on_a_gpu_with_them() -> None:
    gpu = Device("CUDA0", "", "gpu", "CUDA", 5 * GIB, 5 * GIB)
    on = Machine((gpu,), Memory(32 * GIB, 32 * GIB), Cores(8, 8))
    alone, adapted = (plans(replace(SEVEN, adapters=a), on, LoadOptions())[0] for a in ((), (MINE,) * 4))
    assert adapted.setting.gpu_layers < alone.setting.gpu_layers or adapted.setting.ctx < alone.setting.ctx
    assert adapted.estimate.of("CUDA0").total <= gpu.free_bytes


def test_the_report_has_a_line_for_each_device() -> None:
    log = "f:  CPU LoRA buffer size =   1.50 MiB\nf: CUDA0 LoRA buffer size =  20.00 MiB\n"
    used = reported_use(log, SEVEN)
    assert (used.of(HOST).adapters, used.of("CUDA0").adapters) == (MIB * 3 // 2, 20 * MIB)


def test_a_misfit_is_refused_before_anything_is_loaded(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, _ = files
    told: list[object] = []
    with pytest.raises(BqError, match="no LoRA adapter"):
        load(model, LoadOptions(ctx=256, adapters=(str(model),)), None, told.append)
    with pytest.raises(BqError):
        choose(read_gguf(model), Machine((), Memory(0, 0), Cores(1, 1)), LoadOptions(adapters=(str(tmp_path / "no"),)))
    assert told == []
    assert shape_of(read_gguf(model)).adapters == ()
