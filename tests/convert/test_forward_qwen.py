"""The numpy forward pass computes Qwen2 and Qwen3's mixture of experts as the reference does, and as llama.cpp does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.convert.convert import convert, prepare
from bq.convert.model_config import Scaling
from bq.convert.verify import checkpoint_weights, forward
from bq.convert.verify.forward import Forward, open_forward
from bq.convert.verify.layers import frequencies, route
from tests.convert.test_forward import assert_same, gathered
from tests.convert.test_forward import quick_reference as quick_reference
from tests.support import llama
from tests.support.qwen import FAMILIES, Family, Shape, config, write_qwen

TEXTS = ([300, 301, 5, 6, 419, 400, 33, 195], [9], [], [17, 200, 201, 17, 200])
NEAR = 2e-3  # relative: llama.cpp multiplies and adds in other orders, with inputs in float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "shape", [{}, {"heads": 4, "kv_heads": 4, "dtype": "f32"}, {"kv_heads": 1, "tied": True, "dtype": "f16"}]
)
def test_the_logits_are_those_of_the_reference(
    tmp_path: Path, family: Family, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_weights, "_SLAB_WEIGHTS", 1 << 12)
    monkeypatch.setattr(forward, "_LOGIT_ROWS", 3)
    monkeypatch.setattr(forward, "_FEED_TOKENS", 4)
    width = {"width": 32} if family == "qwen3moe" else {}
    written = write_qwen(tmp_path, Shape(family, **width, **shape))
    found = gathered(open_forward(tmp_path), [*map(list, TEXTS)])
    assert sorted(found) == [0, 1, 3]
    for index, rows in found.items():
        assert_same(rows, written.logits(TEXTS[index]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 3.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_the_logits_are_llama_cpps(tmp_path: Path, family: Family, scaling: dict[str, Any] | None) -> None:
    """Stretched positions too, for which the reference has no code; with yarn of a context of 64 some pairs are stretched."""
    shape = Shape(family, hidden=64, heads=2, ffn=96, base=1e4, blocks=2)
    write_qwen(tmp_path / "checkpoint", shape)
    changed = config(shape) | {"rope_scaling": scaling}
    if scaling and "rope_type" in scaling:
        changed["rope_scaling"] = {**scaling, "original_max_position_embeddings": 64}
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(changed))
    conversion = prepare(tmp_path / "checkpoint", "F32")
    convert(conversion, tmp_path / "x.gguf", 2)
    ids = [int(token) for token in np.random.default_rng(1).integers(0, 400, 40)]
    found = gathered(Forward(conversion), [ids])[0]
    expected = llama.logits(tmp_path / "x.gguf", ids)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


def test_only_the_experts_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_qwen(tmp_path, Shape("qwen3moe", experts=16, used=2, blocks=2))
    read: set[tuple[str, int]] = set()
    original = checkpoint_weights.CheckpointWeights.linear_of_expert

    def seen(self: Any, x: Any, name: str, expert: int) -> Any:
        read.add((name, expert))
        return original(self, x, name, expert)

    monkeypatch.setattr(checkpoint_weights.CheckpointWeights, "linear_of_expert", seen)
    list(open_forward(tmp_path).logits([[5]]))
    assert len(read) == 2 * 2 * 3  # blocks, experts, matrices


def test_the_router_shares_out_what_the_best_have() -> None:
    scores = np.log(np.array([[1, 4, 2, 3], [7, 1, 1, 1]], np.float32))
    chosen, weights = route(scores, 2)
    assert chosen.tolist() == [[1, 3], [0, 1]]
    assert weights == pytest.approx(np.array([[4 / 7, 3 / 7], [7 / 8, 1 / 8]]), rel=1e-6)


def test_yarn_leaves_fast_pairs_and_stretches_slow_ones() -> None:
    plain = frequencies(64, 1e6, None)
    found = frequencies(64, 1e6, Scaling("yarn", 4.0, 32768))
    turns = plain * 32768 / (2 * np.pi)  # within the trained context
    assert found[turns > 40] == pytest.approx(plain[turns > 40])
    assert found[turns < 0.8] == pytest.approx(plain[turns < 0.8] / 4)
    assert np.all(np.diff(plain / found) >= 0)
    assert frequencies(64, 1e6, Scaling("linear", 4.0, None)) == pytest.approx(plain / 4)
