"""The file's vocabulary and settings beside the checkpoint's, and the token ids of texts by both tokenizers."""

import struct
from collections.abc import Iterator
from pathlib import Path

from bq.convert.convert import Conversion
from bq.convert.read_back import PROBES
from bq.convert.verify.check import Check, failed, mend, passed
from bq.convert.verify.oracle import Oracle, oracle_of
from bq.convert.verify.settings_check import settings_check
from bq.convert.verify.vocabulary_checks import file_vocabulary
from bq.convert.vocabulary import TokenType, Vocabulary
from bq.runtime.evaluation.texts import sample_text
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.structure_vocabulary import BYTE_LEVEL
from bq.runtime.tokenizer import load_tokenizer

_SAMPLE_LINES = 400  # of the bundled text, each a text of its own
_SHOWN_IDS, _SHOWN_TEXT = 12, 40

_Piece = tuple[str, float, int]  # text, score, type


def token_checks(path: Path, file: GgufFile, conversion: Conversion) -> Iterator[Check]:
    """Vocabulary, settings and token ids."""
    yield _vocabulary(file, conversion.vocabulary)
    yield settings_check(file, conversion)
    yield _token_ids(path, file, conversion)


def _vocabulary(file: GgufFile, expected: Vocabulary) -> Check:
    """Every piece with its score and type, and every merge."""
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
    ours, theirs = _pieces(expected), _pieces(found)
    wrong = [
        i
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True))
        if one != other and not _is_padding(one, other)
    ]
    if wrong:
        return _other_pieces(file, wrong, theirs[wrong[0]], ours[wrong[0]])
    if found.merges != expected.merges:
        return _other_merges(file, found.merges, expected.merges)
    kept = say("merges", "合并规则") if expected.model == BYTE_LEVEL else say("scores", "分数")
    text = say(
        f"{len(ours):,} pieces with their {kept} and types are the tokenizer's.",
        f"{len(ours):,} 个词元及其{kept}、类型与分词器一致。",
    )
    return passed("vocabulary", text, pieces=len(ours))


def _pieces(vocabulary: Vocabulary) -> list[_Piece]:
    return list(zip(vocabulary.pieces, map(_single, vocabulary.scores), vocabulary.types, strict=True))


def _single(score: float) -> float:
    """A score as the file's float32 has it."""
    value: float = struct.unpack("<f", struct.pack("<f", score))[0]
    return value


def _is_padding(one: _Piece, other: _Piece) -> bool:
    """Rows beyond the tokenizer; each program gives them names of its own, and no text has them."""
    return one[2] == TokenType.UNUSED and other[2] in (TokenType.UNUSED, TokenType.CONTROL, TokenType.USER_DEFINED)


def _described(piece: _Piece) -> str:
    text, score, kind = piece
    name = TokenType(kind).name if kind in TokenType.__members__.values() else str(kind)
    return f"{text[:_SHOWN_TEXT]!r} ({score:g}, {name})"


def _other_pieces(file: GgufFile, wrong: list[int], found: _Piece, expected: _Piece) -> Check:
    return failed(
        "vocabulary",
        say(
            f"{len(wrong):,} pieces differ; {wrong[0]} is {_described(found)}, expected {_described(expected)}.",
            f"{len(wrong):,} 个词元不同；{wrong[0]} 为 {_described(found)}，应为 {_described(expected)}。",
        ),
        mend(file.architecture),
        pieces=wrong[:100],
    )


def _other_merges(file: GgufFile, found: tuple[str, ...], expected: tuple[str, ...]) -> Check:
    """Their order is the order in which a text is put together."""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), min(len(found), len(expected)))
    shown = [repr(merges[at][:_SHOWN_TEXT]) if at < len(merges) else "—" for merges in (found, expected)]
    return failed(
        "vocabulary",
        say(
            f"The merges differ from the tokenizer's from number {at:,} on: {shown[0]}, expected {shown[1]}.",
            f"合并规则从第 {at:,} 条起与分词器不同：{shown[0]}，应为 {shown[1]}。",
        ),
        mend(file.architecture),
        merge=at,
    )


def probes() -> tuple[str, ...]:
    """Texts in Chinese, English, code and everything that some converter got wrong."""
    lines = [line for line in sample_text("evaluation").splitlines() if line.strip()]
    return (*PROBES, *lines[:: max(1, len(lines) // _SAMPLE_LINES)])


def _token_ids(path: Path, file: GgufFile, conversion: Conversion) -> Check:
    vocabulary, roles = conversion.vocabulary, conversion.identity.roles
    oracle = oracle_of(vocabulary)
    texts = [text for text in probes() if oracle.can_judge(text)]
    tokens = 0
    with load_tokenizer(path) as tokenizer:
        for text in texts:
            expected, found = oracle.encode(text), tokenizer.encode(text)
            tokens += len(expected)
            if expected != found:
                return _other_ids(file, text, found, expected, oracle)
        for role in dict.fromkeys(roles):
            forged = f"a{vocabulary.pieces[role]}b"
            if role in tokenizer.encode(forged):
                text = say(f"The text {forged!r} forges a role.", f"文本 {forged!r} 能伪造角色。")
                return failed("token-ids", text, mend(file.architecture), probe=forged)
    name = oracle.name
    return passed(
        "token-ids",
        say(
            f"{len(texts)} texts, {tokens:,} tokens: the ids are those of {name}, and no text forges a role.",
            f"{len(texts)} 段文本，共 {tokens:,} 个词元：id 与 {name} 一致，且无法伪造角色。",
        ),
        texts=len(texts),
        tokens=tokens,
        oracle=name,
    )


def _other_ids(file: GgufFile, text: str, found: list[int], expected: list[int], oracle: Oracle) -> Check:
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    window = slice(max(0, at - 2), at + _SHOWN_IDS)
    shown = text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…"
    return failed(
        "token-ids",
        say(
            f"{shown!r} gets other token ids than those of {oracle.name} from token {at} on: {found[window]} instead of "
            f"{expected[window]}.",
            f"{shown!r} 的词元 id 从第 {at} 个起与 {oracle.name} 不同：{found[window]}，应为 {expected[window]}。",
        ),
        mend(file.architecture),
        probe=text,
        found=found,
        expected=expected,
    )
