"""The numpy forward pass computes what the reference computes, for all families, layouts, and texts at once."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.convert.verify import checkpoint_weights, forward
from bq.convert.verify.blas import one_thread_each
from bq.convert.verify.forward import Forward, open_forward
from bq.runtime.errors import BqError
from tests.support import reference
from tests.support.families import FAMILIES, Checkpoint, Family, Shape, config, write_checkpoint
from tests.support.reference import F32
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import DType, Stored, stored

SMALL: dict[str, Any] = {"hidden": 96, "heads": 6, "ffn": 160}
TOLERANCE = 1e-5  # relative; both sides sum in float32, in other orders
TEXTS = ([300, 301, 5, 6, 699, 400, 33, 195], [9], [], [17, 500, 501, 17, 500])


@pytest.fixture(autouse=True)
def quick_reference() -> Iterator[None]:
    """Its small products take no time on one thread, and much on several that wait for each other."""
    with one_thread_each():
        yield


def gathered(found: Forward, texts: "list[list[int]]", first: int = 0) -> dict[int, F32]:
    """The logits of each text from `first` on, put together; the positions must follow each other."""
    parts: dict[int, list[F32]] = {}
    for index, position, rows in found.logits(texts, first):
        assert position == first + sum(map(len, parts.get(index, [])))
        parts.setdefault(index, []).append(rows.copy())
    return {index: np.concatenate(one) for index, one in parts.items()}


def assert_same(found: F32, expected: F32) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("family", "dtype"), zip(FAMILIES, ("bf16", "f16", "f32", "bf16"), strict=True))
def test_the_logits_are_those_of_the_reference(
    tmp_path: Path, family: Family, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_weights, "_SLAB_WEIGHTS", 1 << 12)  # several slabs of each matrix
    monkeypatch.setattr(forward, "_LOGIT_ROWS", 3)
    checkpoint = write_checkpoint(tmp_path, Shape(family, dtype=dtype, **SMALL))
    found = gathered(open_forward(tmp_path), [*map(list, TEXTS)])
    assert sorted(found) == [0, 1, 3]
    for index, rows in found.items():
        assert_same(rows, checkpoint.logits(TEXTS[index]))


def test_the_llama_layout_and_another_base_are_followed(tmp_path: Path) -> None:
    """q, k and v apart, lm_head used as it is: what fine-tuning tools rewrite a Baichuan 2 7B to."""
    shape = Shape("b2-7b", dtype="f32", **SMALL)
    write_checkpoint(tmp_path, shape)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "modeling_baichuan.py").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config(shape) | {"architectures": ["LlamaForCausalLM"]}))
    checkpoint = Checkpoint(tmp_path, shape)
    tensors: list[Stored] = []
    for name, rows in checkpoint.items():
        if name.endswith("W_pack.weight"):
            parts = zip("qkv", np.split(rows, 3), strict=True)
            tensors += [stored(name.replace("W_pack", f"{part}_proj"), third, "f32") for part, third in parts]
        else:
            tensors.append(stored(name, rows, "f32"))
    write_safetensors(tmp_path / "model.safetensors", tensors)
    plain = reference.architecture(checkpoint.config, norm_head=False)
    assert_same(gathered(open_forward(tmp_path), [[*TEXTS[0]]])[0], reference.logits(checkpoint, plain, TEXTS[0]))


def test_positions_before_the_first_wanted_are_left_out(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, Shape("b2-7b", hidden=64, heads=2, ffn=64))
    found = gathered(open_forward(tmp_path), [[*text] for text in TEXTS], first=3)
    assert sorted(found) == [0, 3]
    assert_same(found[0], checkpoint.logits(TEXTS[0])[3:])
    assert list(open_forward(tmp_path).logits([[1, 2]], first=2)) == []


def test_the_progress_rises_to_the_whole(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Shape("b1-13b", hidden=64, heads=2, ffn=64))
    heard: list[float] = []
    list(open_forward(tmp_path).logits([[1, 2], [3]], progress=heard.append))
    assert all(a < b for a, b in itertools.pairwise(heard))
    assert heard[-1] == pytest.approx(1)
    assert len(heard) == 41


def test_weights_that_are_no_numbers_are_an_error_that_says_so(tmp_path: Path) -> None:
    def broken(tensors: list[Stored]) -> list[Stored]:
        return [
            stored(one.name, np.full(one.shape, np.nan), "bf16") if one.name == "model.norm.weight" else one
            for one in tensors
        ]

    write_checkpoint(tmp_path, Shape("b2-7b", hidden=64, heads=2, ffn=64, form="safetensors"), edit=broken)
    with pytest.raises(BqError, match="no numbers"):
        list(open_forward(tmp_path).logits([[1, 2]]))
