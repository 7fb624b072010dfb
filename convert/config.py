"""What a checkpoint's config.json says of its shape, and whether llama.cpp can run such a model."""

from dataclasses import dataclass
from typing import Any

from bq.convert.checkpoint import Checkpoint
from bq.runtime.errors import BqError
from bq.runtime.language import say

# llama.cpp tells RoPE from ALiBi by the block count alone and gives any other count no positions at all.
POSITIONS = {32: "rope", 40: "alibi"}
DEFAULT_CONTEXT = 4096
_ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
_LLAMA_ARCHITECTURE = "LlamaForCausalLM"


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Baichuan model; sizes are counts of weights or tokens."""

    hidden: int
    blocks: int
    heads: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_base: float
    is_llama_layout: bool  # q, k, v apart and NormHead already folded, as some fine-tuning tools rewrite Baichuan 2

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    @property
    def position(self) -> str:
        """ "rope" or "alibi"."""
        return POSITIONS[self.blocks]


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """The checked configuration of a checkpoint. Raises BqError, naming the key, what was found and expected."""
    config = checkpoint.config
    _refuse_repacks(config)
    is_llama = _check_architecture(config)
    hidden, heads = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    blocks = _count(config, "num_hidden_layers")
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
    kv_heads = config.get("num_key_value_heads", heads)
    if hidden % heads or (hidden // heads) % 2 or kv_heads != heads:
        raise BqError(
            say(
                f"config.json: {hidden} hidden, {heads} heads and {kv_heads} key-value heads are no Baichuan attention.",
                f"config.json：hidden {hidden}、{heads} 个头、{kv_heads} 个键值头不是 Baichuan 的注意力结构。",
            ),
            say("Use a model of the 7B or 13B layout.", "请使用 7B 或 13B 结构的模型。"),
        )
    return ModelConfig(
        hidden=hidden,
        blocks=blocks,
        heads=heads,
        ffn=_count(config, "intermediate_size"),
        vocab=_count(config, "vocab_size"),
        context=_context(config),
        norm_eps=_number(config, "rms_norm_eps", 1e-6),
        rope_base=_number(config, "rope_theta", 10000.0),
        is_llama_layout=is_llama,
    )


def _refuse_repacks(config: dict[str, Any]) -> None:
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


def _check_architecture(config: dict[str, Any]) -> bool:
    """Whether the layout is Llama's. Raises BqError for an architecture that is neither Baichuan's nor that."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else str(config.get("model_type", ""))
    if name in _ARCHITECTURES or (not names and config.get("model_type") == "baichuan"):
        return False
    if name == _LLAMA_ARCHITECTURE:
        return True
    if name == "BaichuanM1ForCausalLM" or config.get("model_type") == "baichuan_m1":
        remedy = say(
            "llama.cpp has no such architecture yet; see `bq models`.", "llama.cpp 尚无此架构；见 `bq models`。"
        )
    elif name.startswith("Qwen"):
        remedy = say(
            "Baichuan-M2 and M3 have Qwen's layout: use llama.cpp's own converter for them.",
            "Baichuan-M2 与 M3 是 Qwen 结构：请使用 llama.cpp 自带的转换器。",
        )
    else:
        remedy = say("`bq models` lists what can be converted.", "可转换的模型见 `bq models`。")
    raise BqError(
        say(
            f"config.json: the architecture is {name or 'not given'}, expected BaichuanForCausalLM.",
            f"config.json：架构为 {name or '（未给出）'}，应为 BaichuanForCausalLM。",
        ),
        remedy,
    )


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 24:
        raise BqError(
            say(
                f"config.json: {key} is {value!r}, expected a positive count.",
                f"config.json：{key} 为 {value!r}，应为正整数。",
            ),
            say("Download config.json again.", "请重新下载 config.json。"),
        )
    return value


def _number(config: dict[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise BqError(
            say(
                f"config.json: {key} is {value!r}, expected a positive number.",
                f"config.json：{key} 为 {value!r}，应为正数。",
            )
        )
    return float(value)


def _context(config: dict[str, Any]) -> int:
    """The 13B releases have only model_max_length, Baichuan-7B only max_position_embeddings, Baichuan2-7B both alike."""
    for key in ("model_max_length", "max_position_embeddings"):
        if key in config:
            return _count(config, key)
    return DEFAULT_CONTEXT
