"""What a checkpoint's config.json says of its shape, and whether llama.cpp can run such a model."""

from collections.abc import Mapping
from typing import Any

from bq.convert.checkpoint import Checkpoint
from bq.convert.config_values import count, is_tied, number
from bq.convert.m1_config import read_m1
from bq.convert.model_config import BAICHUAN, BAICHUAN_M1, POSITIONS, QWEN2, QWEN3MOE
from bq.convert.model_config import ModelConfig as ModelConfig  # where it is looked for
from bq.convert.qwen_config import read_qwen
from bq.convert.rope_config import read_scaling, rope_base
from bq.runtime.errors import BqError
from bq.runtime.language import say

DEFAULT_CONTEXT = 4096
_CLASSES = {
    "BaichuanForCausalLM": BAICHUAN,
    "BaiChuanForCausalLM": BAICHUAN,
    "LlamaForCausalLM": BAICHUAN,
    "BaichuanM1ForCausalLM": BAICHUAN_M1,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3MoeForCausalLM": QWEN3MOE,
}
_MODEL_TYPES = {"baichuan": BAICHUAN, "baichuan_m1": BAICHUAN_M1, "qwen2": QWEN2, "qwen3_moe": QWEN3MOE}
_LLAMA = "LlamaForCausalLM"


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """The checked configuration of a checkpoint. Raises BqError, naming the key, what was found and expected."""
    config = checkpoint.config
    architecture = _architecture(config)
    if architecture in (QWEN2, QWEN3MOE):
        return read_qwen(config, architecture)
    _refuse_repacks(config)
    return read_m1(config) if architecture == BAICHUAN_M1 else _read_baichuan(config)


def _read_baichuan(config: Mapping[str, Any]) -> ModelConfig:
    is_llama = class_of(config) == _LLAMA
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    blocks = count(config, "num_hidden_layers")
    _check_blocks(blocks, is_llama)
    kv_heads = heads if config.get("num_key_value_heads") is None else count(config, "num_key_value_heads")
    if hidden % heads or (hidden // heads) % 2 or kv_heads != heads:
        raise BqError(
            say(
                f"config.json: {hidden} hidden, {heads} heads and {kv_heads} key-value heads are no Baichuan attention.",
                f"config.json：hidden {hidden}、{heads} 个头、{kv_heads} 个键值头不是 Baichuan 的注意力结构。",
            ),
            say("Use a model of the 7B or 13B layout.", "请使用 7B 或 13B 结构的模型。"),
        )
    return ModelConfig(
        architecture=BAICHUAN,
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        kv_heads=heads,
        head_width=hidden // heads,
        ffn=count(config, "intermediate_size"),
        vocab=count(config, "vocab_size"),
        context=_context(config),
        norm_eps=number(config, "rms_norm_eps", 1e-6),
        rope_base=rope_base(config, 10000.0),
        is_llama_layout=is_llama,
        is_tied=is_tied(config),
        scaling=read_scaling(config) if is_llama else None,
    )


def _check_blocks(blocks: int, is_llama: bool) -> None:
    if is_llama and blocks == 40:
        raise BqError(
            say(
                "config.json: num_hidden_layers is 40, as in a Baichuan 13B, and LlamaForCausalLM: the 13B has ALiBi, which "
                "that class does not compute, so such a copy answers wrong everywhere.",
                "config.json：num_hidden_layers 为 40（Baichuan 13B），类却是 LlamaForCausalLM：13B 使用 ALiBi，而该类不计算 ALiBi，"
                "因此这样的副本在任何程序中都会答错。",
            ),
            say(
                "Convert the 13B release, or a fine-tune in its own layout.",
                "请转换 13B 原版，或保持其结构的微调模型。",
            ),
        )
    if blocks not in POSITIONS or (is_llama and blocks != 32):
        raise BqError(
            say(
                f"config.json: num_hidden_layers is {blocks}; llama.cpp runs Baichuan with 32 blocks (RoPE) or 40 (ALiBi), "
                "and anything else without positions.",
                f"config.json：num_hidden_layers 为 {blocks}；llama.cpp 只支持 32 块（RoPE）或 40 块（ALiBi）的 Baichuan，"
                "其他块数会丢失位置信息。",
            ),
            say("Use a model of the 7B or 13B layout.", "请使用 7B 或 13B 结构的模型。"),
        )


def _refuse_repacks(config: Mapping[str, Any]) -> None:
    quantization = config.get("quantization_config")
    if not quantization and not config.get("quantization_bit"):
        return
    details = quantization if isinstance(quantization, dict) else config
    kind = "4-bit" if details.get("load_in_4bit") or details.get("bits") == 4 else "quantized"
    raise BqError(
        say(
            f"config.json: this is a {kind} repack (quantization_config), from which the original weights cannot be read.",
            "config.json：这是量化后的重打包版本（quantization_config），无法从中读出原始权重。",
        ),
        say("Use the bf16 release of the same model.", "请使用同一模型的 bf16 原版发布。"),
    )


def class_of(config: Mapping[str, Any]) -> str:
    """The name of the class that a config.json names first, else its model_type."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else str(config.get("model_type", ""))


def _architecture(config: Mapping[str, Any]) -> str:
    """llama.cpp's name. Raises BqError for a model that is none of Baichuan's."""
    name = class_of(config)
    found = _CLASSES.get(name)
    if found is None and not config.get("architectures"):
        found = _MODEL_TYPES.get(str(config.get("model_type")))
    if found is None:
        raise BqError(
            say(
                f"config.json: the architecture is {name[:60] or 'not given'}, expected BaichuanForCausalLM, or Qwen's of "
                "Baichuan-M2 and M3.",
                f"config.json：架构为 {name[:60] or '（未给出）'}，应为 BaichuanForCausalLM，或 Baichuan-M2、M3 的 Qwen 架构。",
            ),
            say("`bq models` lists what can be converted.", "可转换的模型见 `bq models`。"),
        )
    return found


def _context(config: Mapping[str, Any]) -> int:
    """The 13B releases have only model_max_length, Baichuan-7B only max_position_embeddings, Baichuan2-7B both alike."""
    for key in ("model_max_length", "max_position_embeddings"):
        if key in config:
            return count(config, key)
    return DEFAULT_CONTEXT
