"""What llama.cpp needs of a file's vocabulary, before it sees it: a SentencePiece one ("llama") or a byte-level BPE ("gpt2").

It ends the process, or makes wrong tokens without a word, where these do not hold. Sources: llama_vocab::impl::load,
byte_to_token, llm_tokenizer_bpe_session and token_to_byte (src/llama-vocab.cpp).
"""

import math

from bq.runtime.gguf_file import GgufFile
from bq.runtime.structure_rules import Rule, anything, broken, check_keys, whole

TOKENS, SCORES, TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type"))
MODEL, PRE, MERGES = (f"tokenizer.ggml.{name}" for name in ("model", "pre", "merges"))
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
_ROLE_KEYS = ("bq.role.user_id", "bq.role.assistant_id")
_BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_BYTE_TYPE, _LAST_TYPE = 6, 6  # enum llama_token_type
_USED_IDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("bos", "eos", "eot"))
_OTHER_IDS = ("eom", "unknown", "seperator", "padding", "mask", "prefix", "suffix", "middle")  # llama.cpp's spelling
_FIM_IDS = ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep")
_FLAGS = ("add_space_prefix", "remove_extra_whitespaces", "add_bos_token", "add_eos_token", "add_sep_token")
_COMMON_RULES = {
    "tokenizer.ggml.token_type_count": anything("u32"),
    TOKENS: anything("[str]", True),
    TYPES: anything("[i32]", True),
    "tokenizer.ggml.suppress_tokens": anything("[i32]"),
    **{key: anything("u32") for key in _USED_IDS},
    **{f"tokenizer.ggml.{name}_token_id": anything("u32") for name in (*_OTHER_IDS, *_FIM_IDS)},
    **{
        f"tokenizer.ggml.{name}": anything("bool")
        for name in (*_FLAGS, "normalizer.lowercase", "normalizer.strip_accents")
    },
}
# The cuts of a text into words that are known to be right for Qwen's pieces; llama.cpp has some seventy.
_PRES = ("qwen2", "deepseek-r1-qwen", "megrez")  # all LLAMA_VOCAB_PRE_TYPE_QWEN2
_RULES = {
    SENTENCEPIECE: {PRE: anything("str"), SCORES: anything("[f32]", True), **_COMMON_RULES},
    BYTE_LEVEL: {
        PRE: Rule("str", lambda value: value in _PRES, (" / ".join(_PRES),) * 2, True),
        MERGES: anything("[str]", True),
        SCORES: anything("[f32]"),
        **_COMMON_RULES,
    },
}


def check_vocabulary(file: GgufFile, models: tuple[str, ...] = (SENTENCEPIECE, BYTE_LEVEL)) -> None:
    """Raise one clear line if llama.cpp could not tokenize with this file's vocabulary; `models` are the kinds it may be."""
    words = " / ".join(models)
    check_keys(file, {MODEL: Rule("str", lambda value: value in models, (words, words), True)})
    model = file.text(MODEL)
    check_keys(file, _RULES[model])
    pieces, types = file.metadata[TOKENS], file.metadata[TYPES]
    _check_lengths(file, pieces)
    _check_pieces(file, pieces)
    if model == BYTE_LEVEL:
        _check_byte_level(file, pieces)
    else:
        _check_byte_pieces(file, pieces)
    _check_types(file, pieces, types)
    check_keys(file, {key: whole(0, len(pieces) - 1) for key in (*_ROLE_KEYS, *_USED_IDS)})


def byte_characters() -> dict[int, str]:
    """The character that stands for each byte in a byte-level BPE: itself if it can be seen, else the next from U+0100 on.

    Source: bytes_to_unicode of GPT-2's encoder.py (Radford 2019).
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


_BYTE_CHARACTERS = frozenset(byte_characters().values())


def _check_lengths(file: GgufFile, pieces: list[str]) -> None:
    for key in (SCORES, TYPES):
        if key in file.metadata and len(file.metadata[key]) != len(pieces):
            found, expected = f"{len(file.metadata[key]):,}", f"{len(pieces):,}"
            raise broken(
                file, f"{key} has {found} entries for {expected} pieces", f"{key} 有 {found} 项，而词元有 {expected} 个"
            )
    if not all(map(math.isfinite, file.metadata.get(SCORES, ()))):
        raise broken(file, f"{SCORES} holds what is no number", f"{SCORES} 含有非数值")


def _check_types(file: GgufFile, pieces: list[str], types: list[int]) -> None:
    """llama.cpp takes a byte's value from its piece's name."""
    strange = next((i for i, kind in enumerate(types) if not 0 <= kind <= _LAST_TYPE), None)
    if strange is not None:
        raise broken(
            file, f"token {strange} has the type {types[strange]}", f"词元 {strange} 的类型为 {types[strange]}"
        )
    unreadable = next((i for i, kind in enumerate(types) if kind == _BYTE_TYPE and pieces[i] not in _BYTE_PIECES), None)
    if unreadable is not None:
        name = repr(pieces[unreadable][:40])
        raise broken(file, f"token {unreadable}, {name}, is typed as a byte", f"词元 {unreadable}（{name}）被标为字节")


def _check_pieces(file: GgufFile, pieces: list[str]) -> None:
    """llama.cpp wants each piece once, and reads it up to a NUL."""
    if any("\0" in piece for piece in pieces):
        raise broken(file, f"{TOKENS} holds a piece with a NUL", f"{TOKENS} 中有词元含 NUL")
    named = pieces if all(pieces) else [piece or f"[EMPTY_{i}]" for i, piece in enumerate(pieces)]
    if len(set(named)) == len(named):
        return
    first: dict[str, int] = {}
    token, twin = next((i, first[piece]) for i, piece in enumerate(named) if first.setdefault(piece, i) != i)
    piece = repr(named[token][:40])
    raise broken(file, f"the tokens {twin} and {token} are both {piece}", f"词元 {twin} 与 {token} 都是 {piece}")


def _check_byte_pieces(file: GgufFile, pieces: list[str]) -> None:
    """llama.cpp looks for every byte when a text holds it."""
    missing = sorted(_BYTE_PIECES.difference(pieces))
    if missing:
        raise broken(file, f"{TOKENS} lacks {missing[0]}, a byte's piece", f"{TOKENS} 缺少字节词元 {missing[0]}")


def _check_byte_level(file: GgufFile, pieces: list[str]) -> None:
    """A byte without a piece vanishes from texts, and a merge without two parts, or of no piece, makes none."""
    missing = sorted(_BYTE_CHARACTERS.difference(pieces))
    if missing:
        name = repr(missing[0])
        raise broken(file, f"{TOKENS} lacks {name}, a byte's piece", f"{TOKENS} 缺少字节词元 {name}")
    known = frozenset(pieces)
    for number, merge in enumerate(file.metadata[MERGES]):
        left, _, right = merge.partition(" ")
        if not left or not right or left + right not in known:
            name = repr(merge[:40])
            raise broken(
                file, f"merge {number}, {name}, makes no piece", f"第 {number} 条合并规则 {name} 得不到任何词元"
            )
