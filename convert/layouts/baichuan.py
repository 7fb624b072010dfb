"""Baichuan 1 and 2: q, k and v are thirds of W_pack, or tensors of their own in a copy with Llama's layout.

The releases rotate (RoPE) element i of a head with i + width/2, llama.cpp's Baichuan graph with its neighbour, so the rows of q
and k are reordered. llama.cpp's converter reorders the 13B likewise, where ALiBi makes the order of a head's rows
immaterial, and so do we, for tools that expect its layout.
"""

from collections.abc import Container, Iterator

from bq.convert.layouts.slot import EMBEDDING, HEAD, Slot, inside, outside, part, rotated, whole
from bq.convert.model_config import ModelConfig


def baichuan_slots(config: ModelConfig, names: Container[str], fold: bool) -> Iterator[Slot]:
    """`names` are those of the checkpoint; `fold` divides the rows of the output by their norms (NormHead)."""
    has_own_head = HEAD in names or not config.is_tied
    yield from outside(config, HEAD if has_own_head else EMBEDDING, fold)
    hidden, ffn, width = config.hidden, config.ffn, config.head_width
    for block in range(config.blocks):
        q, k, v = _attention(f"model.layers.{block}.", names, hidden)
        yield from inside(
            block,
            {
                "attn_norm.weight": whole("input_layernorm.weight", hidden),
                "attn_q.weight": rotated(q, width),
                "attn_k.weight": rotated(k, width),
                "attn_v.weight": v,
                "attn_output.weight": whole("self_attn.o_proj.weight", hidden, hidden),
                "ffn_norm.weight": whole("post_attention_layernorm.weight", hidden),
                "ffn_gate.weight": whole("mlp.gate_proj.weight", ffn, hidden),
                "ffn_up.weight": whole("mlp.up_proj.weight", ffn, hidden),
                "ffn_down.weight": whole("mlp.down_proj.weight", hidden, ffn),
            },
        )


def _attention(prefix: str, names: Container[str], hidden: int) -> list[Slot]:
    """q, k and v."""
    packed = "self_attn.W_pack.weight"
    if prefix + packed not in names and f"{prefix}self_attn.q_proj.weight" in names:
        return [whole(f"self_attn.{one}_proj.weight", hidden, hidden) for one in "qkv"]
    return [part(packed, (3 * hidden, hidden), third * hidden, hidden) for third in range(3)]
