"""Random LoRA adapters as PEFT saves them, and what they make of a model, by PEFT's definition on whole matrices.

Promise: nothing of bq is used here. `write_adapter` makes the folder that save_pretrained makes; `merged` is
W + weight * scaling * (B @ A), and for an embedding W + weight * scaling * (B @ A).T, in float64, rounded once to float32
(peft/tuners/lora/layer.py: get_delta_weight, update_layer).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.support.safetensors_file import write_safetensors
from tests.support.stored import F32, DType, Stored, rounded, stored
from tests.support.torchzip import write_torch_zip

LINEAR = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model."
Edit = Callable[[dict[str, F32]], dict[str, F32]]


@dataclass(frozen=True)
class Made:
    """A written adapter: its configuration, and its tensors as float32 by the names in the file."""

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, F32]


def config(targets: Sequence[str], rank: int, **keys: Any) -> dict[str, Any]:
    """adapter_config.json as peft 0.13 writes it for a causal language model."""
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "baichuan-inc/Baichuan2-7B-Chat",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **keys,
    }


def write_adapter(
    folder: Path,
    base: Mapping[str, F32],
    targets: Sequence[str] = LINEAR,
    rank: int = 4,
    *,
    seed: int = 0,
    dtype: DType = "f32",
    form: Literal["safetensors", "bin"] = "safetensors",
    edit: Edit = lambda tensors: tensors,
    **keys: Any,
) -> Made:
    """Write a folder with a pair for each module of `base` whose name ends in a target; `keys` go to the configuration.

    `edit` may drop, add or change tensors before they are written.
    """
    chosen = config(targets, rank, **keys)
    rng = np.random.default_rng((seed, 77))
    tensors: dict[str, F32] = {}
    for name in base:
        module = name.removesuffix(".weight")
        if module.rsplit(".", 1)[-1] in targets:
            shape = base[name].shape
            tensors |= _pair(module, (shape[0], shape[1]), scaling(chosen, module)[0], rng)
    made = {name: rounded(values, dtype) for name, values in edit(tensors).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(chosen), encoding="utf-8")
    parts = [stored(name, values, dtype) for name, values in made.items()]
    write_weights(folder, form, parts)
    return Made(folder, chosen, made)


def write_weights(folder: Path, form: str, parts: Sequence[Stored]) -> None:
    """The weight file alone."""
    if form == "bin":
        write_torch_zip(folder / "adapter_model.bin", parts, container="dict", writer="torch-2.0")
    else:
        write_safetensors(folder / "adapter_model.safetensors", parts)


def _pair(module: str, shape: tuple[int, int], rank: int, rng: np.random.Generator) -> dict[str, F32]:
    """Factors whose product is about a third of the base's weights: neither noise nor all there is."""
    rows, columns = shape
    b = rng.standard_normal((rows, rank), np.float32) * np.float32(0.3 / np.sqrt(rank))
    a = rng.standard_normal((rank, columns), np.float32) / np.float32(np.sqrt(columns))
    if module.endswith("embed_tokens"):
        scale = np.float32(np.sqrt(columns))
        return {
            f"{PREFIX}{module}.lora_embedding_A": np.ascontiguousarray(b.T),
            f"{PREFIX}{module}.lora_embedding_B": np.ascontiguousarray(a.T) * scale,
        }
    return {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}


def scaling(chosen: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Rank and scaling of a module (peft/utils/other.py: get_pattern_key; lora/layer.py: update_layer)."""

    def of(patterns: Mapping[str, Any], default: Any) -> Any:
        for key, value in patterns.items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    rank = of(chosen["rank_pattern"], chosen["r"])
    alpha = of(chosen["alpha_pattern"], chosen["lora_alpha"])
    return rank, alpha / np.sqrt(rank) if chosen["use_rslora"] else alpha / rank


def merged(base: Mapping[str, F32], adapters: Sequence[tuple[Made, float]]) -> dict[str, F32]:
    """All tensors of the base with the adapters added."""
    whole = {name: base[name] for name in base}
    sums = {name: values.astype(np.float64) for name, values in whole.items()}
    for made, weight in adapters:
        for name, values in made.tensors.items():
            plain = name.removeprefix(PREFIX)
            if plain.endswith(".lora_B.weight"):
                module = plain.removesuffix(".lora_B.weight")
                a = made.tensors[f"{PREFIX}{module}.lora_A.weight"].astype(np.float64)
                delta = values.astype(np.float64) @ a
            elif plain.endswith(".lora_embedding_B"):
                module = plain.removesuffix(".lora_embedding_B")
                a = made.tensors[f"{PREFIX}{module}.lora_embedding_A"].astype(np.float64)
                delta = (values.astype(np.float64) @ a).T
            elif ".lora_" not in plain:
                sums[plain] = values.astype(np.float64)
                continue
            else:
                continue
            sums[module + ".weight"] = sums[module + ".weight"] + weight * scaling(made.config, module)[1] * delta
    return {name: values.astype(np.float32) for name, values in sums.items()}
