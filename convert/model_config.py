"""The shape of a model as a value, for every architecture that bq converts."""

from dataclasses import dataclass

from bq.convert.gptq import Gptq

# llama.cpp tells RoPE from ALiBi by the block count alone and gives any other count no positions at all.
POSITIONS = {32: "rope", 40: "alibi"}
MOST_BLOCKS, MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS (llama-hparams.h)
BAICHUAN, BAICHUAN_M1, QWEN2, QWEN3MOE = "baichuan", "baichuan_m1", "qwen2", "qwen3moe"  # general.architecture


@dataclass(frozen=True)
class Experts:
    """A feed-forward part that is cut into `total` experts of `ffn` units, of which each token goes through `used`."""

    total: int
    used: int
    ffn: int


@dataclass(frozen=True)
class Scaling:
    """RoPE stretched beyond the context `original` that a model was trained with; `kind` is "linear" or "yarn"."""

    kind: str
    factor: float
    original: int | None


@dataclass(frozen=True)
class Windows:
    """The blocks of Baichuan-M1 that see `tokens` tokens back, and their heads, which are others than the global blocks'."""

    blocks: frozenset[int]
    tokens: int
    heads: int
    kv_heads: int
    head_width: int


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model; sizes are counts of weights or tokens. `architecture` is llama.cpp's name of it."""

    architecture: str
    hidden: int
    blocks: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_base: float
    is_llama_layout: bool = False  # q, k, v apart and NormHead folded already, as fine-tuning tools rewrite Baichuan 2
    is_tied: bool = False  # the embedding is the output as well
    experts: Experts | None = None
    scaling: Scaling | None = None
    windows: Windows | None = None
    gptq: Gptq | None = None

    @property
    def position(self) -> str:
        """ "rope" or "alibi"."""
        return POSITIONS[self.blocks] if self.architecture == BAICHUAN else "rope"
