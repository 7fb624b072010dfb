"""Baichuan-M1: its tensors convert, each with the geometry of its block; only llama.cpp's graph is missing, and that is said."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.convert.checkpoint import Checkpoint
from bq.convert.config import read_config
from bq.convert.convert import convert, prepare
from bq.convert.search.source import open_source
from bq.runtime.gguf_file import read_gguf
from bq.tui.conversion_plan import describe
from tests.support import reference
from tests.support.in_process import run_here
from tests.support.m1 import Shape, config, write_m1
from tests.support.refusals import change_json, refusal
from tests.support.wrong_files import with_rows, write_wrong

SHAPE = Shape()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("m1")
    tensors = write_m1(folder / "Baichuan-M1-tiny", SHAPE)
    convert(prepare(folder / "Baichuan-M1-tiny", "F32"), folder / "out.gguf", threads=2)
    return folder / "out.gguf", tensors


def test_every_tensor_is_the_checkpoints(made: tuple[Path, dict[str, Any]]) -> None:
    path, tensors = made
    file = read_gguf(path)

    def found(name: str) -> Any:
        one = file.tensors[name]
        return file.bytes[one.start : one.start + one.size_bytes].view(np.float32).reshape(one.shape)

    assert np.allclose(found("output.weight"), reference.norm_head(tensors["lm_head.weight"]), rtol=1e-6)
    for block in range(SHAPE.blocks):
        ours, theirs = f"blk.{block}.", f"model.layers.{block}."
        kv_heads, width = SHAPE.keys(block)
        ends = np.cumsum([SHAPE.hidden, kv_heads * width])
        q, k, v = np.split(tensors[theirs + "self_attn.W_pack.weight"], ends)
        for part, expected in (("q", q), ("k", k), ("v", v)):
            assert np.array_equal(found(f"{ours}attn_{part}.weight"), expected)
        for part in "kv":
            taps = tensors[f"{theirs}self_attn.conv_{part}"].reshape(kv_heads, 2)
            assert np.array_equal(found(f"{ours}attn_{part}_conv.weight"), taps)
        assert np.array_equal(found(ours + "attn_output.weight"), tensors[theirs + "self_attn.o_proj.weight"])
    assert len(file.tensors) == 3 + 11 * SHAPE.blocks


def test_the_shape_is_told_block_by_block(made: tuple[Path, dict[str, Any]]) -> None:
    file = read_gguf(made[0])
    assert file.architecture == "baichuan_m1"
    keys = {key.removeprefix("baichuan_m1."): value for key, value in file.metadata.items()}
    assert keys["attention.head_count"] == [3, 6, 3, 6]
    assert keys["attention.head_count_kv"] == [1, 2, 1, 2]
    assert (keys["attention.key_length"], keys["attention.key_length_swa"]) == (32, 16)
    assert keys["attention.sliding_window"] == 8192
    assert keys["attention.sliding_window_pattern"] == [False, True, False, True]
    assert keys["rope.freq_base"] == 50000.0
    assert keys["shortconv.l_cache"] == 2
    assert file.text("bq.norm_head") == "folded"


def test_the_convolutions_stay_f32_in_every_mixture(tmp_path: Path) -> None:
    write_m1(tmp_path / "m", SHAPE)
    plan = prepare(tmp_path / "m", "Q2_K").plan
    assert {tensor.kind.name for tensor in plan.tensors if "conv" in tensor.name} == {"F32"}
    assert not any("conv" in name for name in plan.matrices)


def test_that_it_cannot_run_is_said_in_one_line_with_the_reason(tmp_path: Path) -> None:
    write_m1(tmp_path / "m", SHAPE)
    (note,) = (line for line in describe(prepare(tmp_path / "m", "Q4_K_M")) if "llama.cpp" in line)
    for words in ("cannot run", "convolution over keys and values", "alternate"):
        assert words in note


def test_what_has_to_run_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_m1(tmp_path / "m", SHAPE)
    with ExitStack() as stack:
        message = refusal(lambda: stack.enter_context(open_source(str(tmp_path / "m"), None)))
    assert "llama.cpp cannot run the file, for it has no graph" in message
    assert "bq search needs a model that runs" in message
    done = run_here(["convert", str(tmp_path / "m"), "--calibrate"], None, os.environ, tmp_path)
    assert done.returncode == 2
    assert b"llama.cpp cannot run the file" in done.stderr
    assert b"--calibrate needs a model that runs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_without_its_rope_theta_it_is_refused(tmp_path: Path) -> None:
    write_m1(tmp_path / "m", SHAPE)
    change_json(tmp_path / "m" / "config.json", rope_theta=None)
    assert "rope_theta is missing" in refusal(prepare, tmp_path / "m", "F32")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 1 << 23}, "8388608 blocks are no Baichuan-M1"),
        ({"conv_window": 3}, "conv_window is 3, Baichuan-M1 has 2"),
        ({"conv_window": None}, "conv_window is None"),
        ({"sliding_window_layers": [4]}, "sliding_window_layers is [4]"),
        ({"sliding_window_layers": None}, "sliding_window_layers is None"),
        ({"sliding_window_layers": [True]}, "sliding_window_layers is [True]"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"num_swa_attention_heads": 5}, "96 hidden, 5 heads"),
        ({"num_key_value_heads": 2}, "96 hidden, 3 heads and 2 key-value heads do not fit"),
        ({"quantization_config": {"bits": 4}}, "this is a 4-bit repack"),
    ],
)
def test_a_shape_that_is_none_is_refused(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(read_config, Checkpoint(Path(), config(SHAPE) | changes, (), {}))


def test_its_weights_are_verified_though_it_cannot_run(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, _ = made
    source = path.parent / "Baichuan-M1-tiny"
    done = run_here(["verify", str(path), "--against", str(source)], None, {}, None)
    assert (done.returncode, b"llama.cpp has no graph for" in done.stdout) == (0, True), done.stderr
    assert "47 of 47 tensors are bit for bit" in done.stdout.decode()
    wrong = write_wrong(path, tmp_path / "wrong.gguf", with_rows("blk.1.attn_k.weight", lambda rows: rows * 2))
    done = run_here(["verify", str(wrong), "--against", str(source)], None, {}, None)
    assert (done.returncode, "blk.1.attn_k" in done.stdout.decode()) == (1, True)
