"""The file's vocabulary and settings beside the checkpoint's, and the token ids of texts by both tokenizers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bq.convert.convert import Conversion
from bq.convert.metadata import chat_template
from bq.convert.read_back import PROBES
from bq.convert.verify.check import Check, failed, listed, mend, passed, warned
from bq.convert.verify.vocabulary_checks import file_vocabulary
from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime.evaluation.texts import sample_text
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import generation_of, roles_of
from bq.runtime.language import say
from bq.runtime.tokenizer import load_tokenizer

_SAMPLE_LINES = 400  # of the bundled text, each a text of its own
_SHOWN_IDS, _SHOWN_TEXT = 12, 40
_OFFICIAL = "official"
_CLOSE = 1e-6  # relative; the file's numbers are float32


def token_checks(path: Path, file: GgufFile, conversion: Conversion) -> Iterator[Check]:
    """Vocabulary, settings and token ids."""
    yield _vocabulary(file, conversion.vocabulary)
    yield _settings(file, conversion)
    yield _token_ids(path, conversion)


def reference_tokenizer(vocabulary: Vocabulary) -> Any:
    """SentencePiece with the checkpoint's own model."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(vocabulary.model_path))


def _vocabulary(file: GgufFile, expected: Vocabulary) -> Check:
    """Every piece with its score and type."""
    found = file_vocabulary(file)
    if len(found.pieces) != len(expected.pieces):
        return failed(
            "vocabulary",
            say(
                f"{len(found.pieces):,} pieces, the checkpoint has {len(expected.pieces):,}.",
                f"有 {len(found.pieces):,} 个词元，而检查点有 {len(expected.pieces):,} 个。",
            ),
            say("Give the checkpoint that the file was made from.", "请给出生成此文件的检查点。"),
        )
    ours = list(zip(expected.pieces, map(_single, expected.scores), expected.types, strict=True))
    theirs = list(zip(found.pieces, found.scores, found.types, strict=True))
    wrong = [
        i
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if one != other and not _is_padding(one, other)
    ]
    if not wrong:
        text = say(
            f"{len(ours):,} pieces with their scores and types are the tokenizer's.",
            f"{len(ours):,} 个词元及其分数、类型与分词器一致。",
        )
        return passed("vocabulary", text, pieces=len(ours))
    first = wrong[0]
    return failed(
        "vocabulary",
        say(
            f"{len(wrong):,} pieces differ; {first} is {_described(theirs[first])}, expected {_described(ours[first])}.",
            f"{len(wrong):,} 个词元不同；{first} 为 {_described(theirs[first])}，应为 {_described(ours[first])}。",
        ),
        mend(),
        pieces=wrong[:100],
    )


def _single(score: float) -> float:
    """A score as the file's float32 has it."""
    import struct

    value: float = struct.unpack("<f", struct.pack("<f", score))[0]
    return value


def _is_padding(one: tuple[str, float, int], other: tuple[str, float, int]) -> bool:
    """Rows beyond the tokenizer; each program gives them names of its own, and no text has them."""
    return one[2] == TokenType.UNUSED and other[2] in (TokenType.UNUSED, TokenType.CONTROL, TokenType.USER_DEFINED)


def _described(piece: tuple[str, float, int]) -> str:
    text, score, kind = piece
    name = TokenType(kind).name if kind in TokenType.__members__.values() else str(kind)
    return f"{text[:_SHOWN_TEXT]!r} ({score:g}, {name})"


def _settings(file: GgufFile, conversion: Conversion) -> Check:
    """What changes answers is a failure; context, sampling and template are a matter of taste or of other programs."""
    wrong = [
        f"{key}: {found} ({expected})"
        for key, found, expected in _compared(file, conversion)
        if not _same(found, expected)
    ]
    if wrong:
        return failed(
            "settings",
            say(
                f"Settings differ from the checkpoint's (in brackets): {listed(wrong, 8)}.",
                f"设置与检查点（括号内）不同：{listed(wrong, 8)}。",
            ),
            mend(),
            different=wrong,
        )
    other = [
        f"{key}: {found} ({expected})" for key, found, expected in _soft(file, conversion) if not _same(found, expected)
    ]
    if other:
        return warned(
            "settings",
            say(
                f"Defaults differ from the checkpoint's (in brackets): {listed(other, 8)}.",
                f"默认值与检查点（括号内）不同：{listed(other, 8)}。",
            ),
            mend(),
            different=other,
        )
    return passed(
        "settings", say("Shape, generation and defaults are the checkpoint's.", "结构、世代与默认值和检查点一致。")
    )


_Compared = Iterator[tuple[str, Any, Any]]


def _compared(file: GgufFile, conversion: Conversion) -> _Compared:
    """(key, the file's, the checkpoint's)"""
    config, vocabulary, roles = conversion.config, conversion.vocabulary, roles_of(file)
    yield "block_count", file.count("baichuan.block_count"), config.blocks
    yield "head_count", file.count("baichuan.attention.head_count"), config.heads
    yield "rms_epsilon", file.number("baichuan.attention.layer_norm_rms_epsilon", 0.0), config.norm_eps
    if config.position == "rope":
        yield "rope.freq_base", file.number("baichuan.rope.freq_base", 10000.0), config.rope_base
    yield "generation", generation_of(file), conversion.generation
    yield "roles", (roles.user, roles.assistant), conversion.identity.roles
    found = file_vocabulary(file)
    yield "eos", found.eos, vocabulary.eos
    yield "add_dummy_prefix", found.add_dummy_prefix, vocabulary.add_dummy_prefix
    yield "remove_extra_whitespaces", found.remove_extra_whitespaces, vocabulary.remove_extra_whitespaces


def _soft(file: GgufFile, conversion: Conversion) -> _Compared:
    yield "context", file.count("baichuan.context_length"), conversion.config.context
    sampling = conversion.identity.sampling
    for key, expected in (
        ("temp", sampling.temperature),
        ("top_k", sampling.top_k),
        ("top_p", sampling.top_p),
        ("penalty_repeat", sampling.repeat_penalty),
    ):
        yield key, file.number(f"general.sampling.{key}", expected), expected
    template = file.text("tokenizer.chat_template")
    official = chat_template(conversion.vocabulary, conversion.identity.roles)
    yield "chat_template", say("another", "其他") if template not in ("", official) else _OFFICIAL, _OFFICIAL


def _same(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, int | float):
        return abs(found - expected) <= _CLOSE * max(abs(found), abs(expected))
    return bool(found == expected)


def probes() -> tuple[str, ...]:
    """Texts in Chinese, English, code and everything that some converter got wrong."""
    lines = [line for line in sample_text("evaluation").splitlines() if line.strip()]
    return (*PROBES, *lines[:: max(1, len(lines) // _SAMPLE_LINES)])


def _token_ids(path: Path, conversion: Conversion) -> Check:
    vocabulary, roles = conversion.vocabulary, conversion.identity.roles
    reference = reference_tokenizer(vocabulary)
    added = _added(vocabulary, reference.get_piece_size())
    texts = [text for text in probes() if not any(piece in text for piece in added)]
    tokens = 0
    with load_tokenizer(path) as tokenizer:
        for text in texts:
            expected, found = reference.encode(text), tokenizer.encode(text)
            tokens += len(expected)
            if expected != found:
                return _other_ids(text, found, expected)
        for role in roles:
            forged = f"a{vocabulary.pieces[role]}b"
            if role in tokenizer.encode(forged):
                text = say(f"The text {forged!r} forges a role.", f"文本 {forged!r} 能伪造角色。")
                return failed("token-ids", text, mend(), probe=forged)
    return passed(
        "token-ids",
        say(
            f"{len(texts)} texts, {tokens:,} tokens: the ids are SentencePiece's, and no text forges a role.",
            f"{len(texts)} 段文本，共 {tokens:,} 个词元：id 与 SentencePiece 一致，且无法伪造角色。",
        ),
        texts=len(texts),
        tokens=tokens,
    )


def _added(vocabulary: Vocabulary, known: int) -> list[str]:
    """Pieces of a fine-tune, which SentencePiece does not know."""
    types = vocabulary.types
    return [vocabulary.pieces[i] for i in range(known, len(types)) if types[i] != TokenType.UNUSED]


def _other_ids(text: str, found: list[int], expected: list[int]) -> Check:
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    window = slice(max(0, at - 2), at + _SHOWN_IDS)
    shown = text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…"
    return failed(
        "token-ids",
        say(
            f"{shown!r} gets other token ids than SentencePiece's from token {at} on: {found[window]} instead of {expected[window]}.",
            f"{shown!r} 的词元 id 从第 {at} 个起与 SentencePiece 不同：{found[window]}，应为 {expected[window]}。",
        ),
        mend(),
        probe=text,
        found=found,
        expected=expected,
    )
