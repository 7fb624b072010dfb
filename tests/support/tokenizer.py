"""Small SentencePiece models with the layout of the Baichuan tokenizers, and the real Baichuan 1 vocabulary as one.

Promise: BPE with byte fallback, identity normalizer, remove_extra_whitespaces false, split_digits; unk 0, <s> 1,
</s> 2, user-defined pieces from 3 with newline 5, tab 6 and the roles at 195 and 196 (facts.md section 4), then 256
byte pieces, then normal pieces from real merges of a fixed text. The same arguments give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from sentencepiece import sentencepiece_model_pb2 as sp_model

Generation = Literal[1, 2]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
USER_ID, ASSISTANT_ID = 195, 196
FIRST_USER_DEFINED, LAST_USER_DEFINED = 3, 210
SPACE = "\u2581"

# Pieces that facts.md section 4 names, by id; more than one character where the longest must win over its parts.
_NAMED: dict[Generation, dict[int, str]] = {
    1: {
        **{52 + i: str(i) for i in range(10)},
        **{62 + i: chr(0xFF10 + i) for i in range(10)},
        **dict(zip(range(72, 78), "，。！？、：", strict=True)),
        **dict(zip(range(79, 84), ".!?《》", strict=True)),
        **{88: "```", 91: "---"},
    },
    2: {
        **{52 + i: chr(0xFF10 + i) for i in range(10)},
        **dict(zip(range(62, 71), "+-=，。！？、：", strict=True)),
        **dict(zip(range(72, 75), ".!?", strict=True)),
        **{75: "...", 76: "。。。", 77: "。。。。。。", 78: "《", 79: "》", 84: "```", 87: "---"},
    },
}
# <reserved_N> has id N + offset from the given first id on.
_RESERVED: dict[Generation, tuple[int, int]] = {1: (93, 93), 2: (101, 89)}

_CORPUS = """\
the model reads the checkpoint and writes a file that says what the checkpoint says
the tensor in the file is the tensor in the model and the rows are in the order that the runtime wants
what is a token and what is a piece of text in the end there is no other way than to count them
How are you today my name is not in this text but you can ask me what the name of the model is
def main int value return value for in range if not value else print value
大模型是语言模型 你好 你是谁 你叫什么名字 你好吗 请问我能为您做些什么
我是一个语言模型 我可以和人类进行自然交流 解答问题 帮助大众获得知识
转换 量化 运行 对话 提示 上下文 张量 权重 词表 转换模型 量化模型 运行模型 模型权重
什么是模型 模型是什么 名字是什么 问题是什么 你可以帮助我吗 我可以帮助你
"""
_ALPHABET = {SPACE, *map(chr, range(0x21, 0x7F))}


@dataclass(frozen=True)
class Piece:
    text: str
    score: float
    type: int


def pieces(generation: Generation, count: int = 700) -> list[Piece]:
    """All pieces of the small tokenizer, in id order."""
    head = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
    named = _user_defined(generation)
    byte_pieces = [Piece(f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)]
    fixed = head + [Piece(text, 0.0, USER_DEFINED) for text in named] + byte_pieces
    normal = _learn(_CORPUS, set(named), count - len(fixed))
    return fixed + [Piece(text, -float(rank), NORMAL) for rank, text in enumerate(normal)]


def small_tokenizer(generation: Generation, count: int = 700) -> bytes:
    """A tokenizer.model of `count` pieces."""
    return model_bytes(pieces(generation, count), add_dummy_prefix=generation == 1)


def baichuan1_tokenizer(vocabulary: Path) -> bytes:
    """The Baichuan 1 tokenizer.model, rebuilt from ../shared/data/baichuan-7b-vocab.gguf.

    The GGUF types the user-defined pieces (ids 3 to 392, score 0) as NORMAL; that is put right here.
    """
    from gguf import GGUFReader

    fields = GGUFReader(vocabulary).fields
    texts, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    listed = (
        Piece(text, score, USER_DEFINED if 3 <= i <= 392 else kind)
        for i, (text, score, kind) in enumerate(zip(texts, scores, types, strict=True))
    )
    return model_bytes(listed, add_dummy_prefix=True)


def model_bytes(listed: Iterable[Piece], *, add_dummy_prefix: bool) -> bytes:
    """The protobuf of a tokenizer.model with the trainer and normalizer settings of the released ones."""
    model: Any = sp_model.ModelProto()  # type: ignore[attr-defined, unused-ignore]
    for piece in listed:
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.type)
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size = spec.BPE, len(model.pieces)
    spec.byte_fallback = spec.split_digits = spec.allow_whitespace_only_pieces = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = add_dummy_prefix
    model.normalizer_spec.remove_extra_whitespaces = False
    return bytes(model.SerializeToString(deterministic=True))


def _user_defined(generation: Generation) -> list[str]:
    """Ids 3 to 210; ids that facts.md does not name hold fillers in the manner of HTML tags."""
    first, offset = _RESERVED[generation]
    named = {3: "<SEP>", 4: "<CLS>", 5: "\n", 6: "\t", 7: "<br/>", **_NAMED[generation]}
    reserved = {i: f"<reserved_{i - offset}>" for i in range(first, LAST_USER_DEFINED + 1)}
    return [
        reserved.get(i) or named.get(i) or f"<filler_{i}/>" for i in range(FIRST_USER_DEFINED, LAST_USER_DEFINED + 1)
    ]


def _learn(corpus: str, taken: set[str], count: int) -> list[str]:
    """`count` pieces in order of rank: the merges of plain byte pair encoding (Sennrich 2016), then all characters."""
    words = Counter(_words(corpus, taken))
    characters = sorted(({char for word in words for char in word} | _ALPHABET) - taken)
    if count < len(characters):
        raise ValueError(f"{count} normal pieces do not hold the {len(characters)} characters of the corpus")
    merges: list[str] = []
    while len(merges) < count - len(characters):
        pair = _most_frequent_pair(words)
        if pair[0] + pair[1] not in merges:
            merges.append(pair[0] + pair[1])
        words = _merge(words, pair)
    return merges + characters


def _words(corpus: str, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """Words with their leading space, as characters; digits and user-defined characters stay apart from all else."""
    for line in corpus.splitlines():
        for word in line.split(" "):
            run: list[str] = [SPACE]
            for char in word:
                if char not in taken and not char.isdigit():
                    run.append(char)
                    continue
                yield tuple(run)
                if char not in taken:
                    yield (char,)
                run = []
            if run:
                yield tuple(run)


def _most_frequent_pair(words: Counter[tuple[str, ...]]) -> tuple[str, str]:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, times in words.items():
        for pair in pairwise(word):
            pairs[pair] += times
    if not pairs:
        raise ValueError("the corpus has no pair left to merge: ask for fewer pieces")
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def _merge(words: Counter[tuple[str, ...]], pair: tuple[str, str]) -> Counter[tuple[str, ...]]:
    merged: Counter[tuple[str, ...]] = Counter()
    for word, times in words.items():
        merged[_merge_word(word, pair)] += times
    return merged


def _merge_word(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    i = 0
    while i < len(word):
        step = 2 if word[i : i + 2] == pair else 1
        out.append("".join(word[i : i + step]))
        i += step
    return tuple(out)
