"""The forward pass of the four Baichuan families in plain numpy float32, written for reading, not for speed.

Promise: nothing of bq is used here; what a GGUF file computes can be compared with what the checkpoint says.
Sources: facts.md sections 1 and 5; RMSNorm (Zhang and Sennrich 2019), RoPE (Su 2021) in the half-split layout, ALiBi
(Press 2022, slopes as in its reference code), SwiGLU (Shazeer 2020), NormHead (Baichuan 2, arXiv 2309.10305).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, log2
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Tensors = Mapping[str, F32]
Positions = Literal["rope", "alibi", "none"]


@dataclass(frozen=True)
class Architecture:
    """All that the forward pass needs to know beside the tensors."""

    blocks: int
    heads: int
    positions: Positions
    norm_head: bool
    eps: float = 1e-6


def architecture(config: Mapping[str, Any], *, norm_head: bool) -> Architecture:
    """Read config.json. 32 blocks (7B) mean RoPE, 40 (13B) ALiBi; NormHead (generation 2) is not in the file."""
    blocks = int(config["num_hidden_layers"])
    positions: dict[int, Positions] = {32: "rope", 40: "alibi"}
    eps = float(config["rms_norm_eps"])
    return Architecture(blocks, int(config["num_attention_heads"]), positions[blocks], norm_head, eps)


def logits(tensors: Tensors, arch: Architecture, ids: Sequence[int]) -> F32:
    """Next-token logits after every token: [n_tokens, vocabulary]."""
    x = tensors["model.embed_tokens.weight"][np.asarray(ids)]  # [n_tokens, hidden]
    for number in range(arch.blocks):
        x = _block(x, tensors, f"model.layers.{number}.", arch)
    head = tensors["lm_head.weight"]
    if arch.norm_head:
        head = norm_head(head)
    return linear(rms_norm(x, tensors["model.norm.weight"], arch.eps), head)


def _block(x: F32, tensors: Tensors, prefix: str, arch: Architecture) -> F32:
    """Attention, then feed-forward, each on a normalised copy and added to its input."""
    normed = rms_norm(x, tensors[prefix + "input_layernorm.weight"], arch.eps)
    w_pack, w_o = tensors[prefix + "self_attn.W_pack.weight"], tensors[prefix + "self_attn.o_proj.weight"]
    x = x + linear(attention(linear(normed, w_pack), arch), w_o)
    normed = rms_norm(x, tensors[prefix + "post_attention_layernorm.weight"], arch.eps)
    gate, up, down = (tensors[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return x + linear(silu(linear(normed, gate)) * linear(normed, up), down)


def attention(qkv: F32, arch: Architecture) -> F32:
    """Causal softmax attention; `qkv` [n_tokens, 3 * hidden] holds q, k and v side by side."""
    n_tokens = qkv.shape[0]
    # Three of [heads, n_tokens, head_dim].
    q, k, v = (part.reshape(n_tokens, arch.heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=1))
    if arch.positions == "rope":
        q, k = rope(q), rope(k)
    scores = q @ k.swapaxes(1, 2) / np.float32(np.sqrt(q.shape[-1]))  # [heads, query, key]
    distance = np.arange(n_tokens)[:, None] - np.arange(n_tokens)[None, :]  # query minus key
    if arch.positions == "alibi":
        scores = scores - alibi_slopes(arch.heads)[:, None, None] * distance.astype(np.float32)
    scores = np.where(distance >= 0, scores, np.float32(-np.inf))
    mixed: F32 = (softmax(scores) @ v).swapaxes(0, 1).reshape(n_tokens, -1)
    return mixed


def linear(x: F32, weight: F32) -> F32:
    """A layer without bias; weight [outputs, inputs] as torch stores it."""
    y: F32 = x @ weight.T
    return y


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
    y: F32 = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return y


def rope(x: F32, base: float = 10000.0) -> F32:
    """Rotate pairs (i, i + head_dim / 2) of position p by p * base^(-2i / head_dim). x: [heads, n_tokens, head_dim]."""
    half = x.shape[-1] // 2
    frequency = 1.0 / base ** (np.arange(half, dtype=np.float32) * 2 / x.shape[-1])
    angle = np.outer(np.arange(x.shape[1]), frequency).astype(np.float32)  # [n_tokens, half]
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def alibi_slopes(heads: int) -> F32:
    """For n heads, n a power of two: 2^(-8i/n), i = 1..n.

    Else those of the power of two below n, then the 1st, 3rd, 5th ... of the power above.
    """
    below = 2 ** floor(log2(heads))
    slopes = [2.0 ** (-8.0 * i / below) for i in range(1, below + 1)]
    slopes += [2.0 ** (-4.0 * i / below) for i in range(1, 2 * (heads - below), 2)]
    return np.array(slopes, dtype=np.float32)


def softmax(scores: F32) -> F32:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: F32 = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def silu(x: F32) -> F32:
    y: F32 = x / (1 + np.exp(-x))
    return y


def norm_head(weight: F32) -> F32:
    """Each row of lm_head over its L2 norm, which is held above 1e-12 as in torch's F.normalize."""
    length: F32 = np.linalg.norm(weight, axis=1, keepdims=True)
    unit: F32 = weight / np.maximum(length, np.float32(1e-12))
    return unit
