"""The small files that lie beside the weights of a release: configs, tokenizer settings, modeling code.

Promise: keys and values as in the releases (../shared/data/releases); the modeling file is a marker of a few lines, of
which only the presence of `class NormHead` means something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.support.tokenizer import ASSISTANT_ID, USER_ID, Generation, small_tokenizer

_REPETITION_PENALTY: dict[Generation, float] = {1: 1.1, 2: 1.05}
_MODELING: dict[Generation, str] = {
    1: "# Stands for the modeling code of a release.\nclass BaichuanForCausalLM:\n    pass\n",
    2: "# Stands for the modeling code of a release.\nclass NormHead:\n    pass\n\n\n"
    "class BaichuanForCausalLM:\n    lm_head = NormHead\n",
}


@lru_cache
def tokenizer(generation: Generation, count: int) -> bytes:
    """The small tokenizer.model, learned once per process."""
    return small_tokenizer(generation, count)


def write(
    folder: Path, generation: Generation, config: Mapping[str, Any], *, chat: bool = True, modeling: bool = True
) -> None:
    """All small files but tokenizer.model."""
    write_json(folder / "config.json", config)
    write_json(folder / "tokenizer_config.json", tokenizer_config())
    write_json(folder / "special_tokens_map.json", {f"{name}_token": _added(text) for name, text in _SPECIAL})
    if chat:
        write_json(folder / "generation_config.json", generation_config(generation))
    if modeling:
        (folder / "modeling_baichuan.py").write_text(_MODELING[generation], encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def generation_config(generation: Generation) -> dict[str, Any]:
    """Sampling defaults of the chat releases (facts.md section 2)."""
    return {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "user_token_id": USER_ID,
        "assistant_token_id": ASSISTANT_ID,
        "max_new_tokens": 2048,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": _REPETITION_PENALTY[generation],
        "do_sample": True,
        "transformers_version": "4.29.2",
    }


def tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_eos_token": False,
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": {"__type": "AddedToken", **_added(text)} for name, text in _SPECIAL},
        "model_max_length": 4096,
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
    }


_SPECIAL = (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>"), ("pad", "<unk>"))


def _added(text: str) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": True}
