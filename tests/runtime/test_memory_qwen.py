"""The estimate of memory holds for grouped heads and for experts: it is what llama.cpp then takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.fit import LoadOptions as Options
from bq.runtime.fit import Machine, plans, settings
from bq.runtime.fit_advice import reasons
from bq.runtime.gguf_file import read_gguf
from bq.runtime.host import Memory
from bq.runtime.loading import LoadOptions, load
from bq.runtime.memory import HOST, MIB, Setting, Shape, estimate, kv_bytes, shape_of
from bq.runtime.memory_report import reported_use
from tests.support.qwen_gguf import QwenShape, write_qwen

GIB = 1 << 30
# The proportions of Baichuan-M2 (5,120 hidden, 40 heads over 8, 27,648 units), of M3 (4,096, 64 heads of 128 over 4, 8 of 128
# experts of 1,536 units) and of others.
SHAPES = {
    "m2": QwenShape(hidden=320, heads=10, kv_heads=2, ffn=1728, blocks=5, quantized=True),
    "m3": QwenShape(
        hidden=256, heads=8, kv_heads=1, width=64, ffn=96, experts=16, experts_used=8, blocks=5, quantized=True
    ),
    "narrow": QwenShape(hidden=256, heads=4, kv_heads=4, ffn=512, blocks=4),
    "tied": QwenShape(hidden=128, heads=2, kv_heads=1, ffn=512, blocks=4, tied=True),
    "wide experts": QwenShape(hidden=128, heads=2, kv_heads=1, ffn=512, experts=4, experts_used=2, blocks=4),
    "narrow experts": QwenShape(hidden=256, heads=4, kv_heads=2, ffn=32, experts=8, experts_used=4, blocks=4),
}
M2 = Shape(5120, 27648, 152064, 131072, 800 * MIB, 800 * MIB, (460 * MIB,) * 64, 292 / 256, 5120, 1024)
M3 = Shape(4096, 1536, 151936, 131072, 600 * MIB, 600 * MIB, (1400 * MIB,) * 94, 292 / 256, 8192, 512, 128, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qwen")


def made(folder: Path, name: str) -> Path:
    path = folder / f"{name}.gguf"
    return path if path.exists() else write_qwen(path, SHAPES[name])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("ctx", "kv", "batch", "n_seq"), [(512, "f16", 512, 1), (1000, "q8_0", 128, 4), (4096, "q8_0", 512, 1)]
)
def test_every_part_is_what_llama_cpp_takes(folder: Path, name: str, ctx: int, kv: str, batch: int, n_seq: int) -> None:
    with load(made(folder, name), LoadOptions(ctx=ctx, kv=kv, batch=batch, n_seq=n_seq, threads=1)) as model:
        predicted, used = model.fit.plan.estimate.of(HOST), model.fit.used.of(HOST)
    assert predicted.weights == pytest.approx(used.weights, rel=0.02)
    assert predicted.kv == pytest.approx(used.kv, rel=0.001, abs=MIB / 100)
    assert predicted.compute == pytest.approx(used.compute, rel=0.10)


def test_the_shape_is_the_files(folder: Path) -> None:
    shape = shape_of(read_gguf(made(folder, "m3")))
    assert (shape.hidden, shape.queries, shape.keys, shape.ffn) == (256, 512, 64, 96)
    assert (shape.experts, shape.experts_used, shape.tied, len(shape.blocks)) == (16, 8, False, 5)
    dense = shape_of(read_gguf(made(folder, "tied")))
    assert (dense.queries, dense.keys, dense.experts, dense.tied) == (128, 64, 0, True)
    assert dense.weights == sum(one.size_bytes for one in read_gguf(made(folder, "tied")).tensors.values())


def test_grouped_heads_keep_few_keys() -> None:
    """256 KiB for a token of Baichuan-M2 (64 blocks, 8 of 40 heads), 188 KiB for one of M3."""
    assert kv_bytes(M2, 1, "f16") == 64 * 2 * 1024 * 2 == 256 << 10
    assert kv_bytes(M3, 1, "f16") == 94 * 2 * 512 * 2 == 188 << 10


def test_an_output_that_is_the_embedding_is_copied_to_the_gpu_that_needs_it() -> None:
    """llama.cpp makes a second tensor for another device, and none on the same one."""
    gpu = Device("CUDA0", "", "gpu", "CUDA", 80 * GIB, 80 * GIB)
    tied = Shape(1024, 4096, 1000, 4096, 100 * MIB, 0, (50 * MIB,) * 2, 0, 1024, 256, tied=True)
    assert estimate(tied, Setting(512)).of(HOST).weights == 200 * MIB
    split = estimate(tied, Setting(512, gpu_layers=3), (gpu,))
    assert (split.of(HOST).weights, split.of("CUDA0").weights) == (100 * MIB, 200 * MIB)
    log = "".join(f"f: {name} model buffer size = {size} MiB\n" for name, size in (("CPU_Mapped", 100), ("CUDA0", 200)))
    assert reported_use(log, tied).of(HOST).weights == 100 * MIB


def test_no_context_that_takes_more_than_the_model_is_chosen_unasked() -> None:
    """Trained for 131,072 tokens, whose keys and values would take 32 GiB in f16; who asks for them gets them."""
    machine = Machine((), Memory(200 * GIB, 200 * GIB), Cores(8, 8))
    assert plans(M2, machine, Options())[0].setting.ctx == 32768
    assert plans(M2, machine, Options(ctx=131072))[0].setting.ctx == 131072


def test_a_context_that_is_shorter_unasked_is_told_with_its_reason() -> None:
    def why(memory: int) -> str:
        machine = Machine((), Memory(memory, memory), Cores(8, 8))
        return "; ".join(reasons(plans(M2, machine, Options())[0], Options()))

    assert "a context of 32768, unless --ctx asks for more" in why(200 * GIB)
    assert "to save memory" not in why(200 * GIB)
    assert "instead of 131072 to save memory" in why(34 * GIB)


@pytest.mark.parametrize("trained", [2049, 4096, 24_576, 131_072])
def test_shorter_contexts_are_tried_down_to_the_least(trained: int) -> None:
    tried = [one.ctx for one in settings(replace(M2, trained=trained), False, Options())]
    assert min(tried) == 2048
    assert len(set(tried)) <= 17


def test_the_ways_to_load_a_long_model_onto_a_small_gpu_stay_countable() -> None:
    assert sum(1 for _ in settings(M3, True, Options())) < 2_000
