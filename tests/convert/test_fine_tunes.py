"""What fine-tuning tools make of Baichuan: copies in Llama's layout, and vocabularies with tokens of their own. They convert and
compute what they compute elsewhere.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from bq.convert.convert import convert, prepare
from bq.runtime.gguf_file import read_gguf
from bq.runtime.tokenizer import load_tokenizer
from tests.support import reference
from tests.support.companions import write_json
from tests.support.families import Checkpoint, Shape, config, write_checkpoint
from tests.support.llama import logits
from tests.support.refusals import change_json, refusal
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import F32, Stored, stored

TOLERANCE = 1e-4  # both sides sum in float32, in other orders, over 32 or 40 blocks
IDS = np.random.default_rng(5).integers(300, 700, 12).tolist()
ADDED = {"<|tool|>": 700, "<|end|>": 701, "新词": 702}


def write_llama_copy(folder: Path, shape: Shape) -> dict[str, F32]:
    """The release as tools rewrite it: q, k and v apart, NormHead folded, no code of Baichuan's; its tensors."""
    write_checkpoint(folder, shape)
    (folder / "pytorch_model.bin").unlink()
    (folder / "modeling_baichuan.py").unlink()
    changes = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_key_value_heads": shape.heads}
    write_json(folder / "config.json", config(shape) | changes)
    tensors = dict(Checkpoint(folder, shape))
    tensors["lm_head.weight"] = reference.norm_head(tensors["lm_head.weight"])
    parts: list[Stored] = []
    for name, values in tensors.items():
        if name.endswith("W_pack.weight"):
            thirds = zip("qkv", np.split(values, 3), strict=True)
            parts += [stored(name.replace("W_pack", f"{one}_proj"), third, "f32") for one, third in thirds]
        else:
            parts.append(stored(name, values, "f32"))
    write_safetensors(folder / "model.safetensors", parts)
    return tensors


def error_of(path: Path, tensors: dict[str, F32] | Checkpoint, shape: Shape, *, norm_head: bool) -> float:
    expected = reference.logits(tensors, reference.architecture(config(shape), norm_head=norm_head), IDS)
    return float(np.abs(logits(path, IDS) - expected).max() / np.abs(expected).max())


def test_a_llama_copy_answers_as_the_release_does(tmp_path: Path) -> None:
    """Its output is normalised already, and computes what NormHead does."""
    shape = Shape("b2-7b", dtype="f32", hidden=64, heads=2, ffn=96)
    tensors = write_llama_copy(tmp_path / "model", shape)
    conversion = prepare(tmp_path / "model", "F32")
    assert not conversion.norm_head.fold
    convert(conversion, tmp_path / "out.gguf", threads=2)
    assert error_of(tmp_path / "out.gguf", tensors, shape, norm_head=False) < TOLERANCE
    release = write_checkpoint(tmp_path / "release", shape)
    assert error_of(tmp_path / "out.gguf", release, shape, norm_head=True) < TOLERANCE
    assert read_gguf(tmp_path / "out.gguf").count("bq.generation") == 2


def test_a_llama_copy_of_the_13b_is_refused_for_it_has_no_alibi(tmp_path: Path) -> None:
    write_llama_copy(tmp_path / "model", Shape("b2-13b", hidden=64, heads=2, ffn=64))
    message = refusal(prepare, tmp_path / "model", "F32")
    assert "num_hidden_layers is 40" in message
    assert "ALiBi" in message


@pytest.mark.parametrize("is_llama", [False, True], ids=["baichuan", "llama"])
def test_added_tokens_have_their_ids_and_the_logits_are_right(tmp_path: Path, is_llama: bool) -> None:
    """An embedding that was resized to a multiple of 8: some rows are new tokens, the rest padding."""
    shape = Shape("b2-7b", vocab=712, dtype="f32", hidden=64, heads=2, ffn=96)
    folder = tmp_path / "model"
    tensors = write_llama_copy(folder, shape) if is_llama else write_checkpoint(folder, shape)
    write_json(folder / "added_tokens.json", ADDED)
    special = {"additional_special_tokens": ["<|tool|>", "<|end|>"]}
    change_json(folder / "special_tokens_map.json", **special)
    convert(prepare(folder, "F32"), tmp_path / "out.gguf", threads=2)
    assert error_of(tmp_path / "out.gguf", tensors, shape, norm_head=not is_llama) < TOLERANCE
    file = read_gguf(tmp_path / "out.gguf")
    pieces, types = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.token_type"]
    assert {piece: pieces.index(piece) for piece in ADDED} == ADDED
    assert types[700:712] == [3, 3, 4, *[5] * 9]
    with load_tokenizer(tmp_path / "out.gguf") as tokenizer:
        assert 702 in tokenizer.encode("这个新词好")
        assert 700 not in tokenizer.encode("<|tool|>")  # a special one is no text's


def test_more_tokens_than_rows_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", Shape("b2-7b", hidden=64, heads=2, ffn=64))
    (tmp_path / "model" / "added_tokens.json").write_text(json.dumps({"<|tool|>": 704}), encoding="utf-8")
    assert "beyond the embedding's 704 rows" in refusal(prepare, tmp_path / "model", "F32")
