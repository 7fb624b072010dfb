"""GGUF files as llama.cpp's older converters made them of a Baichuan checkpoint, and its quantizer then made smaller.

What they did (conversion/base.py, _create_vocab_sentencepiece; models/baichuan.py before it crashed): every piece that is neither
unknown, control, unused nor byte is NORMAL; no add_space_prefix, add_bos_token, stop or template; lm_head as it is, without
NormHead. Quantizing is llama.cpp's own work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from bq.convert.convert import convert, prepare
from bq.runtime.known import FileType
from tests.support.gguf_writer import ARRAY, I32, STRING, Parts, array, encoded, take_apart
from tests.support.llama import quantize_with_llama

TYPES = "tokenizer.ggml.token_type"
_THEIRS = ("general.architecture", "general.name", "general.file_type", "general.quantization_version")
_MISSING = (
    *("add_space_prefix", "add_bos_token", "add_eos_token", "eot_token_id", "unknown_token_id"),
    *("pre", "padding_token_id"),
)


def make_old(checkpoint: Path, folder: Path, mixture: str = "F16", name: str = "old", fold: bool = False) -> Path:
    """The file of a checkpoint; `fold` normalises lm_head, as the official advice for Baichuan 2 was."""
    conversion = prepare(checkpoint, "F32")
    tensors = tuple(replace(one, normalise=fold and one.name == "output.weight") for one in conversion.plan.tensors)
    path = folder / f"{name}-F32.gguf"
    convert(replace(conversion, plan=replace(conversion.plan, tensors=tensors)), path, threads=2, force=True)
    if mixture != "F32":
        out = folder / f"{name}-{mixture}.gguf"
        quantize_with_llama(path, out, FileType[mixture])
        path.unlink()
        path = out
    path.write_bytes(as_old(take_apart(path), name).to_bytes())
    return path


def as_old(parts: Parts, name: str = "old") -> Parts:
    """The header of a file of ours as theirs."""
    dropped = [key.name for key in parts.keys if _is_ours(key.name)]
    parts = parts.without_key(*dropped, *(f"tokenizer.ggml.{one}" for one in _MISSING), "tokenizer.chat_template")
    parts = parts.with_key("general.name", STRING, encoded(STRING, name))
    parts = parts.with_key("baichuan.tensor_data_layout", STRING, encoded(STRING, "Meta AI original pth"))
    return retyped(parts, lambda i, kind: 1 if kind == 4 or i in (195, 196) else kind)


def _is_ours(key: str) -> bool:
    return key.startswith("bq.") or (key.startswith("general.") and key not in _THEIRS)


def retyped(parts: Parts, kind_of: Callable[[int, int], int]) -> Parts:
    """Other token types, from id and type."""
    types = np.frombuffer(parts.key(TYPES).value[12:], "<i4").tolist()
    return parts.with_key(TYPES, ARRAY, array(I32, [kind_of(i, kind) for i, kind in enumerate(types)]))
