"""config.json of a checkpoint in Qwen's layouts: Baichuan-M2 is a Qwen2, Baichuan-M3 a Qwen3 with a mixture of experts.

What llama.cpp's graphs of these do not compute is refused here by its key: windows, other activations, expert weights that are
not normalised, blocks without experts. Sources: configuration_qwen2.py and configuration_qwen3_moe.py of transformers for keys and
defaults, src/models/qwen2.cpp and qwen3moe.cpp for what is computed.
"""

from collections.abc import Mapping
from typing import Any

from bq.convert.config_values import count, is_tied, number, refuse_unless, unsupported
from bq.convert.gptq import read_gptq
from bq.convert.model_config import MOST_BLOCKS, MOST_EXPERTS, QWEN2, QWEN3MOE, Experts, ModelConfig
from bq.convert.rope_config import read_scaling, rope_base

_ROPE_BASE = 10000.0  # transformers' default


def read_qwen(config: Mapping[str, Any], architecture: str) -> ModelConfig:
    """The checked shape of a model of architecture "qwen2" or "qwen3moe"."""
    _refuse_others(config, architecture)
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    kv_heads, blocks = count(config, "num_key_value_heads", heads), count(config, "num_hidden_layers")
    width = hidden // heads if config.get("head_dim") is None else count(config, "head_dim")
    if heads % kv_heads or width % 2 or not width or blocks > MOST_BLOCKS:
        raise unsupported(
            f"{blocks} blocks of {heads} heads {width} wide, {kv_heads} of them for keys, are no Qwen",
            f"{blocks} 块、{heads} 个宽 {width} 的头、{kv_heads} 个键值头不是 Qwen 的结构",
        )
    if architecture == QWEN2 and heads * width != hidden:
        raise unsupported(
            f"{heads} heads {width} wide do not make up {hidden}, as llama.cpp's qwen2 takes for granted",
            f"{heads} 个宽 {width} 的头合计不是 {hidden}，而 llama.cpp 的 qwen2 要求如此",
        )
    return ModelConfig(
        architecture=architecture,
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width,
        ffn=count(config, "intermediate_size"),
        vocab=count(config, "vocab_size"),
        context=count(config, "max_position_embeddings"),
        norm_eps=number(config, "rms_norm_eps", 1e-6),
        rope_base=rope_base(config, _ROPE_BASE),
        is_tied=is_tied(config),
        experts=_experts(config) if architecture == QWEN3MOE else None,
        scaling=read_scaling(config),
        gptq=read_gptq(config),
    )


def _refuse_others(config: Mapping[str, Any], architecture: str) -> None:
    refuse_unless(config, "hidden_act", (None, "silu"), ("llama.cpp computes silu", "而 llama.cpp 计算 silu"))
    no_windows = ("llama.cpp's graph has no windows", "而 llama.cpp 的计算图没有滑动窗口")
    refuse_unless(config, "use_sliding_window", (None, False), no_windows)
    if architecture == QWEN3MOE:
        no_biases = ("llama.cpp's graph has no bias there", "而 llama.cpp 的计算图没有该偏置")
        refuse_unless(config, "attention_bias", (None, False), no_biases)


def _experts(config: Mapping[str, Any]) -> Experts:
    every_block = ("llama.cpp has experts in every block", "而 llama.cpp 要求每一块都有专家")
    refuse_unless(config, "mlp_only_layers", (None, []), every_block)
    refuse_unless(config, "decoder_sparse_step", (None, 1), every_block)
    # transformers takes False where the key is missing; the releases of this size have it.
    refuse_unless(
        config,
        "norm_topk_prob",
        (True,),
        ("llama.cpp divides the weights of the chosen experts by their sum", "而 llama.cpp 会将所选专家的权重归一化"),
    )
    total, used = count(config, "num_experts"), count(config, "num_experts_per_tok")
    if used > total or total > MOST_EXPERTS:
        raise unsupported(f"{used} of {total} experts are used", f"使用 {total} 个专家中的 {used} 个")
    return Experts(total, used, count(config, "moe_intermediate_size"))
