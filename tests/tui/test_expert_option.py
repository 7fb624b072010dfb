"""--cpu-experts: what it may be, which commands have it, and where what was chosen is shown."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from bq.runtime.cpu import Cores
from bq.runtime.devices import Device
from bq.runtime.fit import Machine
from bq.runtime.gguf_file import read_gguf
from bq.runtime.host import Memory
from bq.runtime.memory import MIB, shape_of
from bq.runtime.values import EVERY_LAYER, LoadOptions
from bq.tui.candidates import examine
from bq.tui.commands.options import LayerCount
from bq.tui.model_lines import model_lines
from bq.tui.wire import Candidate, pack, unpack
from tests.support.qwen_gguf import QwenShape, write_qwen

SHAPE = QwenShape(hidden=128, heads=2, kv_heads=1, ffn=128, experts=16, experts_used=2, blocks=4, chat=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen(tmp_path_factory.mktemp("experts") / "experts.gguf", SHAPE)


@pytest.mark.parametrize(
    ("text", "value"), [("auto", None), ("none", 0), ("0", 0), ("all", EVERY_LAYER), ("ALL", EVERY_LAYER), (" 7 ", 7)]
)
def test_it_is_a_number_or_a_word(text: str, value: int | None) -> None:
    assert LayerCount().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["-1", "", "1.5", "some", "٣", "99999", "1e2", "nan"])
def test_what_is_neither_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no number of layers"):
        LayerCount().convert(text, None, None)


@pytest.mark.parametrize("command", ["run", "chat", "complete", "eval", "imatrix", "search"])
def test_it_stands_beside_the_gpus_layers(bq: Any, command: str) -> None:
    assert b"--cpu-experts N|all|none|auto" in bq(command, "--help").stdout


def test_it_is_obeyed_where_there_is_no_gpu_too(bq: Any, path: Path) -> None:
    done = bq("run", "x", "-m", path, "--cpu-experts", "all", "--max-tokens", "2", "--ctx", "256")
    assert done.returncode == 0, done.stderr
    assert b"Warning" not in done.stderr


def test_the_app_process_hears_of_it() -> None:
    options = LoadOptions(cpu_experts=EVERY_LAYER)
    assert unpack(LoadOptions, json.loads(json.dumps(pack(options)))) == options


def test_the_picker_shows_how_many_stay_in_main_memory(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    shape = shape_of(read_gguf(path))
    free = shape.weights - sum(shape.expert_blocks) // 2 + 10 * MIB
    gpu = Device("RPC0", "", "gpu", "RPC", free, free)
    machine = Machine((gpu,), Memory(1 << 34, 1 << 34), Cores(4, 4))
    monkeypatch.setattr("bq.runtime.loading.this_machine", lambda *_: machine)
    (found,) = examine([path], LoadOptions(ctx=512, kv="q8_0"), {})
    assert 0 < found.cpu_experts < 4
    assert (found.gpu_layers, found.layers, found.fits) == (5, 5, True)
    assert f"experts of {found.cpu_experts} in main memory" in found.plan.replace(" of them", "").replace("the ", "")
    assert f"experts of {found.cpu_experts} in main memory" in shown(path, found)
    assert "experts" not in shown(path, Candidate(path, gpu_layers=5, layers=5))


def shown(path: Path, known: Candidate) -> str:
    return " ".join(text for line in model_lines(1, path, known, False) for text, _ in line)
