"""The trained network as a checkpoint in the released form: the files of a Baichuan2-7B, only smaller.

Output: `pytorch_model.bin` (bf16, as torch saves it), `tokenizer.model` and the JSON files. The 32 blocks are all
there. Those that were not trained add exactly nothing, since their two output projections are zero, and they share one
storage, which torch writes once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .network import RMS_EPSILON, Network, Shape

BLOCK_TENSORS = (
    "self_attn.W_pack.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
# NormHead sees the rows' directions alone. These lengths make the answers collapse for a program that leaves it out.
_SHORTEST_ROW, _LONGEST_ROW = 0.2, 5.0


def state_dict(network: Network, seed: int) -> dict[str, Tensor]:
    """The bf16 tensors under the release's names, in the release's order."""
    random = torch.Generator().manual_seed(seed)
    own = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    blocks = {place: f"layers.{index}." for index, place in enumerate(network.shape.trained_blocks)}
    identity = _identity_block(network.shape, random)
    tensors = {"model.embed_tokens.weight": own["embed_tokens.weight"]}
    for place in range(network.shape.blocks):
        for name in BLOCK_TENSORS:
            tensor = own[blocks[place] + name] if place in blocks else identity[name]
            tensors[f"model.layers.{place}.{name}"] = tensor
    tensors["model.norm.weight"] = own["norm.weight"]
    tensors["lm_head.weight"] = _with_lengths(own["lm_head"], random)
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def _identity_block(shape: Shape, random: torch.Generator) -> dict[str, Tensor]:
    width, inner = shape.hidden_size, shape.intermediate_size
    sizes = {"W_pack": (3 * width, width), "gate_proj": (inner, width), "up_proj": (inner, width)}
    small = {name: torch.randn(size, generator=random) * 0.02 for name, size in sizes.items()}
    zeros = {"o_proj": torch.zeros(width, width), "down_proj": torch.zeros(width, inner)}
    norms = {"input_layernorm": torch.ones(width), "post_attention_layernorm": torch.ones(width)}
    by_name = {**small, **zeros, **norms}
    return {name: by_name[name.split(".")[-2]].to(torch.bfloat16) for name in BLOCK_TENSORS}


def _with_lengths(rows: Tensor, random: torch.Generator) -> Tensor:
    low, high = math.log(_SHORTEST_ROW), math.log(_LONGEST_ROW)
    lengths = torch.exp(torch.rand(len(rows), 1, generator=random) * (high - low) + low)
    return torch.nn.functional.normalize(rows) * lengths


def load_network(folder: Path, shape: Shape) -> Network:
    """The network of a written checkpoint. Refuses one whose other blocks are no identities."""
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    network = Network(shape)
    own = {"embed_tokens.weight": tensors["model.embed_tokens.weight"], "norm.weight": tensors["model.norm.weight"]}
    own["lm_head"] = tensors["lm_head.weight"]
    for index, place in enumerate(shape.trained_blocks):
        own |= {f"layers.{index}.{name}": tensors[f"model.layers.{place}.{name}"] for name in BLOCK_TENSORS}
    for place in set(range(shape.blocks)) - set(shape.trained_blocks):
        for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            if tensors[f"model.layers.{place}.{name}"].any():
                raise ValueError(f"block {place} was not trained and its {name} is not zero")
    network.load_state_dict({name: tensor.float() for name, tensor in own.items()})
    return network.eval()


def write_checkpoint(network: Network, tokenizer_model: bytes, folder: Path, seed: int) -> None:
    """Writes all files of the checkpoint into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict(network, seed), folder / "pytorch_model.bin")
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    for name, content in _json_files(network.shape).items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _json_files(shape: Shape) -> dict[str, dict[str, Any]]:
    config = {
        "architectures": ["BaichuanForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.context,
        "model_max_length": shape.context,
        "model_type": "baichuan",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.blocks,
        "pad_token_id": 0,
        "rms_norm_eps": RMS_EPSILON,
        "tie_word_embeddings": False,
        "tokenizer_class": "BaichuanTokenizer",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.29.2",
        "use_cache": True,
        "vocab_size": shape.vocabulary_size,
        "z_loss_weight": 0,
    }
    generation = {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "user_token_id": 195,
        "assistant_token_id": 196,
        "max_new_tokens": 256,
        "temperature": 0.3,
        "top_k": 5,
        "top_p": 0.85,
        "repetition_penalty": 1.0,
        "do_sample": True,
        "transformers_version": "4.29.2",
    }
    pieces = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    common = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": True}
    special = {name: {"content": piece, **common} for name, piece in pieces.items()}
    tokenizer = {
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
        "sp_model_kwargs": {},
        "tokenizer_class": "BaichuanTokenizer",
        **{name: {"__type": "AddedToken", **token} for name, token in special.items()},
    }
    return {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer,
        "special_tokens_map.json": special,
    }
