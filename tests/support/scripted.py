"""A checkpoint that says what a test wants: after each token comes exactly the next one of a script.

Every matrix but the embedding and lm_head is zero, so the residual stream is the embedding alone. Each token of the
script has a dimension of its own there, and lm_head reads the next token off it. Greedy answers are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.support.families import Checkpoint, Family, Shape, write_checkpoint
from tests.support.stored import Stored, stored
from tests.support.tokenizer import ASSISTANT_ID, Generation, pieces

END = 2


def byte_tokens(text: str | bytes, generation: Generation = 2) -> list[int]:
    """The byte pieces that spell a text."""
    names = [piece.text for piece in pieces(generation)]
    return [names.index(f"<0x{byte:02X}>") for byte in (text.encode() if isinstance(text, str) else text)]


def saying(tokens: Sequence[int], after: int = ASSISTANT_ID, end: int = END) -> dict[int, int]:
    """The script of one answer: `tokens`, all different, follow the token `after`; then `end`."""
    if len({after, *tokens}) != len(tokens) + 1:
        raise ValueError("a token can be followed by one token only")
    return dict(zip((after, *tokens), (*tokens, end), strict=True))


def write_scripted(
    folder: Path, follows: Mapping[int, int], *, family: Family = "b2-7b", chat: bool = True
) -> Checkpoint:
    """Write the checkpoint. A token that `follows` does not name is followed by END."""
    width = -(-(len(follows) + 1) // 64) * 64
    shape = Shape(family, hidden=width, heads=2, ffn=64, dtype="f32", chat=chat)

    def edit(tensors: list[Stored]) -> list[Stored]:
        return [_scripted(one, follows) for one in tensors]

    return write_checkpoint(folder, shape, edit=edit)


def _scripted(tensor: Stored, follows: Mapping[int, int]) -> Stored:
    values = np.zeros(tensor.shape, np.float32)
    dimension = {token: i + 1 for i, token in enumerate(follows)}  # 0 for all others
    if tensor.name == "model.embed_tokens.weight":
        values[np.arange(len(values)), [dimension.get(token, 0) for token in range(len(values))]] = 1
    elif tensor.name == "lm_head.weight":
        values[END, 0] = 1
        for token, successor in follows.items():
            values[successor, dimension[token]] = 1
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    elif tensor.name.endswith("norm.weight"):
        values[:] = 1
    return stored(tensor.name, values)
