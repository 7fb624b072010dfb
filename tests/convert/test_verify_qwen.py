"""`bq verify` passes right files of Baichuan-M2's and M3's layouts, and names what is wrong with wrong ones."""

import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bq.convert.convert import convert, prepare
from bq.convert.verify.against import Against, check_against
from bq.convert.verify.check import Check
from bq.convert.verify.file_checks import check_file
from bq.convert.verify.oracle import oracle_of
from tests.support import wrong_files as wrong
from tests.support.broken_gguf import strings
from tests.support.gguf_writer import ARRAY, F32, STRING, Parts, array, encoded
from tests.support.qwen import FAMILIES, Family, Shape, write_qwen
from tests.support.wrong_files import Edit, write_wrong

Made = Callable[[Family, str], Path]
# As many heads for keys as for queries: q and k have biases of one shape.
SHAPE = Shape(hidden=64, blocks=2, heads=2, kv_heads=2, ffn=64, expert_ffn=64, experts=4)
MERGES = "tokenizer.ggml.merges"
START, END = SHAPE.own + 1, SHAPE.own + 2  # <|im_start|>, <|im_end|>


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, done = tmp_path_factory.mktemp("qwen"), dict[str, Path]()

    def make(family: Family, mixture: str) -> Path:
        name = f"{family}-{mixture}"
        if name not in done:
            if not (folder / family).exists():
                write_qwen(folder / family, replace(SHAPE, family=family))
            done[name] = folder / f"{name}.gguf"
            convert(prepare(folder / family, mixture), done[name], 2)
        return done[name]

    return make


def faults(checks: Sequence[Check] | Iterator[Check]) -> list[Check]:
    return [check for check in checks if check.verdict != "pass"]


def against(path: Path, source: Path, tokens: int = 8) -> list[Check]:
    return list(check_against(path, source, Against(2, tokens)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mixture", ["F32", "BF16", "Q8_0", "IQ4_NL"])
def test_a_right_file_passes_every_check(made: Made, family: Family, mixture: str) -> None:
    path = made(family, mixture)
    checks = [*check_file(path, 2), *against(path, path.parent / family)]
    assert faults(checks) == []
    found = {check.name: check.details for check in checks}
    assert found["weights"]["exact"] == found["weights"]["tensors"]
    assert found["logits"]["tokens"] == 8
    assert found["token-ids"]["texts"] > 100
    assert found["token-ids"]["oracle"] == "tokenizers"
    assert "norm-head" not in found


def merges(edit: Callable[[list[str]], list[str]]) -> Edit:
    return lambda parts: parts.with_key(MERGES, ARRAY, array(STRING, edit(strings(parts, MERGES))))


def real(name: str, value: float) -> Edit:
    """A number of the file's architecture."""

    def edit(parts: Parts) -> Parts:
        architecture = parts.key("general.architecture").value[8:].decode()
        return parts.with_key(f"{architecture}.{name}", F32, encoded(F32, value))

    return edit


def experts(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Edit:
    """The matrices of a tensor's experts put otherwise."""

    def edit(parts: Parts) -> Parts:
        one = wrong.tensor(parts, name)
        size = len(one.data) // one.dims[2]
        own = [one.data[start : start + size] for start in range(0, len(one.data), size)]
        return wrong.with_data(parts, name, b"".join(change(own)))

    return edit


def nan_in(name: str) -> Edit:
    return lambda parts: wrong.with_data(parts, name, struct.pack("<f", np.nan) + wrong.tensor(parts, name).data[4:])


# family, what is done to the file, the check that does not pass by itself, its verdict, words
ALONE: dict[str, tuple[Family, Edit, str, str, str]] = {
    "im_start NORMAL": ("qwen2", wrong.typed(1, START), "role-pieces", "failure", "<|im_start|> (NORMAL)"),
    "im_start user-defined": ("qwen3moe", wrong.typed(4, START), "role-pieces", "warning", "forges a role"),
    "im_start gone": ("qwen2", lambda parts: wrong_piece(parts, START, "<|start|>"), "role-pieces", "failure", "lacks <|im_start|>"),
    "added pieces NORMAL": ("qwen3moe", wrong.typed(1, SHAPE.own + 12), "token-types", "failure", "'<think>'"),
    "eos is no control": ("qwen2", wrong.number("tokenizer.ggml.eos_token_id", 300), "stop-ids", "failure", "do not end"),
    "another template": ("qwen2", wrong.text("tokenizer.chat_template", "<s>[INST]"), "chat-template", "failure", "does not write"),
    "no template": ("qwen3moe", wrong.without("tokenizer.chat_template"), "chat-template", "warning", "no chat template"),
    "bos is added": ("qwen2", wrong.flag("tokenizer.ggml.add_bos_token", True), "sentence-marks", "warning", "add_bos_token"),
    "no rope base": ("qwen2", wrong.without("qwen2.rope.freq_base"), "positions", "warning", "a base of 10,000"),
    "Llama's rope base": ("qwen3moe", real("rope.freq_base", 5e5), "positions", "warning", "a base of 500,000"),
    "router missing": (
        "qwen3moe",
        lambda parts: parts.with_tensor([one.name for one in parts.tensors].index("blk.1.ffn_gate_inp.weight")),
        "structure",
        "failure",
        "the tensor blk.1.ffn_gate_inp.weight [4, 64] is missing",
    ),
    "an expert of zeros": (
        "qwen3moe",
        experts("blk.1.ffn_up_exps.weight", lambda own: [*own[:2], bytes(len(own[2])), own[3]]),
        "zeros",
        "failure",
        "blk.1.ffn_up_exps.weight (2)",
    ),
    "a block of zeros": ("qwen2", wrong.zeroed_layer(1), "zeros", "failure", "block 1 (every matrix)"),
    "a bias that is no number": ("qwen2", nan_in("blk.0.attn_k.bias"), "values", "failure", "blk.0.attn_k.bias"),
}  # fmt: skip


def wrong_piece(parts: Parts, token: int, piece: str) -> Parts:
    pieces = strings(parts)
    pieces[token] = piece
    return parts.with_key("tokenizer.ggml.tokens", ARRAY, array(STRING, pieces))


@pytest.mark.parametrize("name", ALONE)
def test_a_wrong_file_is_named_by_itself(tmp_path: Path, made: Made, name: str) -> None:
    family, edit, check, verdict, words = ALONE[name]
    path = write_wrong(made(family, "Q8_0"), tmp_path / "wrong.gguf", edit)
    found = faults(check_file(path, 2))
    assert (check, verdict) in {(one.name, one.verdict) for one in found}
    assert words in next(one.text for one in found if one.name == check)


# family, what is done, the check that fails beside the checkpoint, words
AGAINST: dict[str, tuple[Family, Edit, str, str]] = {
    "q's and k's bias swapped": (
        "qwen2",
        wrong.swapped("blk.1.attn_q.bias", "blk.1.attn_k.bias"),
        "weights",
        "blk.1.attn_q.bias holds what should be blk.1.attn_k.bias",
    ),
    "q and k norm swapped": (
        "qwen3moe",
        wrong.swapped("blk.0.attn_q_norm.weight", "blk.0.attn_k_norm.weight"),
        "weights",
        "blk.0.attn_q_norm.weight holds what should be blk.0.attn_k_norm.weight",
    ),
    "experts in wrong order": (
        "qwen3moe",
        experts("blk.0.ffn_down_exps.weight", lambda own: [own[0], own[3], own[2], own[1]]),
        "weights",
        "Experts are in another order: blk.0.ffn_down_exps.weight (in blk.0.ffn_down_exps.weight the checkpoint's expert 3 stands as 1)",
    ),
    "gate and up swapped": (
        "qwen3moe",
        wrong.swapped("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"),
        "weights",
        "blk.0.ffn_gate_exps.weight holds what should be blk.0.ffn_up_exps.weight",
    ),
    "a bias lost": (
        "qwen2",
        lambda parts: wrong.with_data(parts, "blk.0.attn_v.bias", bytes(256)),
        "weights",
        "All zeros, where the checkpoint has weights: blk.0.attn_v.bias",
    ),
    "wrong rope base": ("qwen2", real("rope.freq_base", 1e4), "settings", "rope.freq_base: 10000.0 (1000000.0)"),
    "stretched": ("qwen3moe", real("rope.scaling.factor", 4.0), "settings", "rope.scaling.type: linear (none)"),
    "too few experts": ("qwen3moe", wrong.number("qwen3moe.expert_used_count", 1), "settings", "expert_used_count: 1 (2)"),
    "merges in another order": ("qwen2", merges(lambda own: [own[1], own[0], *own[2:]]), "vocabulary", "merges differ .* number 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", AGAINST)
def test_a_wrong_file_is_named_beside_its_checkpoint(tmp_path: Path, made: Made, name: str) -> None:
    family, edit, check, words = AGAINST[name]
    right = made(family, "Q8_0")
    path = write_wrong(right, tmp_path / "wrong.gguf", edit)
    found = [one for one in against(path, right.parent / family, 0) if one.verdict == "failure"]
    text = "\n".join(one.text for one in found if one.name == check)
    before, _, after = words.partition(" .* ")
    assert before in text
    assert after in text


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_tell_what_weights_do_not(tmp_path: Path, made: Made, family: Family) -> None:
    """With another base all weights are right, and the model computes something else."""
    path = write_wrong(made(family, "F32"), tmp_path / "wrong.gguf", real("rope.freq_base", 50.0))
    found = {one.name: one for one in against(path, made(family, "F32").parent / family, 32)}
    assert found["weights"].verdict == "pass"
    assert found["logits"].verdict == "failure"


def test_without_the_library_ids_are_held_against_bqs_own_reading(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made("qwen2", "Q8_0")
    vocabulary = prepare(path.parent / "qwen2", "F32").vocabulary
    texts = ("你好，世界 it's 12", " é\u0301 <think>x</think>\n\n", "def main():\n\treturn 1\r\n")
    theirs = [oracle_of(vocabulary).encode(text) for text in texts]
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    own = oracle_of(vocabulary)
    assert own.name.startswith("tokenizer.json")
    assert [own.encode(text) for text in texts] == theirs
    found = {one.name: one for one in against(path, path.parent / "qwen2", 4)}
    assert found["token-ids"].verdict == found["logits"].verdict == "pass"
    assert "read by bq" in found["token-ids"].text
