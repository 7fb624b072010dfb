"""Text to token ids and back through llama.cpp's vocabulary, prepared as SentencePiece prepares it.

Text is never searched for control pieces (`parse_special` is off): no text can forge a role. A Baichuan 1 encodes each
text with a space before it; llama.cpp's own flag for that would put one after every user-defined piece too, so the file
says false and the space is put here. A byte-level BPE normalises to NFC first, which llama.cpp does not.
"""

import ctypes
import os
import re
import unicodedata
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import generation_of, prompt_format
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library, log_position
from bq.runtime.structure import check_vocabulary
from bq.runtime.token_type import TokenType
from bq.runtime.whole_pieces import WholePieces, whole_pieces

DUMMY_PREFIX_KEY = "bq.tokenizer.add_dummy_prefix"
EXTRA_WHITESPACE_KEY = "bq.tokenizer.remove_extra_whitespaces"
NORMALIZER_KEY = "bq.tokenizer.normalizer"  # "nfc" or absent
_PIECE_BYTES = 256
_KEPT_PIECES = 4096  # of a vocabulary: half a megabyte
_KEPT_TOKENS = 1 << 18  # many times a context; 1 MiB


class Tokenizer:
    """The vocabulary of a loaded model. `vocab` is llama.cpp's pointer; it lives as long as the model."""

    def __init__(self, vocab: Any, file: GgufFile) -> None:
        self._vocab = vocab
        self.add_dummy_prefix = file.flag(DUMMY_PREFIX_KEY, generation_of(file) == 1)
        self.remove_extra_whitespaces = file.flag(EXTRA_WHITESPACE_KEY, False)
        self._whole = whole_pieces(file)
        self._overlapped = self._whole.overlapped()
        self._nfc = _Nfc(self._whole) if _normalizer(file) == "nfc" else None
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        # What was asked for before: cheaper than llama.cpp, at each token of an answer.
        self._kept_piece, self._kept_end = lru_cache(_KEPT_PIECES)(self._piece), lru_cache(_KEPT_PIECES)(self._is_end)
        self._forgeable = _forgeable_pieces(file)
        pieces = file.metadata.get("tokenizer.ggml.tokens")
        self._longest = max(map(len, pieces), default=1) if isinstance(pieces, list) else 1

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, the same as SentencePiece's `encode`; a control piece in it stays text."""
        text = self.prepare(text)
        parts = [text] if self._forgeable is None else self._forgeable.split(text)
        if any(piece in text for piece in self._overlapped):
            parts = [piece for part in parts for piece, _ in self._whole.split(part)]
        return [token for part in parts for token in self._encode(part)] if len(parts) != 1 else self._encode(parts[0])

    def least_tokens(self, text: str) -> int:
        """A number of tokens that a text has at least, without encoding it: no piece has more characters than the longest."""
        return len(text) // max(1, self._longest)

    def _encode(self, text: str) -> list[int]:
        data = text.encode("utf-8", "replace")
        if not data:
            return []
        lib = library()
        ids = (lib.llama_token * (len(data) + 1))()
        count = lib.llama_tokenize(self._open, data, len(data), ids, len(ids), False, False)
        if count < 0:
            raise BqError(
                say(f"A text of {len(data):,} bytes cannot be tokenized.", f"无法对 {len(data):,} 字节的文本分词。")
            )
        return list(ids[:count])

    def prepare(self, text: str) -> str:
        """What the release's normalizer does to a text: fold spaces and put one in front, or compose characters."""
        if self._nfc is not None:
            return self._nfc.normalize(text)
        if self.remove_extra_whitespaces:
            text = " ".join(part for part in text.split(" ") if part)
        return " " + text if text and self.add_dummy_prefix else text

    def piece(self, token: int) -> bytes:
        """The bytes of a token, none for a control token. A character may be spread over several tokens."""
        return self._kept_piece(token)

    def _piece(self, token: int) -> bytes:
        lib = library()
        size = lib.llama_token_to_piece(self._open, token, self._buffer, len(self._buffer), 0, False)
        if size < 0:  # a piece longer than the buffer: minus its length
            self._buffer = ctypes.create_string_buffer(-size)
            size = lib.llama_token_to_piece(self._open, token, self._buffer, len(self._buffer), 0, False)
        return self._buffer.raw[: max(size, 0)]

    def is_end(self, token: int) -> bool:
        """Whether generation ends at this token."""
        return self._kept_end(token)

    def _is_end(self, token: int) -> bool:
        return bool(library().llama_vocab_is_eog(self._open, token))

    @property
    def _open(self) -> Any:
        if self._vocab is None:
            raise RuntimeError("the model is closed")
        return self._vocab

    def close(self) -> None:
        """The model's owner frees it; no text is encoded any more."""
        self._vocab = None
        self._kept_piece.cache_clear()
        self._kept_end.cache_clear()

    def __len__(self) -> int:
        return int(library().llama_vocab_n_tokens(self._open))


class _Nfc:
    """Composes characters (Unicode's NFC) as `tokenizers` does: in the text between added tokens, which it finds before."""

    def __init__(self, added: WholePieces) -> None:
        self._added = added

    def normalize(self, text: str) -> str:
        if unicodedata.is_normalized("NFC", text):  # and so is every part of it
            return text
        parts = self._added.split(text)
        return "".join(part if is_added else unicodedata.normalize("NFC", part) for part, is_added in parts)


def _normalizer(file: GgufFile) -> str:
    """The file's own word; what other programs made of a Qwen tokenizer says nothing, and all of those have NFC."""
    default = "nfc" if file.text("tokenizer.ggml.model") == "gpt2" and not file.text("bq.variant") else ""
    return file.text(NORMALIZER_KEY) or default


class Encodings:
    """The ids of texts that come again and again, as those of a conversation do at each turn; the latest are kept."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._kept: OrderedDict[str, array[int]] = OrderedDict()
        self._tokens = 0

    def encode(self, text: str) -> Sequence[int]:
        """The ids of a text, encoded only once while it is kept."""
        found = self._kept.get(text)
        if found is None:
            found = self._kept[text] = array("i", self._encode(text))
            self._tokens += len(found)
            while self._tokens > _KEPT_TOKENS and len(self._kept) > 1:
                self._tokens -= len(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(text)
        return found


@cache
def no_space_prefix(architecture: str = "") -> Any:
    """Loading parameters (kv_overrides) by which llama.cpp puts no spaces of its own into a text.

    Files of other programs leave its default, a space; of both generations that makes wrong ids. `architecture` takes the
    place of one that llama.cpp does not know, whose vocabulary it can use all the same.
    """
    lib = library()
    overrides = (lib.llama_model_kv_override * 3)()  # the last, empty, ends the list
    if architecture:
        overrides[1].tag = lib.LLAMA_KV_OVERRIDE_TYPE_STR
        overrides[1].key = b"general.architecture"
        overrides[1].value.val_str = architecture.encode()
    overrides[0].tag = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL
    overrides[0].key = b"tokenizer.ggml.add_space_prefix"
    overrides[0].value.val_bool = False
    return overrides


def _forgeable_pieces(file: GgufFile) -> "re.Pattern[str] | None":
    """Where to split a text so that it cannot become a role or control id, None if no text can.

    llama.cpp finds user-defined pieces in any text; files of other programs may type those of the roles so, as the
    tokenizer.model does. The split lies within such a piece, whose halves are encoded apart.
    """
    pieces, types = file.metadata.get("tokenizer.ggml.tokens"), file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(pieces, list) or not isinstance(types, list):
        return None
    ids = [token for token in prompt_format(file).control if token < min(len(pieces), len(types))]
    found = [pieces[token] for token in ids if types[token] == TokenType.USER_DEFINED]
    halves = [(re.escape(piece[: len(piece) // 2]), re.escape(piece[len(piece) // 2 :])) for piece in found if piece]
    return re.compile("|".join(f"(?<={first})(?={second})" for first, second in halves)) if halves else None


@contextmanager
def load_tokenizer(path: Path) -> Iterator[Tokenizer]:
    """The tokenizer of a GGUF file alone, without its weights. Raises BqError if llama.cpp does not take it."""
    file = read_gguf(path)
    check_vocabulary(file)
    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    mark = log_position()
    params.kv_overrides = no_space_prefix("baichuan" if file.architecture == "baichuan_m1" else "")
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise BqError(
            say(
                f"llama.cpp does not take the vocabulary of {path.name}: {last_errors(mark)}.",
                f"llama.cpp 无法读取 {path.name} 的词表：{last_errors(mark)}。",
            ),
            say("Convert the file again.", "请重新转换该文件。"),
        )
    try:
        yield Tokenizer(lib.llama_model_get_vocab(model), file)
    finally:
        lib.llama_model_free(model)
