"""Baichuan-M1: W_pack has as many rows for k and v as its block has key-value heads, and each of these heads mixes a key or value
with the one before it by two weights, conv_k and conv_v [1, 1, kv heads, 1, 2].

llama.cpp has no graph for it, so the names of the convolutions and the order of the rows, as in the release, are bq's own choice.
"""

from collections.abc import Container, Iterator
from dataclasses import replace

from bq.convert.layouts.slot import EMBEDDING, HEAD, Slot, inside, outside, part, whole
from bq.convert.model_config import ModelConfig

_TAPS = 2  # conv_window: the weight of the token before, then that of the token itself


def baichuan_m1_slots(config: ModelConfig, names: Container[str], fold: bool) -> Iterator[Slot]:
    """`names` are those of the checkpoint; `fold` divides the rows of the output by their norms (NormHead)."""
    has_own_head = HEAD in names or not config.is_tied
    yield from outside(config, HEAD if has_own_head else EMBEDDING, fold)
    hidden, ffn = config.hidden, config.ffn
    for block in range(config.blocks):
        kv_heads, keys = _keys(config, block)
        packed, shape = "self_attn.W_pack.weight", (hidden + 2 * keys, hidden)
        taps = (1, 1, kv_heads, 1, _TAPS)
        yield from inside(
            block,
            {
                "attn_norm.weight": whole("input_layernorm.weight", hidden),
                "attn_q.weight": part(packed, shape, 0, hidden),
                "attn_k.weight": part(packed, shape, hidden, keys),
                "attn_v.weight": part(packed, shape, hidden + keys, keys),
                "attn_k_conv.weight": replace(whole("self_attn.conv_k", *taps), is_exact=True, columns=_TAPS),
                "attn_v_conv.weight": replace(whole("self_attn.conv_v", *taps), is_exact=True, columns=_TAPS),
                "attn_output.weight": whole("self_attn.o_proj.weight", hidden, hidden),
                "ffn_norm.weight": whole("post_attention_layernorm.weight", hidden),
                "ffn_gate.weight": whole("mlp.gate_proj.weight", ffn, hidden),
                "ffn_up.weight": whole("mlp.up_proj.weight", ffn, hidden),
                "ffn_down.weight": whole("mlp.down_proj.weight", hidden, ffn),
            },
        )


def _keys(config: ModelConfig, block: int) -> tuple[int, int]:
    """Key-value heads of a block, and their rows."""
    windows = config.windows
    if windows is not None and block in windows.blocks:
        return windows.kv_heads, windows.kv_heads * windows.head_width
    return config.kv_heads, config.kv_heads * config.head_width
