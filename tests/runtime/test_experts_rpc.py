"""Experts in main memory and the rest on another device: a worker on loopback stands for a GPU."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.gguf_file import read_gguf
from tests.support.qwen_gguf import QwenShape, write_qwen
from tests.support.workers import Worker, needs_rpc, run_apart, running

BLOCKS = 6
# The proportions of Baichuan-M3: heads that make up twice the hidden size, 8 experts of many for each token.
SHAPE = QwenShape(
    hidden=256, heads=8, kv_heads=1, width=64, ffn=96, experts=32, experts_used=8, blocks=BLOCKS, quantized=True
)
LOADED = """
import json, sys
from pathlib import Path
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library
from bq.runtime.loading import load
from bq.runtime.values import LoadOptions
path, options, counts = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
for count in counts:
    with load(path, LoadOptions(threads=1, cpu_experts=count, **options)) as model:
        model._engine.prefill(list(range(3, 60)))
        lib = library()
        logits = lib.llama_get_logits_ith(model._engine.context, -1)
        fit = model.fit
        print(json.dumps({
            "logits": logits[: len(read_gguf(Path(path)).metadata["tokenizer.ggml.tokens"])],
            "relieved": fit.plan.relieved,
            "foretold": {name: fit.plan.estimate.of(name).weights + fit.plan.estimate.of(name).kv
                         + fit.plan.estimate.of(name).compute for name in ("CPU", *fit.plan.devices)},
            "used": {name: fit.used.of(name).total for name in ("CPU", *fit.plan.devices)},
            "weights": {name: fit.used.of(name).weights for name in ("CPU", *fit.plan.devices)},
        }))
"""


@pytest.fixture(scope="module")
def workers(bq_command: Path) -> Iterator[list[Worker]]:
    needs_rpc()
    with running(bq_command, 2) as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("experts") / "experts.gguf", SHAPE)


def loaded(path: Path, workers: list[Worker], counts: list[int | None], **options: Any) -> list[dict[str, Any]]:
    """What each load says, with the experts of so many layers in main memory."""
    given = json.dumps({"rpc": ",".join(one.endpoint for one in workers), "ctx": 512, **options})
    done = run_apart(LOADED, path, given, json.dumps(counts))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expert_bytes(path: Path) -> int:
    return sum(entry.size_bytes for name, entry in read_gguf(path).tensors.items() if "_exps" in name)


def test_a_worker_is_relieved_by_the_experts_and_the_answer_is_the_same(path: Path, workers: list[Worker]) -> None:
    every, half, none = loaded(path, workers[:1], [BLOCKS, BLOCKS // 2, 0])
    experts = expert_bytes(path)
    assert (every["relieved"], half["relieved"], none["relieved"]) == ([0, 1, 2, 3, 4, 5], [1, 3, 5], [])
    for one, part in ((every, 1.0), (half, 0.5)):
        assert none["weights"]["RPC0"] - one["weights"]["RPC0"] == pytest.approx(part * experts, rel=0.01)
        assert one["weights"]["CPU"] - none["weights"]["CPU"] == pytest.approx(part * experts, rel=0.01)
        assert one["logits"] == none["logits"]
    assert max(none["logits"]) > 1


@pytest.mark.parametrize(
    ("count", "options"), [(1, {}), (1, {"batch": 128, "ctx": 2048}), (1, {"gpu_layers": 4}), (2, {})]
)
def test_what_each_will_hold_is_foretold(
    path: Path, workers: list[Worker], count: int, options: dict[str, Any]
) -> None:
    for one in loaded(path, workers[:count], [BLOCKS, BLOCKS // 2], **options):
        for device, used in one["used"].items():
            assert one["foretold"][device] == pytest.approx(used, rel=0.1), device


def test_several_workers_are_relieved_by_the_same_part(path: Path, workers: list[Worker]) -> None:
    half, none = loaded(path, workers, [BLOCKS // 2, 0])
    relief = [none["weights"][name] - half["weights"][name] for name in ("RPC0", "RPC1")]
    assert min(relief) > 0.3 * sum(relief) > 0
    assert half["logits"] == none["logits"]
