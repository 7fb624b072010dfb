"""The forward pass of Qwen2 and Qwen3 MoE in plain numpy float32, written for reading, not for speed.

Promise: nothing of bq is used here. Sources: the Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388) reports, transformers'
modeling_qwen2.py and modeling_qwen3_moe.py: grouped-query attention, biases on q, k, v (Qwen2) or a norm of each head of q and
k (Qwen3), half-split RoPE, and a softmax router whose best experts' weights are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.support.reference import F32, Tensors, linear, rms_norm, rope, silu, softmax

Config = Mapping[str, Any]


def logits(tensors: Tensors, config: Config, ids: Sequence[int]) -> F32:
    """Next-token logits after every token: [n_tokens, vocabulary]."""
    x = tensors["model.embed_tokens.weight"][np.asarray(ids)]  # [n_tokens, hidden]
    for number in range(config["num_hidden_layers"]):
        x = _block(x, tensors, f"model.layers.{number}.", config)
    head = "model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"
    return linear(rms_norm(x, tensors["model.norm.weight"], config["rms_norm_eps"]), tensors[head])


def _block(x: F32, tensors: Tensors, prefix: str, config: Config) -> F32:
    eps = config["rms_norm_eps"]
    normed = rms_norm(x, tensors[prefix + "input_layernorm.weight"], eps)
    x = x + _attention(normed, tensors, prefix + "self_attn.", config)
    normed = rms_norm(x, tensors[prefix + "post_attention_layernorm.weight"], eps)
    mixed = _experts if "num_experts" in config else _mlp
    return x + mixed(normed, tensors, prefix + "mlp.", config)


def _attention(x: F32, tensors: Tensors, prefix: str, config: Config) -> F32:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    n_tokens = x.shape[0]
    parts = {}
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        y = linear(x, tensors[f"{prefix}{name}_proj.weight"])
        if f"{prefix}{name}_proj.bias" in tensors:
            y = y + tensors[f"{prefix}{name}_proj.bias"]
        y = y.reshape(n_tokens, count, -1).swapaxes(0, 1)  # [heads, n_tokens, head_dim]
        if f"{prefix}{name}_norm.weight" in tensors:
            y = rms_norm(y, tensors[f"{prefix}{name}_norm.weight"], config["rms_norm_eps"])
        parts[name] = y
    q, k = (rope(parts[name], config["rope_theta"]) for name in "qk")
    k, v = (np.repeat(one, heads // kv_heads, axis=0) for one in (k, parts["v"]))
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))
    is_past = np.tril(np.ones((n_tokens, n_tokens), bool))
    mixed = softmax(np.where(is_past, scores, np.float32(-np.inf))) @ v
    return linear(mixed.swapaxes(0, 1).reshape(n_tokens, -1), tensors[prefix + "o_proj.weight"])


def _mlp(x: F32, tensors: Tensors, prefix: str, config: Config) -> F32:
    gate, up, down = (tensors[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down"))
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def _experts(x: F32, tensors: Tensors, prefix: str, config: Config) -> F32:
    """Each token through its best experts, weighted by their shares of the router's softmax."""
    shares = softmax(linear(x, tensors[prefix + "gate.weight"]))  # [n_tokens, experts]
    total = np.zeros_like(x)
    for token, share in enumerate(shares):
        best = np.argsort(-share)[: config["num_experts_per_tok"]]
        for expert in best:
            y = _mlp(x[token : token + 1], tensors, f"{prefix}experts.{expert}.", config)[0]
            total[token] += share[expert] / share[best].sum() * y
    return total
