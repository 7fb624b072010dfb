"""Random GGUF files of the architectures qwen2 and qwen3moe, of any size, with a small byte-level BPE vocabulary.

Promise: `write_qwen(path, QwenShape(...))` makes a file as llama.cpp's converter lays one out: grouped heads, biases (qwen2),
norms of queries and keys, a router and experts in tensors of three dimensions (qwen3moe). The same shape gives the same bytes.
The matrices are in Q8_0 or F32 by gguf-py; `tensors` gives them as float32 for those who compute with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

F32 = npt.NDArray[np.float32]
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEXT = (
    "the model reads the text and the text tells the model what to read; there is no other model in the room. "
    "你好，世界。你好，模型。模型读文本，文本告诉模型要读什么。def model(text): return text[:12]\n"
) * 3


@dataclass(frozen=True)
class QwenShape:
    """What to make. Without `experts` a qwen2, else a qwen3moe whose head width need not be hidden / heads."""

    hidden: int = 64
    blocks: int = 2
    heads: int = 4
    kv_heads: int = 2
    width: int | None = None  # of a head
    ffn: int = 96
    experts: int = 0
    experts_used: int = 2
    merges: int = 60
    padding: int = 3  # rows of the embedding beyond the pieces
    context: int = 4096
    base: float = 1e6
    tied: bool = False
    quantized: bool = False
    chat: bool = True
    seed: int = 0

    @property
    def architecture(self) -> Literal["qwen2", "qwen3moe"]:
        return "qwen3moe" if self.experts else "qwen2"

    @property
    def head_width(self) -> int:
        return self.width or self.hidden // self.heads

    @property
    def pieces(self) -> int:
        return 256 + self.merges + len(SPECIAL)

    @property
    def vocab(self) -> int:
        return self.pieces + self.padding


def write_qwen(path: Path, shape: QwenShape = QwenShape()) -> Path:
    """Write the file and return its path."""
    writer = GGUFWriter(path, shape.architecture)
    _add_keys(writer, shape)
    for name, values in tensors(shape):
        kind = GGMLQuantizationType.F32
        if shape.quantized and values.ndim > 1 and not name.endswith("ffn_gate_inp.weight"):
            kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(shape: QwenShape) -> Iterator[tuple[str, F32]]:
    """Name and values of each tensor, in order."""
    random = np.random.default_rng(shape.seed)

    def matrix(*dims: int, gain: float = 1.0) -> F32:
        return (random.standard_normal(dims) * gain / np.sqrt(dims[-1])).astype(np.float32)

    def norm(size: int) -> F32:
        return (1 + 0.1 * random.standard_normal(size)).astype(np.float32)

    hidden, width, ffn = shape.hidden, shape.head_width, shape.ffn
    query, keys = shape.heads * width, shape.kv_heads * width
    yield "token_embd.weight", matrix(shape.vocab, hidden, gain=hidden**0.5)
    yield "output_norm.weight", norm(hidden)
    if not shape.tied:
        yield "output.weight", matrix(shape.vocab, hidden, gain=2)
    for number in range(shape.blocks):
        block = f"blk.{number}."
        yield block + "attn_norm.weight", norm(hidden)
        for part, rows in (("q", query), ("k", keys), ("v", keys)):
            yield f"{block}attn_{part}.weight", matrix(rows, hidden, gain=1.5)
            if not shape.experts:
                yield f"{block}attn_{part}.bias", matrix(rows, gain=rows**0.5 / 2)
        if shape.experts:
            yield block + "attn_q_norm.weight", norm(width) * 1.5
            yield block + "attn_k_norm.weight", norm(width) * 1.5
        yield block + "attn_output.weight", matrix(hidden, query, gain=0.5)
        yield block + "ffn_norm.weight", norm(hidden)
        if shape.experts:
            yield block + "ffn_gate_inp.weight", matrix(shape.experts, hidden, gain=3)
            yield block + "ffn_gate_exps.weight", matrix(shape.experts, ffn, hidden)
            yield block + "ffn_up_exps.weight", matrix(shape.experts, ffn, hidden)
            yield block + "ffn_down_exps.weight", matrix(shape.experts, hidden, ffn)
        else:
            yield block + "ffn_gate.weight", matrix(ffn, hidden)
            yield block + "ffn_up.weight", matrix(ffn, hidden)
            yield block + "ffn_down.weight", matrix(hidden, ffn)


def _add_keys(writer: GGUFWriter, shape: QwenShape) -> None:
    writer.add_name("Random-Qwen")
    writer.add_file_type(7 if shape.quantized else 0)
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.blocks)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(shape.base)
    if shape.experts:
        writer.add_key_length(shape.head_width)
        writer.add_value_length(shape.head_width)
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_used)
        writer.add_expert_feed_forward_length(shape.ffn)
    _add_vocabulary(writer, shape)


def _add_vocabulary(writer: GGUFWriter, shape: QwenShape) -> None:
    """As llama.cpp's converter writes a Qwen vocabulary, with a chat template where the model chats."""
    merges = _merges(shape.merges)
    pieces = [*byte_characters(), *("".join(pair) for pair in merges), *SPECIAL]
    types = [NORMAL] * (256 + len(merges)) + [CONTROL] * 3 + [USER_DEFINED] * 2
    padding = range(shape.padding)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*pieces, *(f"[PAD{len(pieces) + i}]" for i in padding)])
    writer.add_token_types([*types, *(5 for _ in padding)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    end, stop = (pieces.index(piece) for piece in ("<|endoftext|>", "<|im_end|>"))
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(stop if shape.chat else end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    if shape.chat:
        writer.add_chat_template(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
        )


def byte_characters() -> list[str]:
    """GPT-2's characters for the bytes in the order of its vocabulary: those that can be seen, then the others."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, seen), *(chr(256 + i) for i in range(256 - len(seen)))]


@cache
def _by_byte() -> dict[int, str]:
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in seen]
    return dict(zip([*seen, *others], byte_characters(), strict=True))


@cache
def _merges(count: int) -> tuple[tuple[str, str], ...]:
    """The most frequent neighbours of a fixed text, within its words, one after the other."""
    words: list[list[str]] = [
        [_by_byte()[byte] for byte in (" " + word).encode()] for word in TEXT.replace("\n", " ").split()
    ]
    found: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[Any] = Counter(pair for word in words for pair in pairwise(word))
        (left, right), _ = min(pairs.items(), key=lambda one: (-one[1], one[0]))
        found.append((left, right))
        words = [_joined(word, left, right) for word in words]
    return tuple(found)


def _joined(word: list[str], left: str, right: str) -> list[str]:
    parts: list[str] = []
    for part in word:
        if parts and parts[-1] == left and part == right:
            parts[-1] += part
        else:
            parts.append(part)
    return parts
