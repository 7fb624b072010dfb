"""config.json of Baichuan-M1: blocks that see everything alternate with blocks that see a window and have heads of their own.

Source: config.json as the official fork of vLLM and mlx-lm's baichuan_m1.py read it. The base of RoPE is taken from the file and
nowhere else, for no other source names it.
"""

from collections.abc import Mapping
from typing import Any

from bq.convert.config_values import count, is_tied, number, refuse_unless, unsupported
from bq.convert.model_config import BAICHUAN_M1, MOST_BLOCKS, ModelConfig, Windows
from bq.convert.rope_config import rope_base
from bq.runtime.errors import BqError
from bq.runtime.language import say


def read_m1(config: Mapping[str, Any]) -> ModelConfig:
    """The checked shape."""
    if "rope_theta" not in config:
        raise BqError(
            say(
                "config.json: rope_theta is missing, and Baichuan-M1 has no known default of it.",
                "config.json：缺少 rope_theta，而 Baichuan-M1 没有已知的默认值。",
            ),
            say("Take config.json of the release.", "请使用原发布的 config.json。"),
        )
    refuse_unless(config, "conv_window", (2,), ("Baichuan-M1 has 2", "而 Baichuan-M1 为 2"))
    hidden, blocks = count(config, "hidden_size"), count(config, "num_hidden_layers")
    if blocks > MOST_BLOCKS:
        raise unsupported(f"{blocks} blocks are no Baichuan-M1", f"{blocks} 块不是 Baichuan-M1 的结构")
    heads, kv_heads = count(config, "num_attention_heads"), count(config, "num_key_value_heads")
    windows = _windows(config, blocks)
    for some, keys in ((heads, kv_heads), (windows.heads, windows.kv_heads)):
        if hidden % some or hidden // some % 2 or some % keys:
            raise unsupported(
                f"{hidden} hidden, {some} heads and {keys} key-value heads do not fit",
                f"hidden {hidden}、{some} 个头、{keys} 个键值头不相符",
            )
    return ModelConfig(
        architecture=BAICHUAN_M1,
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        kv_heads=kv_heads,
        head_width=hidden // heads,
        ffn=count(config, "intermediate_size"),
        vocab=count(config, "vocab_size"),
        context=count(config, "max_position_embeddings" if "max_position_embeddings" in config else "model_max_length"),
        norm_eps=number(config, "rms_norm_eps", 1e-6),
        rope_base=rope_base(config, None),
        is_tied=is_tied(config),
        windows=windows,
    )


def _windows(config: Mapping[str, Any], blocks: int) -> Windows:
    """Where a count of the windowed blocks' own is missing, they have that of the others."""
    listed = config.get("sliding_window_layers")
    if not isinstance(listed, list) or not all(type(one) is int and 0 <= one < blocks for one in listed):
        raise unsupported(
            f"sliding_window_layers is {listed!r:.60}, expected numbers of blocks",
            f"sliding_window_layers 为 {listed!r:.60}，应为块的编号",
        )
    heads = _own(config, "num_swa_attention_heads", "num_attention_heads")
    return Windows(
        blocks=frozenset(listed),
        tokens=count(config, "sliding_window"),
        heads=heads,
        kv_heads=_own(config, "num_swa_key_value_heads", "num_key_value_heads"),
        head_width=count(config, "hidden_size") // heads,
    )


def _own(config: Mapping[str, Any], key: str, other: str) -> int:
    return count(config, other if config.get(key) is None else key)
