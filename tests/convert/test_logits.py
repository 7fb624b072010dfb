"""Acceptance 2: what llama.cpp computes from our F32 file is what the checkpoint says, by a plain numpy forward pass."""

from pathlib import Path

import numpy as np
import pytest

from bq.convert.convert import convert, prepare
from tests.support.families import FAMILIES, FORMS, Family, Form, Shape, write_checkpoint
from tests.support.llama import logits

TOKENS = 32
# The issue asks for 5e-3. Both sides sum in float32 in different orders; 40 blocks give about 4e-6 here.
TOLERANCE = 1e-4


@pytest.mark.parametrize(("family", "form"), zip(FAMILIES, FORMS, strict=True))
def test_logits_equal_the_reference(tmp_path: Path, family: Family, form: Form) -> None:
    """Each family in a form of its own: that every form gives the same tensors is a test of the checkpoint's reader."""
    checkpoint = write_checkpoint(tmp_path / "model", Shape(family=family, form=form))
    out = tmp_path / "model.gguf"
    convert(prepare(checkpoint.folder, "F32"), out, threads=2)
    ids = np.random.default_rng(7).integers(300, 700, TOKENS).tolist()

    ours, expected = logits(out, ids), checkpoint.logits(ids)

    error = np.abs(ours - expected).max() / np.abs(expected).max()
    print(f"{family} {form}: relative error {error:.1e}")
    assert error < TOLERANCE
    assert (ours.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("family", ["b2-7b", "b2-13b"])
def test_without_the_norm_head_fold_the_logits_are_wrong(tmp_path: Path, family: Family) -> None:
    """The tolerance has teeth: the defect of every older converter is far outside it."""
    from dataclasses import replace

    checkpoint = write_checkpoint(tmp_path / "model", Shape(family=family))
    conversion = prepare(checkpoint.folder, "F32")
    plain = replace(conversion.plan, tensors=tuple(replace(t, normalise=False) for t in conversion.plan.tensors))
    out = tmp_path / "model.gguf"
    convert(replace(conversion, plan=plain), out, threads=2)
    ids = list(range(300, 300 + TOKENS))

    expected = checkpoint.logits(ids)

    assert np.abs(logits(out, ids) - expected).max() / np.abs(expected).max() > 100 * TOLERANCE
