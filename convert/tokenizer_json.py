"""The byte-level BPE in a tokenizer.json, as Baichuan-M2 and M3 have it from Qwen: pieces by id, merges, added tokens.

Of all that the `tokenizers` library can be told in such a file, only what llama.cpp does too is taken: the way of Qwen 2 to
cut a text into words, no unknown token, no prefix, merges from the first to the last. Anything else is refused, for its
token ids would be others. Types are llama.cpp's converter's: special tokens and those that look like it are CONTROL, so
that no text can forge one; the others that were added are USER_DEFINED, found in any text as the library finds them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert.checkpoint import read_json
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.structure_vocabulary import byte_characters
from bq.runtime.token_type import TokenType

FILE = "tokenizer.json"
PRE = "qwen2"  # llama.cpp's name of the expression below (llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2)
_EXPRESSION = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MOST_BYTES = 64 << 20  # Qwen's have 7 to 12 MB
_MOST_PIECE = 4096  # characters; the longest of Qwen's has 128
_MOST_TOKENS = 1 << 22
# What changes the ids and what it must be: the library's own default in each case.
_BPE_SETTINGS: Mapping[str, tuple[Any, ...]] = {
    "dropout": (None, 0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


@dataclass(frozen=True)
class BytePairs:
    """Pieces by id in GPT-2's alphabet, "" where no id is; their types; merges "a b" in order; the normalizer, "nfc" or ""."""

    pieces: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    normalizer: str
    added: int  # tokens beside the model's own


def read_tokenizer_json(folder: Path) -> BytePairs:
    """Raises BqError for a file that is damaged, or a tokenizer that llama.cpp would not follow to the id."""
    data = read_json(folder / FILE, _MOST_BYTES)
    model = _object(data, "model")
    if model.get("type", "BPE") != "BPE" or any(model.get(key) not in right for key, right in _BPE_SETTINGS.items()):
        raise _other("its model is no plain BPE", "其模型不是普通的 BPE")
    _check_words(data)
    own = _own_pieces(_object(model, "vocab"))
    added = _added_tokens(data.get("added_tokens"))
    pieces = _by_id(own, {text: number for text, (number, _) in added.items()})
    types = [TokenType.NORMAL if piece else TokenType.UNUSED for piece in pieces]
    for number, kind in added.values():
        types[number] = kind
    return BytePairs(
        pieces=tuple(pieces),
        types=tuple(types),
        merges=tuple(_merges(model.get("merges"), own)),
        normalizer=_normalizer(data.get("normalizer")),
        added=sum(text not in own for text in added),
    )


def _check_words(data: Mapping[str, Any]) -> None:
    """Raises BqError unless a text is cut into words as llama.cpp's "qwen2" does."""
    steps = data.get("pre_tokenizer")
    parts = steps.get("pretokenizers") if isinstance(steps, dict) and steps.get("type") == "Sequence" else None
    match parts:
        case [
            {"type": "Split", "pattern": {"Regex": str(found)}, "behavior": "Isolated", **split},
            {"type": "ByteLevel", **to_bytes},
        ] if (
            not split.get("invert")
            and not to_bytes.get("use_regex", True)
            and not to_bytes.get("add_prefix_space", True)
        ):
            if found != _EXPRESSION:
                raise _other("it cuts texts by another expression", "其切分文本的正则表达式不同")
        case _:
            raise _other("its pre_tokenizer is another", "其 pre_tokenizer 不同")


def _normalizer(found: Any) -> str:
    if found is None:
        return ""
    if found == {"type": "NFC"}:
        return "nfc"
    raise _other("its normalizer is another than NFC", "其 normalizer 不是 NFC")


def _own_pieces(vocabulary: Mapping[str, Any]) -> dict[str, int]:
    """The model's pieces. Raises BqError for one that is not made of bytes, and where a byte is missing."""
    alphabet = set(byte_characters().values())
    for piece, number in vocabulary.items():
        _checked_id(piece, number)
        if not alphabet.issuperset(piece):
            raise _broken(
                f"the piece {piece[:40]!r} is not written in the byte alphabet",
                f"词元 {piece[:40]!r} 不是字节字母表写成的",
            )
    missing = sorted(one for one in alphabet if one not in vocabulary)
    if missing:
        raise _broken(f"the byte {missing[0]!r} has no piece", f"字节 {missing[0]!r} 没有词元")
    return dict(vocabulary)


def _added_tokens(found: Any) -> dict[str, tuple[int, TokenType]]:
    """Text -> (id, type)."""
    added: dict[str, tuple[int, TokenType]] = {}
    for one in found if isinstance(found, list) else []:
        text, number = (one.get("content"), one.get("id")) if isinstance(one, dict) else (None, None)
        if not isinstance(text, str) or not text:
            raise _broken("an added token has no content", "某个 added_tokens 项没有 content")
        number = _checked_id(text, number)
        is_control = one.get("special") is True or looks_special(text)
        if not is_control and any(one.get(key) is True for key in ("lstrip", "rstrip", "single_word")):
            raise _other(f"{text[:40]!r} takes spaces or words beside it", f"{text[:40]!r} 会带上旁边的空格或单词")
        if text in added:
            raise _broken(f"{text[:40]!r} is added twice", f"{text[:40]!r} 被重复添加")
        added[text] = (number, TokenType.CONTROL if is_control else TokenType.USER_DEFINED)
    return added


def looks_special(text: str) -> bool:
    """Whether a token is one by its name, as `<|fim_prefix|>`: such tokens are often not marked as what they are."""
    return text.startswith("<|") and text.endswith("|>")


def _checked_id(piece: str, number: Any) -> int:
    if type(number) is not int or not 0 <= number < _MOST_TOKENS or not 0 < len(piece) <= _MOST_PIECE or "\0" in piece:
        raise _broken(f"{piece[:40]!r} has the id {number!r:.40}", f"{piece[:40]!r} 的 id 为 {number!r:.40}")
    return number


def _by_id(own: Mapping[str, int], added: Mapping[str, int]) -> list[str]:
    named = {**own, **added}
    pieces = [""] * (max(named.values()) + 1)
    if len(pieces) > 2 * len(named) + 4096:
        raise _broken(f"its ids go up to {len(pieces) - 1:,}", f"其 id 高达 {len(pieces) - 1:,}")
    for piece, number in named.items():
        other = pieces[number] or next((one for one in (own, added) if one.get(piece, number) != number), None)
        if other:
            raise _broken(
                f"the id {number} is given twice, or {piece[:40]!r} has two",
                f"id {number} 重复，或 {piece[:40]!r} 有两个 id",
            )
        pieces[number] = piece
    return pieces


def _merges(found: Any, own: Mapping[str, int]) -> Iterator[str]:
    """Each as "a b", as GGUF has them; older files have it so, newer ones as pairs."""
    if not isinstance(found, list):
        raise _broken("it has no merges", "缺少 merges")
    seen: set[str] = set()
    for one in found:
        parts = one.split(" ") if isinstance(one, str) else one
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise _broken(f"a merge is {one!r:.60}", f"某个 merge 为 {one!r:.60}")
        left, right = parts
        if left not in own or right not in own or left + right not in own:
            raise _broken(
                f"the merge {left[:40]!r} + {right[:40]!r} names no pieces",
                f"merge {left[:40]!r} + {right[:40]!r} 所指的词元不存在",
            )
        merge = f"{left} {right}"
        if merge in seen:
            raise _broken(f"the merge {merge[:60]!r} stands there twice", f"merge {merge[:60]!r} 重复")
        seen.add(merge)
        yield merge


def _object(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    if not isinstance(found, dict):
        raise _broken(f"it has no {key}", f"缺少 {key}")
    return found


def _broken(en: str, zh: str) -> BqError:
    return BqError(
        say(f"{FILE} is broken: {en}.", f"{FILE} 已损坏：{zh}。"), say("Download it again.", "请重新下载该文件。")
    )


def _other(en: str, zh: str) -> BqError:
    return BqError(
        say(
            f"{FILE} is not of Qwen 2's kind: {en}, so llama.cpp would make other token ids.",
            f"{FILE} 不是 Qwen 2 的分词器：{zh}，llama.cpp 会得到不同的词元 id。",
        ),
        say("Take the tokenizer of the release.", "请使用原发布的分词器。"),
    )
