"""The keys that give a model its shape, under the name of its architecture, as llama.cpp reads them (llama_model_base::load_hparams
and load_arch_hparams in src/models/).
"""

from typing import TYPE_CHECKING

from bq.convert.model_config import BAICHUAN_M1, ModelConfig, Windows

if TYPE_CHECKING:
    from gguf import GGUFWriter

_TAPS = 2  # of Baichuan-M1's convolutions


def add_shape(writer: "GGUFWriter", config: ModelConfig) -> None:
    """Add them to a writer of the config's architecture."""
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.blocks)
    writer.add_feed_forward_length(config.ffn)
    if config.windows is None:
        writer.add_head_count(config.heads)
        writer.add_head_count_kv(config.kv_heads)
    else:
        _add_windows(writer, config, config.windows)
    if config.heads * config.head_width != config.hidden or config.windows is not None:
        writer.add_key_length(config.head_width)  # llama.cpp takes hidden / heads where it is not given
        writer.add_value_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_width)
    if config.position == "rope":
        writer.add_rope_freq_base(config.rope_base)
    _add_scaling(writer, config)
    if config.experts is not None:
        writer.add_expert_count(config.experts.total)
        writer.add_expert_used_count(config.experts.used)
        writer.add_expert_feed_forward_length(config.experts.ffn)


def _add_scaling(writer: "GGUFWriter", config: ModelConfig) -> None:
    from gguf import RopeScalingType

    if (scaling := config.scaling) is None:
        return
    writer.add_rope_scaling_type(RopeScalingType(scaling.kind))
    writer.add_rope_scaling_factor(scaling.factor)
    if scaling.original is not None:
        writer.add_rope_scaling_orig_ctx_len(scaling.original)


def _add_windows(writer: "GGUFWriter", config: ModelConfig, windows: Windows) -> None:
    """Heads block by block, and what the blocks with a window have: keys that llama.cpp has for other models of that kind."""
    inside = [block in windows.blocks for block in range(config.blocks)]
    writer.add_head_count([windows.heads if one else config.heads for one in inside])
    writer.add_head_count_kv([windows.kv_heads if one else config.kv_heads for one in inside])
    writer.add_key_length_swa(windows.head_width)
    writer.add_value_length_swa(windows.head_width)
    writer.add_sliding_window(windows.tokens)
    writer.add_sliding_window_pattern(inside)
    if config.architecture == BAICHUAN_M1:
        writer.add_shortconv_l_cache(_TAPS)
