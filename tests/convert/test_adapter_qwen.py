"""Adapters of Qwen's layouts: q, k and v apart and with biases, experts of a mixture, a tied output."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bq.convert.adapter.gguf import plan_adapter, write_adapter
from bq.convert.adapter.read import read_adapter
from bq.convert.convert import convert, prepare
from bq.convert.verify.against import Against, check_against
from bq.convert.verify.blas import one_thread_each
from bq.runtime.adapters import GivenAdapter, attach
from bq.runtime.errors import BqError
from bq.runtime.gguf_file import read_gguf
from tests.support import qwen_reference
from tests.support.adapters import merged
from tests.support.adapters import write_adapter as make_adapter
from tests.support.llama import logits
from tests.support.qwen import FAMILIES, Family, Shape, config, write_qwen
from tests.support.stored import F32

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head")
TOLERANCE = 1e-4
IDS = np.random.default_rng(7).integers(10, 420, 12).tolist()


@pytest.fixture(autouse=True)
def on_one_thread() -> Iterator[None]:
    with one_thread_each():
        yield


def off(ours: F32, right: F32) -> float:
    return float(np.abs(ours - right).max() / np.abs(right).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_files_compute_what_the_definition_computes(tmp_path: Path, family: Family) -> None:
    shape = Shape(family)
    checkpoint = write_qwen(tmp_path / "base", shape)
    made = make_adapter(tmp_path / "mine", checkpoint, TARGETS, use_rslora=True)
    adapters = (read_adapter(made.folder),)
    out = tmp_path / "merged.gguf"
    convert(prepare(checkpoint.folder, "F32", adapters=adapters), out, threads=2)
    right = qwen_reference.logits(merged(checkpoint, [(made, 1.0)]), config(shape), IDS)

    assert off(logits(out, IDS), right) < TOLERANCE
    assert off(checkpoint.logits(IDS), right) > 1000 * TOLERANCE
    checks = list(check_against(out, checkpoint.folder, Against(threads=1, tokens=8, adapters=adapters)))
    assert {check.name: check.verdict for check in checks}["weights"] == "pass"
    assert {check.verdict for check in checks} == {"pass"}, [check.text for check in checks]


def test_an_adapter_of_its_own_computes_the_same(tmp_path: Path) -> None:
    shape = Shape()
    checkpoint = write_qwen(tmp_path / "base", shape)
    made = make_adapter(tmp_path / "mine", checkpoint, TARGETS)
    out, model = tmp_path / "adapter.gguf", tmp_path / "base.gguf"
    write_adapter(plan_adapter(prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)])), out)
    convert(prepare(checkpoint.folder, "F32"), model, threads=2)
    ours = logits(model, IDS, lambda loaded, context: attach(loaded, context, read_gguf(model), [GivenAdapter(out)]))
    assert off(ours, qwen_reference.logits(merged(checkpoint, [(made, 1.0)]), config(shape), IDS)) < TOLERANCE


def test_experts_are_no_adapter_of_their_own(tmp_path: Path) -> None:
    checkpoint = write_qwen(tmp_path / "base", Shape("qwen3moe"))
    made = make_adapter(tmp_path / "mine", checkpoint, ("up_proj",))
    conversion = prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)])
    with pytest.raises(BqError, match="changes the experts"):
        plan_adapter(conversion)


def test_an_embedding_that_is_the_output_too_is_not_changed(tmp_path: Path) -> None:
    checkpoint = write_qwen(tmp_path / "base", Shape(tied=True))
    made = make_adapter(tmp_path / "mine", checkpoint, ("embed_tokens",))
    with pytest.raises(BqError, match="tie_word_embeddings"):
        prepare(checkpoint.folder, "F32", adapters=[read_adapter(made.folder)])
