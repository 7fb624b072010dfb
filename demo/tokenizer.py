"""The demo model's SentencePiece vocabulary, in the layout of the Baichuan 2 tokenizer.

Input: the training texts. Output: the bytes of a `tokenizer.model` (BPE, byte fallback, identity normalizer, no dummy
prefix) whose ids mean what they mean in the release: unk 0, control 1 and 2, user-defined pieces from 3, the two role
pieces at 195 and 196, then the 256 byte pieces, then the learned pieces.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import sentencepiece

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
PAD_ID = 0  # the release pads with <unk>
USER_ID, ASSISTANT_ID = 195, 196
VOCABULARY_SIZE = 4096  # a multiple of 64

_LAST_USER_DEFINED = 199
_TAGS = ("h2", "td", "strong", "table", "tr", "li", "b", "h3", "br", "h4", "h5", "p", "h1", "tbody")
_SYMBOLS = (
    *("０", "１", "２", "３", "４", "５", "６", "７", "８", "９"),
    *("+", "-", "=", "，", "。", "！", "？", "、", "：", "￥"),
    *(".", "!", "?", "...", "。。。", "。。。。。。", "《", "》", "【", "】", "『", "』", "```", "<!--", "-->", "---"),
    *("<!DOCTYPE>", "；", "．", "＝", "＜", "＞", "－", "＋", "％", "‼", "㊣", "／", "｜"),
)


def user_defined_pieces() -> list[str]:
    """The user-defined pieces from id 3 on: the release's own up to id 100, then its `<reserved_N>` at 89 + N."""
    tags = [piece for tag in _TAGS for piece in (f"<{tag}>", f"<{tag}/>", f"</{tag}>")]
    pieces = ["<SEP>", "<CLS>", "\n", "\t", "<img>", "<img/>", "</img>", *tags, *_SYMBOLS]
    reserved = [f"<reserved_{piece_id - 89}>" for piece_id in range(3 + len(pieces), _LAST_USER_DEFINED + 1)]
    return pieces + reserved


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> bytes:
    """Learns the pieces and returns `tokenizer.model`. Lower-case copies keep casual spelling in few pieces."""
    lines = [variant for text in texts for variant in dict.fromkeys((text, text.lower()))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary_size,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=UNK_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=-1,
        user_defined_symbols=user_defined_pieces(),
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def load_tokenizer(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Loads the model and refuses it if an id that the chat prompt depends on means something else."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    expected = {USER_ID: "<reserved_106>", ASSISTANT_ID: "<reserved_107>", 5: "\n", 6: "\t", 52: "０", 74: "?"}
    for piece_id, piece in expected.items():
        found = tokenizer.id_to_piece(piece_id)
        if found != piece:
            raise ValueError(f"piece {piece_id} is {found!r}, not {piece!r}: the prompt would be wrong")
    return tokenizer


def encode(tokenizer: sentencepiece.SentencePieceProcessor, text: str, bpe_dropout: float = 0.0) -> list[int]:
    """The ids of `text`, no begin or end piece. `bpe_dropout` skips merges at random, so spelling is learned too."""
    if bpe_dropout:
        sampled: list[int] = tokenizer.encode(text, enable_sampling=True, alpha=bpe_dropout, nbest_size=-1)
        return sampled
    ids: list[int] = tokenizer.encode(text)
    return ids


def broken_round_trips(tokenizer: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[str]:
    """The texts that do not come back from their own ids: none, or the tokenizer must not be shipped."""
    return [text for text in texts if tokenizer.decode(encode(tokenizer, text)) != text]
