"""The keys that give a model its shape, and what llama.cpp makes of them: rules for each architecture that bq runs.

Sources: llama_model_base::load_hparams (src/llama-model.cpp) and the models' own load_arch_hparams, load_arch_tensors and
graphs (src/models/baichuan.cpp, qwen2.cpp, qwen3moe.cpp), which end the process where a head is not as wide as its rotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bq.runtime.gguf_file import GgufFile
from bq.runtime.structure_rules import POSITIVE, Rule, anything, only, whole

_LEAST_CONTEXT, _MOST_CONTEXT = 64, 1 << 24
_MOST = (1 << 32) - 1
_MOST_BLOCKS, _MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS (llama-hparams.h)
_SCALINGS = ("none", "linear", "yarn", "longrope")
_SCALING = Rule("str", lambda value: value in _SCALINGS, (" / ".join(_SCALINGS), " / ".join(_SCALINGS)))
# llama.cpp runs a model of any other number without positions, and says nothing.
_BAICHUAN_BLOCKS = Rule("u32", lambda value: value in (32, 40), ("32 (7B) or 40 (13B)", "32（7B）或 40（13B）"), True)
_EPSILON = Rule("f32", lambda value: 0 < value < 1, ("between 0 and 1", "0 与 1 之间"), True)
_EXPERT_KEYS = ("expert_count", "expert_used_count")
# What other architectures have; a file that sets them differently computes something else, or ends the process.
_FOREIGN = {
    **dict.fromkeys(("expert_group_count", "expert_group_used_count"), only("u32", 0)),
    **dict.fromkeys(("nextn_predict_layers", "pooling_type", "classifier.pooling_type"), only("u32", 0)),
    "attention.causal": only("bool", True),
    "classifier.output_labels": Rule("[str]", lambda value: not value, ("empty", "空")),
}


@dataclass(frozen=True)
class Attention:
    """Heads of a file with defaults filled in; 0 where it does not say. `width` is of one head."""

    hidden: int
    heads: int
    kv_heads: int
    width: int

    @property
    def queries(self) -> int:
        """Rows of attn_q, and columns of attn_output: the queries of all heads."""
        return self.heads * self.width

    @property
    def keys(self) -> int:
        """Rows of attn_k and of attn_v: a key or a value of each kv head."""
        return self.kv_heads * self.width


def attention_of(file: GgufFile) -> Attention:
    """The attention of a file, as llama.cpp reads it."""
    hidden, heads = file.shape_count("embedding_length"), file.shape_count("attention.head_count")
    width = hidden // heads if heads > 0 else 0
    if file.architecture == "qwen3moe":  # the only one here whose heads need not make up the hidden size
        width = file.shape_count("attention.key_length", width)
    return Attention(hidden, heads, file.shape_count("attention.head_count_kv", heads), width)


def expert_width(file: GgufFile) -> int:
    """Units of one expert's feed-forward part."""
    shared = file.shape_count("feed_forward_length") // max(1, file.shape_count("expert_used_count"))
    return file.shape_count("expert_feed_forward_length") or shared


def model_rules(file: GgufFile) -> Mapping[str, Rule]:
    """The rules of a file's architecture, by whole keys."""
    has_experts, attention = file.architecture == "qwen3moe", attention_of(file)
    rules = (_expert_rules(file) if has_experts else _dense_rules(attention)) | _common_rules(attention)
    if file.architecture == "baichuan":
        rules["block_count"] = _BAICHUAN_BLOCKS
    general = {"general.name": anything("str"), "general.file_type": anything("u32"), "split.count": anything("u16")}
    return general | {f"{file.architecture}.{key}": rule for key, rule in rules.items()}


def _common_rules(attention: Attention) -> dict[str, Rule]:
    """What all have in common."""
    heads = attention.heads
    kv = (f"a divisor of {heads}, the number of heads", f"头数 {heads} 的约数")
    return {
        "block_count": whole(1, _MOST_BLOCKS, required=True),
        "context_length": whole(_LEAST_CONTEXT, _MOST_CONTEXT, required=True),
        "embedding_length": whole(1, _MOST, required=True),
        "embedding_length_out": only("u32", attention.hidden),
        "attention.head_count_kv": Rule("u32", lambda n: n > 0 and heads > 0 and heads % n == 0, kv),
        "attention.layer_norm_rms_epsilon": _EPSILON,
        **{f"attention.{name}_length_swa": anything("u32") for name in ("key", "value")},
        "rope.dimension_count_swa": anything("u32"),
        "rope.freq_base": POSITIVE,
        "rope.scale_linear": POSITIVE,
        "rope.scaling.type": _SCALING,
        "rope.scaling.finetuned": anything("bool"),
        "rope.scaling.original_context_length": whole(1, _MOST_CONTEXT),
        **{f"rope.scaling.{name}": POSITIVE for name in ("factor", "attn_factor", "alpha")},
        **_FOREIGN,
    }


def _dense_rules(attention: Attention) -> dict[str, Rule]:
    """Heads that make up the hidden size, one feed-forward part for all tokens."""
    hidden = attention.hidden
    words = (f"a number of heads of an even width that make up {hidden}", f"均分 {hidden} 且头宽为偶数的头数")
    return {
        "feed_forward_length": whole(1, _MOST, required=True),
        "attention.head_count": Rule("u32", lambda n: n > 0 and hidden % (2 * n) == 0, words, True),
        **{f"attention.{name}_length": only("u32", attention.width) for name in ("key", "value")},
        "rope.dimension_count": only("u32", attention.width),
        **dict.fromkeys(_EXPERT_KEYS, only("u32", 0)),
    }


def _expert_rules(file: GgufFile) -> dict[str, Rule]:
    """Heads of any even width, and experts of which each token has some."""
    attention, experts = attention_of(file), file.shape_count("expert_count")
    is_even = attention.width > 0 and attention.width % 2 == 0
    width = Rule("u32", lambda n: is_even and n == attention.width, ("one even width", "同一个偶数头宽"))
    of_width = (
        f"a number of heads of an even width, for {attention.hidden}",
        f"头宽为偶数的头数（{attention.hidden}）",
    )
    has_width = expert_width(file) > 0
    units = ("what gives each expert some units", "使每个专家有单元的值")
    usual = attention.hidden // attention.heads if attention.heads > 0 else 0
    return {
        "feed_forward_length": Rule("u32", lambda _: has_width, units),
        "expert_feed_forward_length": Rule("u32", lambda _: has_width, units, "feed_forward_length" not in _own(file)),
        "attention.head_count": Rule("u32", lambda n: n > 0 and is_even, of_width, True),
        "attention.key_length": width,
        # llama.cpp takes the hidden size over the heads for each width that a file does not give.
        "attention.value_length": replace(width, required=attention.width != usual),
        "rope.dimension_count": width,
        "expert_count": whole(1, _MOST_EXPERTS, required=True),
        "expert_used_count": whole(1, max(1, experts), required=True),
    }


def _own(file: GgufFile) -> set[str]:
    """The keys of the file's architecture, without its name."""
    prefix = f"{file.architecture}."
    return {key.removeprefix(prefix) for key in file.metadata if key.startswith(prefix)}
