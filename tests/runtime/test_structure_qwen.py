"""Qwen2 and Qwen3-MoE files are held to llama.cpp's own demands, and a fault is named before llama.cpp sees the file."""

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
from bq.runtime.structure import check_structure
from bq.runtime.structure_vocabulary import byte_characters
from tests.support import qwen_gguf
from tests.support.broken_gguf import strings
from tests.support.gguf_writer import ARRAY, F32, I32, STRING, U32, Parts, Tensor, array, encoded, take_apart
from tests.support.qwen_gguf import QwenShape, write_qwen
from tests.support.refusals import refusal

Change = Callable[[Parts], Parts]
DENSE = QwenShape(hidden=32, heads=2, kv_heads=1, ffn=32, merges=20)  # heads of 16
EXPERTS = replace(DENSE, experts=4, width=8)
TOKENS, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges"))
F16 = 1


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return take_apart(write_qwen(tmp_path_factory.mktemp("qwen2") / "x.gguf", DENSE))


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return take_apart(write_qwen(tmp_path_factory.mktemp("qwen3moe") / "x.gguf", EXPERTS))


def key(name: str, kind: int, value: Any) -> Change:
    def change(parts: Parts) -> Parts:
        prefix = "qwen3moe." if any(one.name.startswith("qwen3moe.") for one in parts.keys) else "qwen2."
        return parts.with_key(
            name if "." in name and "tokenizer" in name else prefix + name, kind, encoded(kind, value)
        )

    return change


def missing(name: str) -> Change:
    return lambda parts: parts.without_key(name)


def words(name: str, edit: Callable[[list[str]], list[str]]) -> Change:
    def change(parts: Parts) -> Parts:
        return parts.with_key(name, ARRAY, array(STRING, edit(strings(parts, name))))

    return change


def types(edit: Callable[[list[int]], list[int]]) -> Change:
    def change(parts: Parts) -> Parts:
        value = parts.key(TYPES).value
        found = list(struct.unpack(f"<{(len(value) - 12) // 4}i", value[12:]))
        return parts.with_key(TYPES, ARRAY, array(I32, edit(found)))

    return change


def tensor(name: str, edit: Callable[[Tensor], Tensor] | None = None) -> Change:
    def change(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index(name)
        return parts.with_tensor(index, *([edit(parts.tensors[index])] if edit else []))

    return change


def more(name: str, *dims: int) -> Change:
    return lambda parts: replace(parts, tensors=(*parts.tensors, Tensor(name, dims, 0, b"\0" * 4 * dims[0])))


def shaped(*dims: int) -> Callable[[Tensor], Tensor]:
    return lambda one: replace(one, dims=dims)


BOTH: list[tuple[Change, str]] = [
    (key("block_count", U32, 0), r"block_count is 0, expected 1 to 512"),
    (key("block_count", U32, 600), r"block_count is 600, expected 1 to 512"),
    (key("block_count", U32, 3), r"the tensor blk\.2\.attn_norm\.weight \[32\] is missing"),
    (key("context_length", U32, 1 << 30), r"context_length is 1073741824"),
    (key("attention.head_count", U32, 0), r"attention\.head_count is 0"),
    (key("attention.head_count_kv", U32, 0), r"head_count_kv is 0, expected a divisor of 2"),
    (key("attention.head_count_kv", U32, 2), r"attn_k\.(weight|bias) has the shape"),
    (key("attention.layer_norm_rms_epsilon", F32, 2.0), r"rms_epsilon is 2\.0, expected between 0 and 1"),
    (key("rope.freq_base", F32, float("inf")), r"rope\.freq_base is inf, expected a number above 0"),
    (key("rope.scaling.type", STRING, "su"), r"rope\.scaling\.type is 'su', expected none / linear"),
    (key("nextn_predict_layers", U32, 1), r"nextn_predict_layers is 1, expected 0"),
    (key("tokenizer.ggml.model", STRING, "llama"), r"tokenizer\.ggml\.model is 'llama', expected gpt2"),
    (key("tokenizer.ggml.pre", STRING, "default"), r"tokenizer\.ggml\.pre is 'default', expected qwen2"),
    (missing("tokenizer.ggml.pre"), r"tokenizer\.ggml\.pre is missing"),
    (missing(MERGES), r"tokenizer\.ggml\.merges is missing"),
    (words(MERGES, lambda found: [*found, "ab"]), r"merge 20, 'ab', makes no piece"),
    (words(MERGES, lambda found: [*found, "a §"]), r"merge 20, 'a §', makes no piece"),
    (words(MERGES, lambda found: [*found, " a"]), r"merge 20, ' a', makes no piece"),
    (
        words(TOKENS, lambda found: ["nbsp" if one == "ł" else one for one in found]),
        r"tokens lacks 'ł', a byte's piece",
    ),
    (words(TOKENS, lambda found: [*found[:-1], "!"]), r"the tokens 0 and \d+ are both '!'"),
    (words(TOKENS, lambda found: [*found[:-1], "a\0"]), r"tokens holds a piece with a NUL"),
    (types(lambda found: [*found[:-1], 6]), r"token \d+, '\[PAD\d+\]', is typed as a byte"),
    (types(lambda found: found[:-1]), r"token_type has \d+ entries for \d+ pieces"),
    (key("tokenizer.ggml.eos_token_id", U32, 99999), r"eos_token_id is 99999"),
    (tensor("token_embd.weight"), r"the tensor token_embd\.weight \[\d+, 32\] is missing"),
    (tensor("blk.1.attn_output.weight"), r"the tensor blk\.1\.attn_output\.weight \[32, \d+\] is missing"),
    (
        tensor("output_norm.weight", lambda one: replace(one, kind=F16, data=one.data[:64])),
        r"output_norm\.weight is F16",
    ),
    (more("blk.0.attn_q.scale", 1), r"it holds blk\.0\.attn_q\.scale, which no Qwen\S+ model has"),
]
OF_DENSE: list[tuple[Change, str]] = [
    (key("attention.head_count", U32, 3), r"head_count is 3, expected a number of heads of an even width"),
    (key("attention.key_length", U32, 32), r"attention\.key_length is 32, expected 16"),
    (key("rope.dimension_count", U32, 8), r"rope\.dimension_count is 8, expected 16"),
    (key("expert_count", U32, 4), r"expert_count is 4, expected 0"),
    (tensor("blk.0.attn_q.bias", shaped(16, 2)), r"blk\.0\.attn_q\.bias has the shape \[2, 16\], expected \[32\]"),
    (more("blk.0.attn_q_norm.weight", 16), r"it holds blk\.0\.attn_q_norm\.weight, which no Qwen2 model has"),
    (tensor("blk.0.ffn_down.weight", shaped(16, 64)), r"blk\.0\.ffn_down\.weight has the shape \[64, 16\]"),
]
OF_EXPERTS: list[tuple[Change, str]] = [
    (key("attention.key_length", U32, 7), r"attention\.(head_count|key_length) is \d, expected"),
    (key("attention.value_length", U32, 16), r"attention\.value_length is 16, expected one even width"),
    (missing("qwen3moe.attention.value_length"), r"attention\.value_length is missing"),
    (key("rope.dimension_count", U32, 16), r"rope\.dimension_count is 16, expected one even width"),
    (missing("qwen3moe.expert_count"), r"expert_count is missing"),
    (key("expert_count", U32, 2000), r"expert_count is 2000, expected 1 to 1024"),
    (key("expert_count", U32, 8), r"ffn_gate_inp\.weight has the shape \[4, 32\], expected \[8, 32\]"),
    (key("expert_used_count", U32, 5), r"expert_used_count is 5, expected 1 to 4"),
    (key("expert_used_count", U32, 0), r"expert_used_count is 0, expected 1 to 4"),
    (key("expert_group_count", U32, 2), r"expert_group_count is 2, expected 0"),
    (
        key("expert_feed_forward_length", U32, 64),
        r"ffn_gate_exps\.weight has the shape \[4, 32, 32\], expected \[4, 64, 32\]",
    ),
    (tensor("blk.1.ffn_gate_inp.weight"), r"the tensor blk\.1\.ffn_gate_inp\.weight \[4, 32\] is missing"),
    (tensor("blk.0.attn_k_norm.weight"), r"the tensor blk\.0\.attn_k_norm\.weight \[8\] is missing"),
    (tensor("blk.0.ffn_up_exps.weight", shaped(32, 128)), r"blk\.0\.ffn_up_exps\.weight has the shape \[128, 32\]"),
    (more("blk.0.ffn_gate.weight", 32), r"it holds blk\.0\.ffn_gate\.weight, which no Qwen3-MoE model has"),
]
CASES = [("dense", *one) for one in BOTH + OF_DENSE] + [("experts", *one) for one in BOTH + OF_EXPERTS]


@pytest.mark.parametrize(("kind", "change", "expected"), CASES, ids=[f"{kind}-{text}" for kind, _, text in CASES])
def test_a_fault_is_named(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, change: Change, expected: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(change(request.getfixturevalue(kind)).to_bytes())
    message = refusal(check_structure, read_gguf(path))
    assert re.fullmatch(rf"x\.gguf is broken: .*{expected}.*\. Convert the release again .*", message), message


def _llama_takes(path: Path) -> bool:
    lib = library()
    model = lib.llama_model_load_from_file(os.fsencode(path), model_params())
    if model:
        lib.llama_model_free(model)
    return bool(model)


def _is_taken(path: Path, parts: Parts) -> bool:
    path.write_bytes(parts.to_bytes())
    check_structure(read_gguf(path))
    return _llama_takes(path)


@pytest.mark.parametrize("shape", [DENSE, EXPERTS], ids=["qwen2", "qwen3moe"])
def test_what_is_required_is_what_llama_cpp_requires(tmp_path: Path, shape: QwenShape) -> None:
    """No tensor is asked for that it would do without, none is left to it to miss; output and biases may be missing."""
    parts = take_apart(write_qwen(tmp_path / "x.gguf", shape))
    path = tmp_path / "y.gguf"
    assert _is_taken(path, parts)
    for name in [one.name for one in parts.tensors if not one.name.startswith("blk.0.")]:
        lacking = tensor(name)(parts)
        if name == "output.weight" or name.endswith(".bias"):
            assert _is_taken(path, lacking), name
            continue
        path.write_bytes(lacking.to_bytes())
        assert not _llama_takes(path), name
        assert f"the tensor {name}" in refusal(check_structure, read_gguf(path))


def test_other_forms_that_llama_cpp_takes_are_taken(tmp_path: Path, dense: Parts, experts: Parts) -> None:
    by_name = {one.name: one for one in dense.tensors}
    fused = dense
    for number in range(2):
        three = [by_name[f"blk.{number}.attn_{part}.weight"] for part in "qkv"]
        whole = Tensor(f"blk.{number}.attn_qkv.weight", (32, 64), 0, b"".join(one.data for one in three))
        for one in three[1:]:
            fused = tensor(one.name)(fused)
        fused = tensor(three[0].name, lambda _, whole=whole: whole)(fused)
    forms = {
        "fused": fused,
        "output bias": more("output.bias", DENSE.vocab)(dense),
        "default width of an expert": missing("qwen3moe.expert_feed_forward_length")(
            key("feed_forward_length", U32, 64)(experts)
        ),
        "another name of the cut": key("tokenizer.ggml.pre", STRING, "deepseek-r1-qwen")(experts),
        "yarn": key("rope.scaling.factor", F32, 4.0)(key("rope.scaling.type", STRING, "yarn")(dense)),
    }
    for name, parts in forms.items():
        assert _is_taken(tmp_path / "x.gguf", parts), name


def test_baichuan_m1_and_other_models_are_told_why_they_do_not_run(tmp_path: Path, dense: Parts) -> None:
    path = tmp_path / "x.gguf"
    for architecture, expected in (
        (
            "baichuan_m1",
            r"x\.gguf is a baichuan_m1 model .* no graph with a convolution over keys and values.* Baichuan-M2; .*",
        ),
        ("baichuan-m1", "x.gguf is a baichuan-m1 model .*"),
        ("qwen3", "x.gguf is a qwen3 model; bq runs Baichuan models. .* architectures baichuan, qwen2, qwen3moe."),
    ):
        parts = dense.with_key("general.architecture", STRING, encoded(STRING, architecture))
        path.write_bytes(parts.to_bytes())
        with pytest.raises(UsageError) as caught:
            check_structure(read_gguf(path))
        assert re.fullmatch(expected, str(caught.value))


def test_the_characters_of_bytes_are_gpt_2s() -> None:
    """Beside a second way to make them, and some that everyone knows."""
    found = byte_characters()
    assert [found[byte] for byte in b" \n\0A\x7f\xad"] == ["Ġ", "Ċ", "Ā", "A", "ġ", "Ń"]
    assert sorted(found.values()) == sorted(qwen_gguf.byte_characters())
