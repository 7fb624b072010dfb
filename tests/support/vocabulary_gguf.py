"""Small GGUF files around a vocabulary as bq reads it from a checkpoint: the vocabulary alone, or a Qwen 2 that says a script.

Promise: `write_vocabulary` writes what llama.cpp needs to tokenize; `write_saying` a model of two blocks whose greedy answer to
anything that ends with the token `after` is the script, each token of which may stand in it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from gguf import GGUFWriter

from bq.convert.vocabulary import Vocabulary
from bq.convert.vocabulary_metadata import add_vocabulary, vocabulary_keys


def write_vocabulary(path: Path, vocabulary: Vocabulary, architecture: str, roles: tuple[int, int] = (0, 0)) -> Path:
    """Write the vocabulary alone."""
    writer = GGUFWriter(path, architecture)
    _add(writer, vocabulary, roles)
    return _written(path, writer)


def write_saying(path: Path, vocabulary: Vocabulary, script: Sequence[int], after: int, variant: str = "chat") -> Path:
    """Write the model; `script` ends with what ends the answer. What the script does not name is followed by its end."""
    if len({after, *script}) != len(script) + 1:
        raise ValueError("a token can be followed by one token only")
    follows = dict(zip((after, *script[:-1]), script, strict=True))
    hidden, rows = -(-(len(follows) + 1) // 64) * 64, len(vocabulary.pieces)
    writer = GGUFWriter(path, "qwen2")
    for key, value in _shape(hidden).items():
        writer.add_key_value(f"qwen2.{key}", value, _kind(value))
    writer.add_string("bq.variant", variant)
    _add(writer, vocabulary, (0, 0))
    for name, values in _tensors(hidden, rows, follows, script[-1]).items():
        writer.add_tensor(name, values.astype(np.float32))
    return _written(path, writer)


def _add(writer: GGUFWriter, vocabulary: Vocabulary, roles: tuple[int, int]) -> None:
    who: Any = SimpleNamespace(variant="chat", roles=roles)
    add_vocabulary(writer, vocabulary, who)
    for key, value in vocabulary_keys(vocabulary):
        writer.add_bool(key, value) if isinstance(value, bool) else writer.add_string(key, value)


def _written(path: Path, writer: GGUFWriter) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shape(hidden: int) -> dict[str, int | float]:
    return {
        "block_count": 2,
        "context_length": 4096,
        "embedding_length": hidden,
        "feed_forward_length": 64,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }


def _kind(value: int | float) -> Any:
    from gguf import GGUFValueType

    return GGUFValueType.UINT32 if isinstance(value, int) else GGUFValueType.FLOAT32


def _tensors(hidden: int, rows: int, follows: Mapping[int, int], end: int) -> dict[str, Any]:
    """All zero but the embedding, where each token of the script has a dimension of its own, and the output that reads it."""
    embedding, output = np.zeros((rows, hidden)), np.zeros((rows, hidden))
    dimension = {token: i + 1 for i, token in enumerate(follows)}  # 0 for all others
    embedding[np.arange(rows), [dimension.get(token, 0) for token in range(rows)]] = 1
    output[end, 0] = 1
    for token, successor in follows.items():
        output[successor, dimension[token]] = 1
    found = {"token_embd.weight": embedding, "output.weight": output, "output_norm.weight": np.ones(hidden)}
    square, wide = (hidden, hidden), (64, hidden)
    for block in ("blk.0.", "blk.1."):
        found |= {f"{block}{name}_norm.weight": np.ones(hidden) for name in ("attn", "ffn")}
        found |= {f"{block}attn_{name}.weight": np.zeros(square) for name in ("q", "k", "v", "output")}
        found |= {f"{block}attn_{name}.bias": np.zeros(hidden) for name in ("q", "k", "v")}
        found |= {f"{block}ffn_{name}.weight": np.zeros(wide) for name in ("gate", "up")}
        found[f"{block}ffn_down.weight"] = np.zeros(wide[::-1])
    return found
