"""Which experts stay in main memory: the choice on machines that are not here, and what llama.cpp is told of it."""

import ctypes
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.experts import layers_relieved, overrides
from bq.runtime.fit import LoadOptions, Machine, plans, settings, smallest_plan
from bq.runtime.fit_advice import amount, describe, reasons, refusal
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.host import Memory
from bq.runtime.loading import load
from bq.runtime.memory import HOST, MIB, Setting, Shape, estimate, homes_of_layers, shape_of
from bq.runtime.values import EVERY_LAYER
from tests.support.qwen_gguf import QwenShape, write_qwen

GIB = 1 << 30
CPU = Device("CPU", "", "cpu", "CPU", 0, 0)
BLOCKS = 94
# Baichuan-M3-235B in about Q4_K_M: 137 GiB, of which 131 are experts.
M3 = Shape(
    4096, 1536, 151936, 131072, 334 * MIB, 487 * MIB, (1480 * MIB,) * BLOCKS, 292 / 256, 8192, 512, 128, 8,
    expert_blocks=(1430 * MIB,) * BLOCKS, widest_expert=630 * MIB,
)  # fmt: skip
AS_BQ_CHOOSES = LoadOptions()


def machine(ram: float, *cards: float) -> Machine:
    """With 90 % of its memory free, and 95 % of each card's."""
    gpus = [Device(f"CUDA{i}", "", "gpu", "CUDA", int(t * GIB), int(0.95 * t * GIB)) for i, t in enumerate(cards)]
    return Machine((*gpus, CPU), Memory(int(ram * GIB), int(0.9 * ram * GIB)), Cores(16, 8))


def best(on: Machine, options: LoadOptions = AS_BQ_CHOOSES, shape: Shape = M3) -> Setting:
    return plans(shape, on, options)[0].setting


@pytest.mark.parametrize(
    ("on", "layers", "experts", "kv"),
    [
        (machine(192, 160), 95, 0, "f16"),
        (machine(192, 80), 95, 48, "q8_0"),
        (machine(192, 24), 95, 86, "q8_0"),
        (machine(192, 24, 24), 95, 73, "q8_0"),
        (machine(96, 48, 48), 95, 40, "q8_0"),
        (machine(192, 16), 95, 91, "q8_0"),
        (machine(192, 8), 58, 94, "q8_0"),  # no room for the dense rest of all layers
        (machine(192), 0, 0, "f16"),
    ],
)
def test_experts_leave_the_gpu_before_whole_layers_do(on: Machine, layers: int, experts: int, kv: str) -> None:
    chosen = best(on)
    assert (chosen.gpu_layers, chosen.cpu_experts, chosen.kv, chosen.ctx) == (layers, experts, kv, 32768)


def test_one_layer_more_of_experts_would_not_fit() -> None:
    on = machine(192, 24)
    chosen = plans(M3, on, AS_BQ_CHOOSES)[0]
    one_more = estimate(M3, replace(chosen.setting, cpu_experts=chosen.setting.cpu_experts - 1), on.devices[:1])
    assert one_more.of("CUDA0").total - chosen.estimate.of("CUDA0").total == 1430 * MIB
    assert one_more.of("CUDA0").total > on.devices[0].free_bytes - GIB


def test_what_is_given_is_obeyed() -> None:
    small = machine(192, 24)
    assert best(small, LoadOptions(cpu_experts=EVERY_LAYER)).cpu_experts == BLOCKS
    assert best(small, LoadOptions(cpu_experts=90)).cpu_experts == 90
    kept = best(small, LoadOptions(cpu_experts=0))
    assert (kept.cpu_experts, kept.gpu_layers) == (0, 14)
    assert best(small, LoadOptions(gpu_layers=99)) == best(small)
    assert best(machine(192, 4), LoadOptions(gpu_layers=99)).cpu_experts == BLOCKS  # and on too small a card as well
    assert best(small, LoadOptions(gpu_layers=20, cpu_experts=80)).gpu_layers == 20
    for options in (LoadOptions(cpu_experts=EVERY_LAYER), LoadOptions(gpu_layers=0), LoadOptions(device="cpu")):
        assert plans(M3, machine(192), options)[0].relieved == ()


def test_a_model_without_experts_is_loaded_as_ever() -> None:
    dense = replace(M3, expert_blocks=(), widest_expert=0, experts=0, experts_used=0, ffn=12288)
    for options in (AS_BQ_CHOOSES, LoadOptions(cpu_experts=EVERY_LAYER)):
        assert {one.cpu_experts for one in settings(dense, True, options)} == {0}


def test_threads_compute_the_experts_that_stay() -> None:
    assert plans(M3, machine(192, 160), AS_BQ_CHOOSES)[0].threads == 1
    assert plans(M3, machine(192, 24), AS_BQ_CHOOSES)[0].threads == 8


@given(st.integers(1, 200), st.integers(0, 210), st.integers(0, 210))
def test_as_many_layers_are_relieved_as_were_counted(blocks: int, gpu_layers: int, count: int) -> None:
    relieved = layers_relieved(blocks, gpu_layers, count)
    homes = homes_of_layers(blocks, gpu_layers, machine(1, 8).devices[:1])[:-1]
    on_host = homes.count(HOST)
    assert list(relieved) == sorted(set(relieved))
    assert all(homes[number] != HOST for number in relieved)
    assert len(relieved) + on_host == min(max(count, on_host), blocks)


@given(st.integers(20, 200), st.floats(0, 1), st.lists(st.integers(4, 80), min_size=1, max_size=4))
def test_every_gpu_is_relieved_by_the_same_part(blocks: int, part: float, cards: list[int]) -> None:
    homes = homes_of_layers(blocks, blocks + 1, machine(1, *cards).devices[:-1])[:-1]
    count = int(part * blocks)
    relieved = Counter(homes[number] for number in layers_relieved(blocks, blocks + 1, count))
    for name, layers in Counter(homes).items():
        assert relieved[name] == pytest.approx(layers * count / blocks, abs=1)


@given(st.integers(0, 94), st.integers(0, 95), st.sampled_from([(24,), (24, 12), (80, 80, 8)]))
def test_no_weight_is_lost_between_devices(experts: int, layers: int, cards: tuple[int, ...]) -> None:
    gpus = machine(1, *cards).devices[:-1]
    found = estimate(M3, Setting(4096, gpu_layers=layers, cpu_experts=experts), gpus)
    assert sum(use.weights for use in found.uses) == M3.weights
    least = sum(M3.expert_blocks[: max(experts, BLOCKS + 1 - layers)])
    assert found.of(HOST).weights >= min(least, sum(M3.expert_blocks))


def test_the_pattern_means_the_experts_of_those_layers_and_nothing_else(tmp_path: Path) -> None:
    """Its syntax is common to C++'s and Python's expressions."""
    shape = QwenShape(hidden=32, heads=2, kv_heads=1, ffn=32, experts=4, blocks=12)
    file = read_gguf(write_qwen(tmp_path / "x.gguf", shape))
    array = overrides((1, 11))
    assert (len(array), array[1].pattern, array[1].buft) == (2, None, None)
    assert array[0].buft
    assert ctypes.sizeof(array) == 2 * 2 * ctypes.sizeof(ctypes.c_void_p)
    meant = {name for name in file.tensors if re.search(array[0].pattern.decode(), name)}
    parts = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    assert meant == {f"blk.{number}.{part}.weight" for number in (1, 11) for part in parts}
    assert overrides(()) is None
    assert shape_of(file).expert_blocks == (3 * 4 * 32 * 32 * 4,) * 12
    assert shape_of(file).widest_expert == 4 * 32 * 32 * 4


def test_a_plan_tells_of_them_and_why() -> None:
    plan = plans(M3, machine(192, 24), AS_BQ_CHOOSES)[0]
    line = describe(plan)
    assert "95 of 95 layers on the GPU, the experts of 86 of them in main memory" in line
    assert f"CPU {amount(plan.estimate.of(HOST).total)} of 172.8 GiB free" in line
    assert "the GPU has no room for the experts of 86 layers" in reasons(plan, AS_BQ_CHOOSES)
    given = LoadOptions(cpu_experts=86)
    assert not any("experts" in why for why in reasons(plans(M3, machine(192, 24), given)[0], given))


def test_what_fits_nowhere_is_refused_with_the_experts_counted_once() -> None:
    on = machine(64, 24)
    assert plans(M3, on, AS_BQ_CHOOSES) == []
    file = GgufFile(Path("m3.gguf"), {}, {}, 0)
    text = str(refusal(file, M3, smallest_plan(M3, on, AS_BQ_CHOOSES), on, AS_BQ_CHOOSES))
    needed = re.search(r"needs ([\d.]+) GiB", text)
    assert needed
    assert float(needed[1]) < M3.weights / GIB + 12


def test_the_ways_to_try_stay_few() -> None:
    assert sum(1 for _ in settings(M3, True, AS_BQ_CHOOSES)) < 1_000
    assert len(plans(M3, machine(192, 80), AS_BQ_CHOOSES)) <= 20


def test_a_dense_model_says_that_it_has_none(converted) -> None:
    path = converted("b2-7b", "Q8_0", hidden=256, heads=4, ffn=704)
    with load(path, LoadOptions(ctx=256, threads=1, cpu_experts=3)) as model:
        assert any("no experts" in warning for warning in model.warnings)
