"""What a wrong file is made of: edits of a right one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.gguf_writer import BOOL, STRING, U32, Parts, encoded, take_apart
from tests.support.old_converters import retyped

Convert = Callable[..., Path]
Edit = Callable[[Parts], Parts]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
OUTPUT, NAME = "output.weight", "general.name"
SPACE, BEGIN, END, STOP = (
    f"tokenizer.ggml.{name}" for name in ("add_space_prefix", "add_bos_token", "add_eos_token", "eot_token_id")
)
TEMPLATE = "tokenizer.chat_template"
parts_of = cache(take_apart)


def text(key: str, value: str) -> Edit:
    return lambda parts: parts.with_key(key, STRING, encoded(STRING, value))


def without(*keys: str) -> Edit:
    return lambda parts: parts.without_key(*keys)


def flag(key: str, value: bool) -> Edit:
    return lambda parts: parts.with_key(key, BOOL, encoded(BOOL, value))


def number(key: str, value: int) -> Edit:
    return lambda parts: parts.with_key(key, U32, encoded(U32, value))


def kinds(change: Callable[[int, int], int]) -> Edit:
    return lambda parts: retyped(parts, change)


def scaled_output(change: Callable[[Any], Any]) -> Edit:
    """Q8_0 blocks, their scales changed; `change` has them as [rows, blocks]."""

    def edit(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index(OUTPUT)
        one = parts.tensors[index]
        blocks = np.frombuffer(one.data, np.uint8).reshape(one.dims[1], -1, 34).copy()
        scales = blocks[:, :, :2].copy().view("<f2")[:, :, 0].astype(np.float32)
        blocks[:, :, :2] = change(scales).astype("<f2")[:, :, np.newaxis].view(np.uint8)
        return parts.with_tensor(index, replace(one, data=blocks.tobytes()))

    return edit


def uneven(scales: Any) -> Any:
    return scales * np.random.default_rng(0).uniform(0.5, 3, (len(scales), 1))
