"""Small byte-level BPE tokenizers in the form of Qwen's tokenizer.json, as Baichuan-M2 and M3 have it.

Promise: NFC, Qwen 2's way to cut a text into words, the 256 bytes as the first pieces, merges learned from a fixed text, then the
added tokens of the release, of which `<think>` and those for tools are not special. The same arguments give the same bytes.
Sources: tokenizer.json and tokenizer_config.json of Qwen2.5 and Qwen3.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

# (text, special) in the order of the release; Qwen2.5 ends before <tool_response>.
ADDED: tuple[tuple[str, bool], ...] = (
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|box_start|>", True),
    ("<|vision_start|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS = (
    "the model reads the checkpoint and writes a file that says what the checkpoint says",
    "the tensor in the file is the tensor in the model, and the rows are in the order that the runtime wants",
    "How are you today? My name is not in this text. It's what you don't know, and we'll ask them.",
    "def main(value):\n\treturn [one for one in range(10) if one not in value]\n",
    "大模型是语言模型。你好，你是谁？请问我能为您做些什么？",
    "患者发热三天，咳嗽，请问应当做哪些检查？医生建议先查血常规。",
    "user assistant system think tools messages answer question",
)


@lru_cache
def tokenizer_json(own: int = 420) -> str:
    """The file for `own` pieces of the model's own; the added tokens follow them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    made.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        _CORPUS, BpeTrainer(vocab_size=own, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    )
    assert made.get_vocab_size() == own, "the text has too few merges"
    for text, special in ADDED:
        token = AddedToken(text, special=special, normalized=False)
        (made.add_special_tokens if special else made.add_tokens)([token])
    return made.to_str(pretty=True)


def token_ids(own: int = 420) -> dict[str, int]:
    """The ids of the added tokens."""
    return {text: own + i for i, (text, _) in enumerate(ADDED)}


def tokenizer_config(own: int = 420, template: str | None = None) -> dict[str, Any]:
    """tokenizer_config.json as Qwen2.5 and Qwen3 have it."""
    decoder = {
        str(own + i): {
            "content": text,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": special,
        }
        for i, (text, special) in enumerate(ADDED)
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": [text for text, special in ADDED[1:] if special],
        "bos_token": None,
        **({"chat_template": template} if template else {}),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def write_tokenizer(folder: Path, own: int = 420, template: str | None = None) -> None:
    """tokenizer.json and tokenizer_config.json."""
    (folder / "tokenizer.json").write_text(tokenizer_json(own), encoding="utf-8")
    text = json.dumps(tokenizer_config(own, template), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
