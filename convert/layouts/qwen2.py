"""Qwen2, which Baichuan-M2 is: grouped heads with biases on q, k and v. llama.cpp rotates as the releases do: nothing moves."""

from collections.abc import Container, Iterator

from bq.convert.layouts.slot import HEAD, Slot, inside, outside, whole
from bq.convert.model_config import ModelConfig


def qwen2_slots(config: ModelConfig, names: Container[str], fold: bool) -> Iterator[Slot]:
    """`names` and `fold` are of other layouts: no Qwen has NormHead, and a tied output is left out."""
    yield from outside(config, None if config.is_tied else HEAD)
    hidden, ffn = config.hidden, config.ffn
    query, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    table = {
        "attn_norm.weight": whole("input_layernorm.weight", hidden),
        "attn_q.weight": whole("self_attn.q_proj.weight", query, hidden),
        "attn_q.bias": whole("self_attn.q_proj.bias", query),
        "attn_k.weight": whole("self_attn.k_proj.weight", keys, hidden),
        "attn_k.bias": whole("self_attn.k_proj.bias", keys),
        "attn_v.weight": whole("self_attn.v_proj.weight", keys, hidden),
        "attn_v.bias": whole("self_attn.v_proj.bias", keys),
        "attn_output.weight": whole("self_attn.o_proj.weight", hidden, query),
        "ffn_norm.weight": whole("post_attention_layernorm.weight", hidden),
        "ffn_gate.weight": whole("mlp.gate_proj.weight", ffn, hidden),
        "ffn_up.weight": whole("mlp.up_proj.weight", ffn, hidden),
        "ffn_down.weight": whole("mlp.down_proj.weight", hidden, ffn),
    }
    for block in range(config.blocks):
        yield from inside(block, table)
