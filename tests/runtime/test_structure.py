"""A file that llama.cpp could not run as a Baichuan is refused in a line that names the key, the piece or the tensor."""

import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library, model_params
from bq.runtime.loading import LoadOptions, load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.structure import check_structure
from tests.support.broken_gguf import strings
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U16,
    U32,
    U64,
    Parts,
    Tensor,
    array,
    encoded,
    take_apart,
)
from tests.support.refusals import refusal

Convert = Callable[..., Path]
Change = Callable[[Parts], Parts]
TINY: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
ONE = LoadOptions(ctx=64, threads=1)
TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
F16, Q8_0 = 1, 8


@pytest.fixture(scope="session")
def sound(converted: Convert) -> Parts:
    """The parts of a sound file."""
    return take_apart(converted("b2-7b", "Q8_0", **TINY))


def key(name: str, kind: int, value: Any) -> Change:
    return lambda parts: parts.with_key(name, kind, encoded(kind, value))


def model_key(name: str, kind: int, value: Any) -> Change:
    return key(f"baichuan.{name}", kind, value)


def missing(*names: str) -> Change:
    return lambda parts: parts.without_key(*names)


def pieces(edit: Callable[[list[str]], list[str]]) -> Change:
    return lambda parts: parts.with_key(TOKENS, ARRAY, array(STRING, edit(strings(parts))))


def piece(token: int, text: str) -> Change:
    return pieces(lambda found: [*found[:token], text, *found[token + 1 :]])


def numbers(name: str, kind: int, edit: Callable[[list[Any]], list[Any]]) -> Change:
    def change(parts: Parts) -> Parts:
        value = parts.key(name).value
        found = list(struct.unpack(f"<{(len(value) - 12) // 4}{'f' if kind == F32 else 'i'}", value[12:]))
        return parts.with_key(name, ARRAY, array(kind, edit(found)))

    return change


def tensor(name: str, *edits: Callable[[Tensor], Tensor]) -> Change:
    """The tensor in the forms given: none leaves it out."""

    def change(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index(name)
        return parts.with_tensor(index, *(edit(parts.tensors[index]) for edit in edits))

    return change


def more(name: str, *dims: int) -> Change:
    return lambda parts: replace(parts, tensors=(*parts.tensors, Tensor(name, dims, 0, b"\0" * 128)))


def shaped(*dims: int) -> Callable[[Tensor], Tensor]:
    """For a tensor of Q8_0: 34 bytes for 32 weights."""
    return lambda one: replace(one, dims=dims, data=(one.data * 2)[: math.prod(dims) // 32 * 34])


def stored(kind: int) -> Callable[[Tensor], Tensor]:
    return lambda one: replace(one, kind=kind, data=one.data[: len(one.data) // 2])


RMS, KV = "attention.layer_norm_rms_epsilon", "attention.head_count_kv"
FAULTS: list[tuple[Change, str]] = [
    (missing("baichuan.block_count"), r"baichuan\.block_count is missing"),
    (model_key("block_count", U32, 33), r"baichuan\.block_count is 33, expected 32 \(7B\) or 40 \(13B\)"),
    (model_key("block_count", STRING, "32"), r"baichuan\.block_count is of type str, expected u32"),
    (model_key("block_count", U32, 40), r"the tensor blk\.32\.attn_norm\.weight \[32\] is missing"),
    (missing("baichuan.context_length"), r"baichuan\.context_length is missing"),
    (model_key("context_length", U32, 0), r"baichuan\.context_length is 0, expected 64 to 16777216"),
    (model_key("context_length", U32, (1 << 32) - 1), r"baichuan\.context_length is 4294967295"),
    (model_key("context_length", U64, 4096), r"baichuan\.context_length is of type u64, expected u32"),
    (model_key("embedding_length", U32, 64), r"rope\.dimension_count is 16, expected 32"),
    (model_key("embedding_length_out", U32, 64), r"embedding_length_out is 64, expected 32"),
    (
        model_key("feed_forward_length", U32, 64),
        r"blk\.0\.ffn_down\.weight has the shape \[32, 32\], expected \[32, 64\]",
    ),
    (model_key("attention.head_count", U32, 0), r"attention\.head_count is 0"),
    (
        model_key("attention.head_count", U32, 3),
        r"attention\.head_count is 3, expected a number of heads of an even width",
    ),
    (model_key("attention.head_count", U32, 32), r"attention\.head_count is 32"),
    (model_key(KV, U32, 0), r"head_count_kv is 0, expected a divisor of 2"),
    (model_key(KV, U32, 1), r"blk\.0\.attn_k\.weight has the shape \[32, 32\], expected \[16, 32\]"),
    (model_key(RMS, F32, float("nan")), r"rms_epsilon is nan, expected between 0 and 1"),
    (model_key(RMS, F32, -1.0), r"rms_epsilon is -1\.0"),
    (model_key("attention.causal", BOOL, False), r"attention\.causal is False, expected True"),
    (model_key("attention.key_length", U32, 32), r"attention\.key_length is 32, expected 16"),
    (model_key("rope.dimension_count", U32, 0), r"rope\.dimension_count is 0, expected 16"),
    (model_key("rope.freq_base", F32, 0.0), r"rope\.freq_base is 0\.0, expected a number above 0"),
    (model_key("rope.scaling.type", STRING, "su"), r"rope\.scaling\.type is 'su', expected none / linear"),
    (model_key("expert_count", U32, 99999), r"expert_count is 99999, expected 0"),
    (model_key("expert_used_count", U32, 2), r"expert_used_count is 2, expected 0"),
    (model_key("nextn_predict_layers", U32, 33), r"nextn_predict_layers is 33, expected 0"),
    (model_key("pooling_type", U32, 4), r"pooling_type is 4, expected 0"),
    (key("general.file_type", STRING, "x"), r"general\.file_type is of type str, expected u32"),
    (key("tokenizer.ggml.model", STRING, "gpt2"), r"tokenizer\.ggml\.model is 'gpt2', expected llama"),
    (key("tokenizer.ggml.eos_token_id", U32, 704), r"eos_token_id is 704, expected 0 to 703"),
    (key("tokenizer.ggml.add_bos_token", U32, 1), r"add_bos_token is of type u32, expected bool"),
    (key("bq.role.user_id", U32, 99999), r"bq\.role\.user_id is 99999, expected 0 to 703"),
    (key("bq.role.assistant_id", I32, -1), r"bq\.role\.assistant_id is of type i32"),
    (missing(TOKENS), r"tokenizer\.ggml\.tokens is missing"),
    (key(TOKENS, STRING, "a"), r"tokenizer\.ggml\.tokens is of type str, expected \[str\]"),
    (missing(SCORES), r"tokenizer\.ggml\.scores is missing"),
    (numbers(SCORES, F32, lambda found: found[:-1]), r"scores has 703 entries for 704 pieces"),
    (numbers(SCORES, F32, lambda found: [*found[:-1], float("nan")]), r"scores holds what is no number"),
    (numbers(SCORES, I32, lambda found: [0] * 704), r"scores is of type \[i32\], expected \[f32\]"),
    (numbers(TYPES, I32, lambda found: [*found, 1]), r"token_type has 705 entries for 704 pieces"),
    (numbers(TYPES, I32, lambda found: [*found[:-1], 7]), r"token 703 has the type 7"),
    (numbers(TYPES, I32, lambda found: [*found[:-1], 6]), r"token 703, '\[PAD703\]', is typed as a byte"),
    (piece(600, "<0x00>"), r"the tokens \d+ and 600 are both '<0x00>'"),
    (piece(600, "[PAD703]"), r"the tokens 600 and 703 are both '\[PAD703\]'"),
    (
        lambda parts: piece(600, "[EMPTY_601]")(piece(601, "")(parts)),
        r"the tokens 600 and 601 are both '\[EMPTY_601\]'",
    ),
    (piece(600, "a\0b"), r"tokens holds a piece with a NUL"),
    (
        pieces(lambda found: ["other" if one == "<0x41>" else one for one in found]),
        r"tokens lacks <0x41>, a byte's piece",
    ),
    (pieces(lambda found: [*found, "one more"]), r"scores has 704 entries for 705 pieces"),
    (tensor("output.weight"), r"the tensor output\.weight \[704, 32\] is missing"),
    (tensor("token_embd.weight"), r"the tensor token_embd\.weight \[704, 32\] is missing"),
    (tensor("blk.31.ffn_up.weight"), r"the tensor blk\.31\.ffn_up\.weight \[32, 32\] is missing"),
    (tensor("output.weight", shaped(32, 705)), r"output\.weight has the shape \[705, 32\], expected \[704, 32\]"),
    (tensor("blk.3.attn_q.weight", shaped(32, 32, 2)), r"blk\.3\.attn_q\.weight has the shape \[2, 32, 32\]"),
    (tensor("output_norm.weight", stored(F16)), r"output_norm\.weight is F16, expected F32"),
    (more("blk.7.attn_k.bias", 16, 2), r"blk\.7\.attn_k\.bias has the shape \[2, 16\], expected \[32\]"),
    (more("rope_freqs.weight", 8), r"it holds rope_freqs\.weight, which no Baichuan model has"),
    (more("blk.32.attn_norm.weight", 32), r"it holds blk\.32\.attn_norm\.weight, which no Baichuan model has"),
    (lambda parts: replace(parts, tensors=()), r"the tensor token_embd\.weight \[704, 32\] is missing"),
]


@pytest.mark.parametrize(("change", "words"), FAULTS, ids=[words for _, words in FAULTS])
def test_a_fault_is_named(tmp_path: Path, sound: Parts, change: Change, words: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(change(sound).to_bytes())
    message = refusal(load, path, ONE)
    assert re.fullmatch(rf"x\.gguf is broken: .*{words}.*\. Convert the release again .*", message), message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mixture", ["F32", "Q4_K_M"])
def test_what_bq_makes_is_sound(converted: Convert, family: Family, mixture: str) -> None:
    check_structure(read_gguf(converted(family, mixture, **(TINY if mixture == "F32" else {}))))


def test_other_models_and_parts_of_files_are_told_what_to_do(tmp_path: Path, sound: Parts) -> None:
    path = tmp_path / "x.gguf"
    for change, words in (
        (
            key("general.architecture", STRING, "llama"),
            "x.gguf is a llama model; bq runs Baichuan models. Use llama.cpp",
        ),
        (missing("general.architecture"), "x.gguf is a ? model"),
        (
            key("split.count", U16, 3),
            "x.gguf is part 1 of a file split into 3. Merge them with llama.cpp's tool: llama-gguf-split",
        ),
    ):
        path.write_bytes(change(sound).to_bytes())
        with pytest.raises(UsageError) as caught:
            load(path, ONE)
        assert str(caught.value).startswith(words)


def answer(parts: Parts, path: Path) -> str:
    path.write_bytes(parts.to_bytes())
    with load(path, ONE) as model:
        greedy = Sampling(temperature=0, repeat_penalty=1)
        return "".join(model.chat([Message("user", "the model")], sampling=greedy, max_tokens=8))


def _fused(parts: Parts) -> Parts:
    by_name = {one.name: one for one in parts.tensors}
    tensors = []
    for one in parts.tensors:
        block, _, part = one.name.rpartition("attn_")
        if part == "q.weight":
            three = [by_name[f"{block}attn_{letter}.weight"].data for letter in "qkv"]
            tensors.append(Tensor(f"{block}attn_qkv.weight", (32, 96), one.kind, b"".join(three)))
        elif part not in ("k.weight", "v.weight"):
            tensors.append(one)
    return replace(parts, tensors=tuple(tensors))


def test_other_forms_that_llama_cpp_takes_are_taken(tmp_path: Path, sound: Parts) -> None:
    """q, k and v in one tensor; biases; a first dimension more; keys of other programs."""
    expected = answer(sound, tmp_path / "0.gguf")
    biases = [Tensor(f"blk.{i}.attn_{part}.bias", (32,), 0, b"\0" * 128) for i in range(32) for part in "qkv"]
    forms = {
        "fused": _fused(sound),
        "biases": replace(sound, tensors=(*sound.tensors, *biases)),
        "deeper": tensor("output_norm.weight", lambda one: replace(one, dims=(32, 1)))(sound),
        "keys": key("baichuan.tensor_data_layout", STRING, "Meta AI original pth")(missing("general.name")(sound)),
        "one part": key("split.count", U16, 1)(sound),
    }
    for name, parts in forms.items():
        assert answer(parts, tmp_path / f"{name}.gguf") == expected, name


def _llama_takes(path: Path) -> bool:
    lib = library()
    model = lib.llama_model_load_from_file(os.fsencode(path), model_params())
    if model:
        lib.llama_model_free(model)
    return bool(model)


def test_what_is_required_is_what_llama_cpp_requires(tmp_path: Path, sound: Parts) -> None:
    """No tensor is asked for that it would do without, none is left to it to miss."""
    path = tmp_path / "x.gguf"
    assert _llama_takes(_written(path, sound))
    names = [one.name for one in sound.tensors if not one.name.startswith("blk.") or one.name.startswith("blk.9.")]
    assert len(names) == 12
    for name in names:
        assert not _llama_takes(_written(path, tensor(name)(sound))), name
        assert f"the tensor {name}" in refusal(check_structure, read_gguf(path))


def _written(path: Path, parts: Parts) -> Path:
    path.write_bytes(parts.to_bytes())
    return path
