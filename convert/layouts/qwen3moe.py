"""Qwen3 with a mixture of experts, which Baichuan-M3 is: q and k are normalised head by head, and each block's experts are
stacked: blk.N.ffn_gate_exps.weight is [experts, units, hidden]. The router stays F32, as llama.cpp's converter keeps it.
"""

from collections.abc import Container, Iterator
from dataclasses import replace

from bq.convert.layouts.slot import HEAD, Slot, inside, outside, stacked, whole
from bq.convert.model_config import ModelConfig


def qwen3moe_slots(config: ModelConfig, names: Container[str], fold: bool) -> Iterator[Slot]:
    """`names` and `fold` are of other layouts: no Qwen has NormHead, and a tied output is left out."""
    if config.experts is None:
        raise ValueError("a mixture of experts without experts")
    yield from outside(config, None if config.is_tied else HEAD)
    hidden, width, experts = config.hidden, config.head_width, config.experts
    query, keys = config.heads * width, config.kv_heads * width

    def each(part: str) -> list[str]:
        return [f"mlp.experts.{number}.{part}_proj.weight" for number in range(experts.total)]

    table = {
        "attn_norm.weight": whole("input_layernorm.weight", hidden),
        "attn_q.weight": whole("self_attn.q_proj.weight", query, hidden),
        "attn_q_norm.weight": whole("self_attn.q_norm.weight", width),
        "attn_k.weight": whole("self_attn.k_proj.weight", keys, hidden),
        "attn_k_norm.weight": whole("self_attn.k_norm.weight", width),
        "attn_v.weight": whole("self_attn.v_proj.weight", keys, hidden),
        "attn_output.weight": whole("self_attn.o_proj.weight", hidden, query),
        "ffn_norm.weight": whole("post_attention_layernorm.weight", hidden),
        "ffn_gate_inp.weight": replace(whole("mlp.gate.weight", experts.total, hidden), is_exact=True),
        "ffn_gate_exps.weight": stacked(each("gate"), experts.ffn, hidden),
        "ffn_up_exps.weight": stacked(each("up"), experts.ffn, hidden),
        "ffn_down_exps.weight": stacked(each("down"), hidden, experts.ffn),
    }
    for block in range(config.blocks):
        yield from inside(block, table)
