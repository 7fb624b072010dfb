"""The Baichuan2-7B architecture in small, as torch modules: what is trained is what the release's own code computes.

RMSNorm in f32, RoPE of base 10000 over the two halves of a head, SwiGLU, no biases, and NormHead: the logits are the
products with the rows of `lm_head` at length 1, so only the rows' directions are learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROPE_BASE = 10_000.0
RMS_EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """The sizes of the checkpoint. Blocks that are not in `trained_blocks` are exact identities."""

    hidden_size: int = 256
    heads: int = 2  # of 128, the release's head size
    intermediate_size: int = 768
    blocks: int = 32  # llama.cpp knows the 7B layout (RoPE) by this number
    trained_blocks: tuple[int, ...] = (0, 6, 12, 19, 25, 31)
    vocabulary_size: int = 4096
    context: int = 1024

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads


def rotations(length: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of RoPE, [length, head_size], the angles repeated for the second half."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """RoPE on [batch, heads, length, head_size], dimension i paired with i + head_size / 2."""
    left, right = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-right, left), dim=-1) * sines


class Attention(nn.Module):
    """Causal attention with the fused projection that the release calls `W_pack`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.W_pack = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.W_pack(x).chunk(3, dim=-1))
        q, k = rotate(q, cosines, sines).to(v.dtype), rotate(k, cosines, sines).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One transformer block, its parameters named as in the release."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=RMS_EPSILON)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=RMS_EPSILON)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosines, sines, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Network(nn.Module):
    """The trained blocks between embedding and NormHead; identity blocks need no computing."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in shape.trained_blocks)
        self.norm = nn.RMSNorm(shape.hidden_size, eps=RMS_EPSILON)
        self.lm_head = nn.Parameter(torch.empty(shape.vocabulary_size, shape.hidden_size))
        cosines, sines = rotations(shape.context, shape.head_size)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.5 if name.startswith("embed") else parameter.shape[1] ** -0.5)
        for block in self.layers:
            block.self_attn.o_proj.weight.data.mul_(0.25)
            block.mlp.down_proj.weight.data.mul_(0.25)

    def hidden(self, ids: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
        """The last hidden states [batch, length, width] of ids [batch, length]; without a mask, plainly causal."""
        length = ids.shape[1]
        x = self.embed_tokens(ids)
        x = F.dropout(x, dropout) if dropout else x
        for block in self.layers:
            x = block(x, self.cosines[:length], self.sines[:length], mask)
        return self.norm(x)

    def logits(self, hidden: Tensor, norm_head: bool = True) -> Tensor:
        """NormHead; `norm_head=False` is the fault of other converters, to show what it costs."""
        return F.linear(hidden, F.normalize(self.lm_head.float()) if norm_head else self.lm_head)
