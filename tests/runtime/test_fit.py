"""The choice how to load, on machines that are not here: a laptop, cards of all sizes, a Mac, tiny containers."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.engine import MOST_OUTPUTS
from bq.runtime.errors import UsageError
from bq.runtime.fit import LEAST_CONTEXT, LoadOptions, Machine, Plan, plans, shortages, smallest_plan
from bq.runtime.fit_advice import amount, describe, reasons, refusal
from bq.runtime.gguf_file import GgufFile
from bq.runtime.host import Memory
from bq.runtime.memory import HOST, Setting, Shape
from bq.runtime.releases import find_release

GIB = 1 << 30
CPU = Device("CPU", "", "cpu", "CPU", 0, 0)
AS_BQ_CHOOSES = LoadOptions()


def release_shape(name: str, mixture: str) -> Shape:
    """About the shape of a release's file: its real size, spread over the tensors as their elements are."""
    release = find_release(name)
    assert release is not None
    assert release.layout is not None
    layout = release.layout
    table = layout.vocab * layout.hidden
    per_weight = layout.sizes[mixture] / layout.weights
    block = (layout.weights - 2 * table) // layout.blocks
    return Shape(
        layout.hidden, layout.ffn, layout.vocab, 4096, int(table * per_weight), int(table * per_weight),
        (int(block * per_weight),) * layout.blocks, 292 / 256,
    )  # fmt: skip


SEVEN, THIRTEEN = release_shape("baichuan2-7b-chat", "Q4_K_M"), release_shape("baichuan2-13b-chat", "Q4_K_M")


def machine(ram: float, *gpus: Device, cores: int = 8) -> Machine:
    """With 90 % of its memory free."""
    return Machine((*gpus, CPU), Memory(int(ram * GIB), int(0.9 * ram * GIB)), Cores(2 * cores, cores))


def card(total: float, number: int = 0) -> Device:
    """A card of which the desktop takes 5 %."""
    return Device(f"CUDA{number}", "", "gpu", "CUDA", int(total * GIB), int(0.95 * total * GIB))


def best(shape: Shape, on: Machine, options: LoadOptions = AS_BQ_CHOOSES) -> Setting:
    return plans(shape, on, options)[0].setting


@pytest.mark.parametrize(
    ("shape", "on", "layers", "ctx", "kv"),
    [
        (SEVEN, machine(32, card(24)), 33, 4096, "f16"),
        (THIRTEEN, machine(32, card(24)), 41, 4096, "f16"),
        (SEVEN, machine(32, card(8)), 33, 4096, "f16"),
        (SEVEN, machine(32, card(7)), 33, 4096, "q8_0"),
        (SEVEN, machine(32, card(6)), 33, 3072, "q8_0"),
        (SEVEN, machine(32, card(5)), 25, 4096, "q8_0"),
        (THIRTEEN, machine(32, card(8)), 26, 4096, "q8_0"),
        (THIRTEEN, machine(32, card(8), card(8, 1)), 41, 4096, "f16"),
        (SEVEN, machine(16), 0, 4096, "f16"),
        (SEVEN, machine(8), 0, 4096, "f16"),
        (SEVEN, machine(7), 0, 4096, "q8_0"),
        (SEVEN, machine(6.3), 0, 3072, "q8_0"),
        (SEVEN, machine(32, card(0.5)), 0, 4096, "f16"),
    ],
)
def test_what_is_chosen(shape: Shape, on: Machine, layers: int, ctx: int, kv: str) -> None:
    chosen = best(shape, on)
    assert (chosen.gpu_layers, chosen.ctx, chosen.kv) == (layers, ctx, kv)


def test_a_macs_memory_is_counted_once_for_both() -> None:
    assert best(SEVEN, mac(16)) == replace(best(SEVEN, mac(64)), gpu_layers=33)
    assert best(THIRTEEN, mac(16)).kv == "q8_0"
    assert plans(THIRTEEN, mac(8), AS_BQ_CHOOSES) == []
    on = mac(16)
    for plan in plans(THIRTEEN, on, AS_BQ_CHOOSES):
        assert plan.estimate.total < on.memory.available_bytes


def test_a_tiny_container_runs_a_tiny_model_and_refuses_a_real_one() -> None:
    tiny = Machine((CPU,), Memory(256 << 20, 200 << 20, 256 << 20), Cores(2, 1, quota=0.5))
    demo = Shape(256, 768, 4000, 1024, 1 << 20, 1 << 20, (1 << 20,) * 32, 292 / 256)
    chosen = plans(demo, tiny, AS_BQ_CHOOSES)[0]
    assert (chosen.setting.ctx, chosen.threads) == (1024, 1)
    assert plans(SEVEN, tiny, AS_BQ_CHOOSES) == []


def test_the_cpus_threads_are_left_alone_when_the_gpu_does_it_all() -> None:
    assert plans(SEVEN, machine(32, card(24)), AS_BQ_CHOOSES)[0].threads == 1
    assert plans(SEVEN, machine(32, card(5)), AS_BQ_CHOOSES)[0].threads == 8
    assert plans(SEVEN, machine(32, card(24)), LoadOptions(threads=5))[0].threads == 5


def test_a_device_can_be_chosen_or_left() -> None:
    two = machine(32, card(24), card(24, 1))
    assert plans(SEVEN, two, LoadOptions(device="CUDA1"))[0].devices == ("CUDA1",)
    assert plans(SEVEN, two, LoadOptions(device="cpu"))[0].devices == ()
    assert plans(SEVEN, two, LoadOptions(gpu_layers=0))[0].setting.gpu_layers == 0
    with pytest.raises(UsageError, match="CUDA2"):
        plans(SEVEN, two, LoadOptions(device="CUDA2"))


def test_given_layers_are_obeyed_even_where_the_card_seems_too_small() -> None:
    assert best(THIRTEEN, machine(32, card(6)), LoadOptions(gpu_layers=99)).gpu_layers == 41


def test_parallel_sequences_share_one_cache_and_may_have_a_longer_one() -> None:
    eight = best(SEVEN, machine(64), LoadOptions(n_seq=8))
    assert (eight.ctx, eight.sequences, eight.outputs) == (4096, 8, MOST_OUTPUTS)
    assert best(SEVEN, machine(64), LoadOptions(n_seq=200)).outputs == 200
    assert best(SEVEN, machine(64), LoadOptions(n_seq=8, ctx=16384)).ctx == 16384
    assert best(SEVEN, machine(64), LoadOptions(ctx=16384)).ctx == 4096
    assert [best(SEVEN, machine(64), LoadOptions(ctx=ctx)).ctx for ctx in (64, 256, 257)] == [256, 256, 512]


def test_there_is_always_room_for_the_outputs_of_a_draft() -> None:
    """llama.cpp ends the process for one output more than it was made for."""
    assert best(SEVEN, machine(64), LoadOptions(outputs=1)).outputs == MOST_OUTPUTS
    assert best(SEVEN, machine(64), LoadOptions(outputs=512)).outputs == 512


SHAPES = st.sampled_from([SEVEN, THIRTEEN])
MACHINES = st.builds(
    lambda ram, cards: machine(ram, *(card(size, i) for i, size in enumerate(cards))),
    st.floats(0.25, 64),
    st.lists(st.floats(0.5, 48), max_size=3),
)
OPTIONS = st.builds(
    LoadOptions,
    ctx=st.none() | st.integers(64, 4096),
    threads=st.none() | st.integers(1, 64),
    gpu_layers=st.none() | st.integers(0, 50),
    kv=st.sampled_from([None, "f16", "q8_0"]),
    batch=st.none() | st.integers(1, 2048),
    mmap=st.sampled_from([None, True, False]),
    mlock=st.booleans(),
)


@given(SHAPES, MACHINES, OPTIONS)
def test_given_options_are_never_changed_and_every_way_fits(shape: Shape, on: Machine, options: LoadOptions) -> None:
    layers = len(shape.blocks) + 1
    for plan in plans(shape, on, options):
        setting = plan.setting
        assert options.ctx is None or setting.ctx == -(-options.ctx // 256) * 256  # llama.cpp's steps
        assert options.kv in (None, setting.kv)
        assert options.batch in (None, setting.batch)
        assert options.threads in (None, plan.threads)
        assert (plan.mmap, plan.mlock) == (options.mmap, options.mlock)
        if options.gpu_layers is not None:
            assert setting.gpu_layers == (min(options.gpu_layers, layers) if len(on.devices) > 1 else 0)
        assert options.ctx is not None or setting.ctx >= LEAST_CONTEXT
        assert plan.estimate.of(HOST).total < on.memory.available_bytes
        if options.gpu_layers is None:
            assert all(plan.estimate.of(gpu.name).total < gpu.free_bytes for gpu in on.devices if gpu.kind == "gpu")


@given(SHAPES, MACHINES, OPTIONS)
def test_no_way_is_tried_twice_and_each_takes_less(shape: Shape, on: Machine, options: LoadOptions) -> None:
    ways = plans(shape, on, options)
    assert len({plan.setting for plan in ways}) == len(ways) <= 20

    def on_gpus(plan: Plan) -> int:
        return plan.estimate.total - plan.estimate.of(HOST).total

    for before, after in pairwise(ways):
        if on_gpus(before):
            assert on_gpus(after) < on_gpus(before)
        else:
            assert after.estimate.total < before.estimate.total


@given(SHAPES, st.floats(1, 40), st.floats(0, 8))
def test_a_larger_card_never_takes_fewer_layers(shape: Shape, size: float, more: float) -> None:
    small, large = (best(shape, machine(64, card(one))) for one in (size, size + more))
    assert large.gpu_layers >= small.gpu_layers


def refused(shape: Shape, on: Machine, options: LoadOptions = AS_BQ_CHOOSES) -> str:
    assert plans(shape, on, options) == []
    file = GgufFile(Path("model.gguf"), {}, {}, 0)
    return str(refusal(file, shape, smallest_plan(shape, on, options), on, options))


def test_a_refusal_says_what_is_needed_what_is_free_and_what_would_fit() -> None:
    text = refused(THIRTEEN, machine(8))
    assert text == (
        "model.gguf needs 9.35 GiB of memory with a context of 2048 and KV in q8_0 (weights 8.38 GiB, KV 850 MiB, buffers "
        "148 MiB); 7.20 GiB are free. What would fit: a file in Q2_K (5.35 GiB, `bq convert -q Q2_K`). "
        "--force-fit loads it anyway."
    )


def mac(ram: float) -> Machine:
    return machine(ram, Device("MTL0", "", "gpu", "MTL", int(0.72 * ram * GIB), int(0.72 * ram * GIB)))


@pytest.mark.parametrize(
    ("on", "beside"),
    [
        (machine(8, card(3)), " beside the GPU's"),
        (machine(5), ""),
        (mac(8), ""),
        (replace(mac(14), memory=Memory(14 * GIB, 9 * GIB)), ""),  # the GPU's part counts with the host's
    ],
)
def test_the_numbers_of_a_refusal_are_of_one_memory_and_add_up(on: Machine, beside: str) -> None:
    text = refused(THIRTEEN, on)
    assert f"GiB of memory{beside} with" in text
    needed, *parts = (
        float(number) * (1024 if unit == "GiB" else 1)
        for number, unit in re.findall(r"(?:needs|weights|KV|buffers) ([\d.]+) (GiB|MiB)", text)
    )
    assert len(parts) == 3
    assert needed == pytest.approx(sum(parts), abs=16)


@pytest.mark.parametrize("on", [machine(8, card(3)), mac(8), machine(3, card(3), card(2, 1))])
def test_a_model_that_is_loaded_by_force_overfills_no_gpu(on: Machine) -> None:
    """There it would fail at once; mapped weights on the host are only slow."""
    forced = smallest_plan(THIRTEEN, on, AS_BQ_CHOOSES)
    assert forced.devices
    assert all(short.device == HOST for short in shortages(forced, on, AS_BQ_CHOOSES))


@pytest.mark.parametrize("ram", [4.2, 5, 5.5, 5.7, 8, 10, 10.5, 12])
@pytest.mark.parametrize("shape", [SEVEN, THIRTEEN])
@pytest.mark.parametrize("options", [AS_BQ_CHOOSES, LoadOptions(ctx=4096, kv="f16")])
def test_what_a_refusal_advises_does_fit(ram: float, shape: Shape, options: LoadOptions) -> None:
    on = machine(ram)
    if plans(shape, on, options):
        return
    text = refused(shape, on, options)
    context = re.search(r"--ctx (\d+) --kv (\w+)", text)
    if context:
        assert plans(shape, on, replace(options, ctx=int(context[1]), kv=context[2]))
    mixture = re.search(r"a file in (\w+) .*?\)( with --ctx (\d+))?", text)
    if mixture:
        name = "baichuan2-7b-chat" if shape is SEVEN else "baichuan2-13b-chat"
        asked = replace(options, ctx=int(mixture[3])) if mixture[3] else options
        assert plans(release_shape(name, mixture[1]), on, asked)
    assert context or mixture or "`bq models`" in text


def test_a_plan_is_told_in_one_line() -> None:
    on = machine(32, card(5))
    plan = plans(SEVEN, on, AS_BQ_CHOOSES)[0]
    line = describe(plan)
    assert "\n" not in line
    assert "25 of 33 layers on the GPU" in line
    assert f"CUDA0 {amount(plan.estimate.of('CUDA0').total)} of 4.75 GiB free" in line
    assert line.endswith("context 4096, KV q8_0, 8 threads")
    assert reasons(plan, AS_BQ_CHOOSES) == ("not all layers fit on the GPU", "keys and values in q8_0 to save memory")
    assert reasons(plan, LoadOptions(gpu_layers=26, kv="q8_0")) == ()


def test_nothing_known_of_the_memory_is_no_reason_to_refuse() -> None:
    unknown = Machine((CPU,), Memory(0, 0), Cores(4, 4))
    assert best(THIRTEEN, unknown).ctx == 4096
    assert shortages(plans(THIRTEEN, unknown, AS_BQ_CHOOSES)[0], unknown, AS_BQ_CHOOSES) == []


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 MiB"), (61 << 20, "61 MiB"), (GIB, "1.00 GiB"), (12 * GIB, "12.0 GiB")]
)
def test_amounts(size: int, text: str) -> None:
    assert amount(size) == text
