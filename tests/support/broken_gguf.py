"""Sound GGUF files broken in every way that the format has, and each tried in a process that may die of it.

`broken` makes the corpus from a sound file: the same files in the same order at every call. As a program,
`python -m tests.support.broken_gguf SOURCE FIRST STEP` runs `bq run` on each STEP-th of them and prints a line of JSON
before and one after each, so that who dies is known by name.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I32,
    SCALARS,
    STRING,
    U8,
    U16,
    U32,
    Parts,
    Tensor,
    array,
    encoded,
    take_apart,
)

Broken = Iterator[tuple[str, Parts]]
Made = Iterator[tuple[str, Callable[[], bytes]]]
_LONGEST_LINE = 400
_ROOT = Path(__file__).resolve().parents[2]
_TEXT = "模型 é\n <0x0A>reads <reserved_106>\x01"
_TOKENS, _SCORES, _TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
_MERGES = "tokenizer.ggml.merges"
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf"))
_TEXTS = ("", "x", "\0", "a" * 70000, b"\xff\xfe\x80", "\x1b[2J\n\r", "none", "llama", "gpt2", "bert", "t5", "rwkv")
# Keys that llama.cpp reads for every architecture and a file of bq does not have (src/llama-arch.cpp), and alignment.
_MORE_KEYS = """
baichuan.embedding_length_out baichuan.vocab_size baichuan.expert_count baichuan.expert_used_count
baichuan.expert_group_count baichuan.expert_group_used_count baichuan.nextn_predict_layers baichuan.pooling_type
baichuan.classifier.pooling_type baichuan.classifier.output_labels baichuan.attention.causal
baichuan.attention.key_length baichuan.attention.value_length baichuan.attention.key_length_swa
baichuan.attention.value_length_swa baichuan.attention.sliding_window baichuan.attention.clamp_kqv
baichuan.rope.dimension_count_swa baichuan.rope.dimension_sections baichuan.rope.scale_linear
baichuan.rope.scaling.type baichuan.rope.scaling.factor baichuan.rope.scaling.attn_factor baichuan.rope.scaling.alpha
baichuan.rope.scaling.finetuned baichuan.rope.scaling.original_context_length baichuan.logit_scale
baichuan.tensor_data_layout baichuan.use_parallel_residual tokenizer.ggml.token_type_count
tokenizer.ggml.suppress_tokens tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.add_sep_token
tokenizer.ggml.normalizer.lowercase tokenizer.ggml.merges tokenizer.ggml.eom_token_id
tokenizer.ggml.seperator_token_id tokenizer.ggml.mask_token_id tokenizer.ggml.fim_pre_token_id
tokenizer.ggml.prefix_token_id tokenizer.ggml.precompiled_charsmap tokenizer.chat_template.x
general.alignment split.count split.no split.tensors.count adapter.type
"""


def broken(parts: Parts, seed: int = 0, flips: int = 400) -> Made:
    """Every broken file by its name, made when asked for: header, keys, vocabulary, tensors, cuts, random bytes."""
    for maker in (_headers, _keys, _vocabularies, _tensors):
        for name, one in maker(parts):
            yield name, one.to_bytes
    whole = parts.to_bytes()
    yield from _cuts(parts, whole)
    yield from _flips(parts, whole, random.Random(seed), flips)


def _headers(parts: Parts) -> Broken:
    for magic in (b"GGML", b"GGUX", b"FUGG", b"\0\0\0\0", b"PK\3\4", b"\x80\2}q", b"<htm", b"vers"):
        yield f"magic {magic!r}", replace(parts, magic=magic)
    for version in (0, 1, 2, 4, 255, 3 << 24, (1 << 32) - 1):
        yield f"version {version}", replace(parts, version=version)
    tensors, keys = len(parts.tensors), len(parts.keys)
    for wrong in (0, 1, tensors - 1, tensors + 1, 1 << 20, 1 << 63, (1 << 64) - 1):
        yield f"{wrong} tensors", replace(parts, counts=(wrong, keys))
        yield f"{wrong} keys", replace(parts, counts=(tensors, wrong))
    for alignment in (1, 2, 8, 64, 4096, 1 << 17, 0, 3, (1 << 31), (1 << 32) - 1):
        claimed = parts.with_key("general.alignment", U32, encoded(U32, alignment))
        yield f"alignment {alignment}, claimed", claimed
        if 0 < alignment <= 1 << 17:
            yield f"alignment {alignment}, kept", replace(claimed, alignment=alignment)


def _values(kind: int) -> Iterator[tuple[str, int, bytes]]:
    """Values of every type: (name, type, bytes). Those of `kind`, the right type, are tried the most."""
    for other, code in SCALARS.items():
        numbers: tuple[float, ...] = _FLOATS if other in (F32, F64) else (0, 1)
        if other in (kind, U32, I32) and other not in (F32, F64, BOOL):
            bits = 8 * struct.calcsize(code)
            numbers = (0, 1, 2, 3, 7, 33, 64, 77, 4095, (1 << (bits - 1)) - 1) if bits > 8 else (0, 1, 7, 127)
            numbers += (-1, -(1 << (bits - 1))) if code.islower() else ((1 << bits) - 1, 1 << (bits - 1))
        for number in numbers:
            yield f"{other}:{number}", other, encoded(other, number)
    for value in _TEXTS if kind == STRING else _TEXTS[:5]:
        yield f"text {value[:12]!r}", STRING, encoded(STRING, value)
    for element, values in (
        (U32, [1] * 32),
        (U32, [1] * 40),
        (I32, [-1] * 3),
        (F32, _FLOATS),
        (STRING, ["a", ""]),
        (BOOL, [1]),
    ):
        yield f"array of {element}", ARRAY, array(element, values)
        yield f"array of {element}, more claimed", ARRAY, array(element, values, 1 << 40)
    yield "empty array", ARRAY, array(U8, [])
    yield "array of arrays", ARRAY, array(ARRAY, [], 0)
    yield "type 13", 13, b"\0" * 8


def _keys(parts: Parts) -> Broken:
    for key in parts.keys:
        yield f"{key.name} missing", parts.without_key(key.name)
        yield f"{key.name} twice", replace(parts, keys=(*parts.keys, key))
        yield (
            f"{key.name} renamed",
            replace(parts, keys=tuple(replace(k, name=k.name + "\0") if k == key else k for k in parts.keys)),
        )
        for label, kind, value in _values(key.kind):
            yield f"{key.name} = {label}", parts.with_key(key.name, kind, value)
    architecture = parts.key("general.architecture").value[8:].decode()
    for name in _MORE_KEYS.replace("baichuan.", f"{architecture}.").split():
        for label, kind, value in _values(
            U16 if name.startswith("split") else STRING if name.endswith("type") else U32
        ):
            yield f"{name} = {label}", parts.with_key(name, kind, value)
    for name in ("", "\0", "a" * 70000, "é"):
        yield f"key {name[:9]!r}", parts.with_key(name, U32, encoded(U32, 1))


def strings(parts: Parts, name: str = _TOKENS) -> list[str]:
    """The vocabulary's pieces, or another array of strings."""
    data, at, found = parts.key(name).value[12:], 0, []
    while at < len(data):
        size = struct.unpack_from("<Q", data, at)[0]
        found.append(data[at + 8 : at + 8 + size].decode())
        at += 8 + size
    return found


def _vocabularies(parts: Parts) -> Broken:
    pieces = strings(parts)
    has_scores = any(key.name == _SCORES for key in parts.keys)  # a byte-level vocabulary has merges instead
    scores = (
        list(struct.unpack(f"<{len(pieces)}f", parts.key(_SCORES).value[12:])) if has_scores else [0.0] * len(pieces)
    )
    types = list(struct.unpack(f"<{len(pieces)}i", parts.key(_TYPES).value[12:]))
    first_byte = pieces.index("<0x00>") if "<0x00>" in pieces else 256

    def with_pieces(changes: dict[int, str]) -> Parts:
        return parts.with_key(_TOKENS, ARRAY, array(STRING, [changes.get(i, piece) for i, piece in enumerate(pieces)]))

    for bad in (
        "",
        "\0",
        "a\0b",
        "\udcff",
        "\udce2\udc96",
        "<0x00>",
        pieces[-1],
        "▁" * 5000,
        "[EMPTY_300]",
        "<|im_end|>",
        "\x1b[2J",
    ):
        for token in (0, 1, 2, 195, first_byte, first_byte + 10, min(600, len(pieces) - 2), len(pieces) - 1):
            yield f"piece {token} is {bad[:12]!r}", with_pieces({token: bad})
    if not has_scores:
        yield from _merges(parts)
    yield "all pieces empty", with_pieces(dict.fromkeys(range(len(pieces)), ""))
    yield "two empty pieces", with_pieces({600: "", 601: ""})
    yield "an empty piece and its name", with_pieces({600: "", 601: "[EMPTY_600]"})
    yield "two pieces up to a NUL", with_pieces({600: "é\0a", 601: "é\0b"})
    yield "two pieces of broken UTF-8", with_pieces({600: "\udcff", 601: "\udcfe"})
    for count in (0, 1, 194, len(pieces) - 1, len(pieces) + 1, 2 * len(pieces)):
        more = (pieces + [f"more{i}" for i in range(count)])[:count]
        yield f"{count} pieces", parts.with_key(_TOKENS, ARRAY, array(STRING, more))
        yield f"{count} scores", parts.with_key(_SCORES, ARRAY, array(F32, (scores * 2)[:count]))
        yield f"{count} types", parts.with_key(_TYPES, ARRAY, array(I32, (types * 2)[:count]))
    for score in _FLOATS:
        yield f"all scores {score}", parts.with_key(_SCORES, ARRAY, array(F32, [score] * len(scores)))
        yield f"a score {score}", parts.with_key(_SCORES, ARRAY, array(F32, [*scores[:600], score, *scores[601:]]))
    for kind in (-1, 0, 1, 2, 3, 4, 5, 6, 7, 1 << 30):
        yield f"all types {kind}", parts.with_key(_TYPES, ARRAY, array(I32, [kind] * len(types)))
        for token in (0, 2, 195, first_byte, 600):
            changed = [kind if i == token else one for i, one in enumerate(types)]
            yield f"type {kind} for {token}", parts.with_key(_TYPES, ARRAY, array(I32, changed))


def _merges(parts: Parts) -> Broken:
    found = strings(parts, _MERGES)
    for bad in ("", " ", "a", "a ", " a", "a b c", "\0", "a\0 b", "é à", "\udcff a", "a" * 5000 + " b"):
        yield f"a merge {bad[:9]!r}", parts.with_key(_MERGES, ARRAY, array(STRING, [*found[:3], bad, *found[4:]]))
    yield "all merges backwards", parts.with_key(_MERGES, ARRAY, array(STRING, found[::-1]))
    yield "all merges twice", parts.with_key(_MERGES, ARRAY, array(STRING, found * 2))


def _tensors(parts: Parts) -> Broken:
    last = len(parts.tensors) - 1
    for index in sorted({*range(12), last // 2, last}):
        one = parts.tensors[index]
        for label, others in _bad_tensors(one, parts.tensors[index - 1]):
            yield f"{one.name} {label}", parts.with_tensor(index, *others)
    for name in (
        "rope_freqs.weight",
        "blk.0.attn_q.bias",
        "blk.0.attn_q.scale",
        "blk.0.attn_qkv.weight",
        "blk.40.attn_q.weight",
        "x",
        "",
    ):
        yield f"one more tensor {name!r}", replace(parts, tensors=(*parts.tensors, Tensor(name, (32,), 0, b"\0" * 128)))
    yield "tensors reversed", replace(parts, tensors=parts.tensors[::-1])
    yield "no tensors", replace(parts, tensors=())
    for kind in (0, 1, 8, 30):  # as other quantizers might store the vectors
        as_kind = tuple(
            replace(one, kind=kind, data=one.data[: 34 * (one.dims[0] // 32)]) if len(one.dims) == 1 else one
            for one in parts.tensors
        )
        yield f"all vectors of type {kind}", replace(parts, tensors=as_kind)


def _bad_tensors(one: Tensor, before: Tensor) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    yield "missing", ()
    yield "twice", (one, one)
    yield "swapped with the one before", (replace(before, name=one.name),)
    for name in (
        one.name + "x",
        one.name + "\0",
        "\0" + one.name,
        one.name.upper(),
        "a" * 63,
        "a" * 64,
        "é" * 40,
        "a" * 100000,
    ):
        yield f"named {name[:20]!r}", (replace(one, name=name),)
    for kind in (*range(43), 77, 1 << 31, (1 << 32) - 1):
        yield f"of type {kind}", (replace(one, kind=kind),)
        yield f"of type {kind}, with room", (replace(one, kind=kind, data=one.data * 32),)
    for dims in (
        (),
        (1,),
        (0,),
        (0, 5),
        one.dims[::-1],
        (*one.dims, 1),
        (*one.dims, 2),
        (1, *one.dims),
        one.dims * 3,
    ):
        yield f"of the shape {dims}", (replace(one, dims=dims),)
    for factor in (2, 1 << 20, 1 << 40):
        yield f"{factor} times as wide", (replace(one, dims=(one.dims[0] * factor, *one.dims[1:])),)
        yield f"{factor} times as high", (replace(one, dims=(*one.dims[:-1], one.dims[-1] * factor)),)
    for dims in (
        (one.dims[0] + 32, *one.dims[1:]),
        (*one.dims[:-1], one.dims[-1] + 1),
        (*one.dims[:-1], one.dims[-1] - 1),
    ):
        yield f"as {dims}", (replace(one, dims=dims, data=one.data * 3),)
    for count in (0, 5, (1 << 32) - 1):
        yield f"of {count} dimensions", (replace(one, claimed_dims=count or 1 << 31),)
    for offset in (0, 1, 16, 32, 1 << 20, 1 << 40, (1 << 64) - 32, (1 << 64) - 1):
        yield f"at {offset}", (replace(one, offset=offset),)
    for fill in (b"\xff", b"\x7f", b"\0"):
        yield f"full of {fill.hex()}", (replace(one, data=fill * len(one.data)),)
    yield "shorter", (replace(one, data=one.data[:-33]),)


def _cuts(parts: Parts, whole: bytes) -> Made:
    header = len(parts.header())
    keys = len(replace(parts, tensors=()).header())
    places = {
        0,
        1,
        3,
        4,
        7,
        8,
        15,
        16,
        23,
        24,
        31,
        keys - 1,
        keys,
        keys + 1,
        header - 1,
        header,
        header + 1,
        len(whole) - 1,
    }
    for place in sorted(places | {header + n * (len(whole) - header) // 9 for n in range(9)}):
        yield f"cut at {place}", partial(whole.__getitem__, slice(place))
        yield f"zeros from {place}", partial(whole[:place].ljust, len(whole), b"\0")
    yield "with more behind", partial(whole.__add__, b"\xff" * 1000)


def _flips(parts: Parts, whole: bytes, rng: random.Random, count: int) -> Made:
    header = len(parts.header())
    for number in range(count):
        reach = [header if rng.random() < 0.8 else len(whole) for _ in range(rng.choice((1, 1, 1, 2, 5)))]
        changes = {rng.randrange(limit): rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20)) for limit in reach}
        yield f"flip {number} at {sorted(changes)}", partial(_changed, whole, changes)


def _changed(whole: bytes, changes: Mapping[int, int]) -> bytes:
    data = bytearray(whole)
    for place, value in changes.items():
        data[place] = value
    return bytes(data)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: `code` is None where the process died."""

    name: str
    code: int | None
    out: str = ""
    err: str = ""

    @property
    def is_good(self) -> bool:
        """An answer, or one line that says what is wrong and is no defect of bq."""
        if self.code == 0:
            return True
        lines = [line for line in self.err.splitlines() if not line.startswith("Warning: ")]
        is_line = len(lines) == 1 and lines[0].startswith("bq: ") and len(lines[0]) < _LONGEST_LINE
        return self.code in (1, 2) and is_line and "a defect of bq" not in self.err


def try_all(source: Path, first: int = 0, step: int = 1, flips: int = 400) -> Iterator[Outcome]:
    """The outcomes of every `step`-th broken file of a sound one; after a death another process goes on."""
    while True:
        arguments = [sys.executable, "-m", "tests.support.broken_gguf", *map(str, (source, first, step, flips))]
        begun = ""
        with tempfile.TemporaryFile() as errors:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
            environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
            with subprocess.Popen(arguments, cwd=_ROOT, env=environment, **streams) as process:
                for line in process.stdout or ():
                    told = json.loads(line)
                    if "begin" in told:
                        first, begun = told["index"], told["begin"]
                    else:
                        begun = ""
                        yield Outcome(**told)
            if process.returncode == 0:
                return
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
        yield Outcome(begun, None, err=f"{said} exit status {process.returncode}")
        first += step


def _tell(**told: object) -> None:
    print(json.dumps(told), file=sys.__stdout__, flush=True)


def _main(source: Path, first: int, step: int, flips: int) -> None:
    from bq.tui.main import run

    with tempfile.TemporaryDirectory() as folder:
        for index, (name, make) in enumerate(broken(take_apart(source), flips=flips)):
            if index < first or (index - first) % step:
                continue
            _tell(begin=name, index=index)
            path = Path(folder) / f"{index}.gguf"
            path.write_bytes(make())
            out, err = io.StringIO(), io.StringIO()
            arguments = ["run", "-m", str(path), "--ctx", "64", "--threads", "1", "--max-tokens", "2", "--force", _TEXT]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = run(arguments, False)
            path.unlink()
            _tell(name=name, code=code, out=out.getvalue()[:200], err=err.getvalue()[-2000:])


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
