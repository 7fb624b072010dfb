"""Of a mixture of experts an importance matrix has sums and a count for each expert, and is written as llama-imatrix writes it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from bq.convert.convert import convert, prepare
from bq.runtime.evaluation.imatrix import gather
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums, read_imatrix, write_imatrix
from bq.runtime.evaluation.request import Text
from tests.runtime.test_imatrix import CTX, WORDS, ids_of
from tests.runtime.test_imatrix import in_full_precision as in_full_precision
from tests.support import qwen_reference
from tests.support.qwen import Shape, Written, config, write_qwen
from tests.support.reference import linear, rms_norm, silu, softmax

EPS = 1e-6


def numpy_sums(model: Written, ids: Sequence[int]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The sums of each expert's down, gate and attn_q, and how many tokens went through it, over one chunk."""
    settings, tensors = config(model.shape), dict(model)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    x = tensors["model.embed_tokens.weight"][np.asarray(ids)]
    for number in range(model.shape.blocks):
        theirs, ours = f"model.layers.{number}.", f"blk.{number}."
        normed = rms_norm(x, tensors[theirs + "input_layernorm.weight"], EPS)
        sums[ours + "attn_q.weight"] = np.square(normed.astype(np.float64)).sum(axis=0)
        x = x + qwen_reference._attention(normed, tensors, theirs + "self_attn.", settings)
        middle = rms_norm(x, tensors[theirs + "post_attention_layernorm.weight"], EPS)
        shares = softmax(linear(middle, tensors[theirs + "mlp.gate.weight"]))
        best = np.argsort(-shares, axis=1)[:, : model.shape.used]
        gate_sums, down_sums, count = [], [], []
        for expert in range(model.shape.experts):
            own = middle[(best == expert).any(axis=1)]
            gate, up = (tensors[f"{theirs}mlp.experts.{expert}.{name}_proj.weight"] for name in ("gate", "up"))
            inner = silu(linear(own, gate)) * linear(own, up)
            gate_sums.append(np.square(own.astype(np.float64)).sum(axis=0))
            down_sums.append(np.square(inner.astype(np.float64)).sum(axis=0))
            count.append(len(own))
        for name, value in (("ffn_gate_exps", gate_sums), ("ffn_up_exps", gate_sums), ("ffn_down_exps", down_sums)):
            sums[f"{ours}{name}.weight"], counts[f"{ours}{name}.weight"] = np.array(value), np.array(count)
        x = x + qwen_reference._experts(middle, tensors, theirs + "mlp.", settings)
    return sums, counts


@pytest.mark.usefixtures("in_full_precision")
def test_the_sums_of_each_expert_are_those_of_a_plain_numpy_pass(tmp_path: Path) -> None:
    model = write_qwen(tmp_path / "checkpoint", Shape("qwen3moe", hidden=64, heads=2, experts=6, used=2, blocks=2))
    path = tmp_path / "x.gguf"
    convert(prepare(tmp_path / "checkpoint", "F32"), path, 2)
    found = gather(path, [WORDS], tmp_path / "x.imatrix", CTX, 1)
    sums, counts = numpy_sums(model, ids_of(path, WORDS)[:CTX])
    for name, expected in sums.items():
        assert np.abs(found.entries[name].squares - expected.reshape(-1)).max() < 1e-4 * expected.max(), name
    for name, expected in counts.items():
        assert found.entries[name].expert_counts == tuple(expected), name
        assert found.entries[name].count == 2 * CTX
    assert found.entries["blk.0.attn_q.weight"].expert_counts == ()
    assert not any("ffn_gate_inp" in name or name.endswith(".counts") for name in found.entries)
    again = read_imatrix(tmp_path / "x.imatrix")
    assert {name: one.expert_counts for name, one in again.entries.items()} == {
        name: one.expert_counts for name, one in found.entries.items()
    }


def test_a_gathering_that_goes_on_counts_experts_as_one_that_does_not(tmp_path: Path) -> None:
    write_qwen(tmp_path / "checkpoint", Shape("qwen3moe", hidden=64, heads=2, experts=4, used=2, blocks=1))
    path, text = tmp_path / "x.gguf", Text("t", WORDS.content[:800])
    convert(prepare(tmp_path / "checkpoint", "F32"), path, 2)
    one, two = gather(path, [text], None, CTX, 1), gather(path, [text], None, CTX, 2)
    name = "blk.0.ffn_down_exps.weight"
    assert two.entries[name].count == 2 * one.entries[name].count == 4 * CTX
    assert all(a <= b for a, b in zip(one.entries[name].expert_counts, two.entries[name].expert_counts, strict=True))


def test_a_file_has_the_shapes_of_llama_imatrix_and_an_idle_expert_weighs_the_same_everywhere(tmp_path: Path) -> None:
    squares = np.arange(6, dtype=np.float32)
    matrix = ImportanceMatrix({"e": Sums(squares, 5.0, (4.0, 0.0, 1.0)), "d": Sums(squares, 2.0)}, ("t",), 1, 5)
    write_imatrix(tmp_path / "x", matrix)
    shapes = {one.name: [int(size) for size in one.shape] for one in GGUFReader(tmp_path / "x").tensors}
    assert shapes == {"d.in_sum2": [6], "d.counts": [1], "e.in_sum2": [2, 3], "e.counts": [1, 3]}
    found = read_imatrix(tmp_path / "x")
    assert found.entries["e"].expert_counts == (4.0, 0.0, 1.0)
    assert found.importance("e") == pytest.approx([0, 0.25, 1, 1, 4, 5])
    assert found.importance("d") == pytest.approx(squares / 2)
