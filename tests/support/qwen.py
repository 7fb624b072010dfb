"""Random checkpoints in Qwen's layouts, in exactly the released form of Baichuan-M2 (Qwen2) and M3 (Qwen3 MoE) but of any size.

Promise: `write_qwen` makes the folder that a download makes (config, tokenizer, safetensors in one file or shards) from a `Shape`
alone; the checkpoint it gives back knows the same values as float32, for tests.support.qwen_reference. Sources of the forms:
config.json of Qwen2.5-32B and Qwen3-235B-A22B, the names of transformers' modeling_qwen2.py and modeling_qwen3_moe.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bq.convert.checkpoint import Checkpoint
from bq.convert.source import MappedFile, SourceTensor, contiguous_strides
from tests.support import qwen_reference
from tests.support.companions import write_json
from tests.support.families import write_weights
from tests.support.qwen_tokenizer import ADDED, write_tokenizer
from tests.support.stored import F32, DType, Stored
from tests.support.weights import Weight, as_stored, values

Family = Literal["qwen2", "qwen3moe"]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3moe")
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Shape:
    """What to make. The head width of a Qwen3 need not make up the hidden size."""

    family: Family = "qwen2"
    hidden: int = 96
    blocks: int = 4
    heads: int = 6
    kv_heads: int = 2
    width: int | None = None  # of a head
    ffn: int = 160
    experts: int = 6
    used: int = 2
    expert_ffn: int = 64
    own: int = 420  # pieces of the tokenizer's own
    padding: int = 10  # rows of the embedding beyond its tokens
    context: int = 4096
    base: float = 1e6
    tied: bool = False
    dtype: DType = "bf16"
    form: Literal["safetensors", "safetensors-shards"] = "safetensors"
    seed: int = 0

    @property
    def is_moe(self) -> bool:
        return self.family == "qwen3moe"

    @property
    def head_width(self) -> int:
        return self.width or self.hidden // self.heads

    @property
    def vocab(self) -> int:
        return self.own + len(ADDED) + self.padding


def padded(shape: Shape, vocab: int) -> Shape:
    """The same with an embedding of `vocab` rows."""
    return replace(shape, padding=vocab - shape.vocab + shape.padding)


class Written(Mapping[str, F32]):
    """A written checkpoint: tensor name to values as float32, made anew at every access."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self._weights = {weight.name: weight for weight in weights(shape)}

    def __getitem__(self, name: str) -> F32:
        return values(self._weights[name], self.shape.dtype, self.shape.seed)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def logits(self, ids: Sequence[int]) -> F32:
        """What the model computes, by the reference: [n_tokens, vocab]."""
        return qwen_reference.logits(self, config(self.shape), ids)


def write_qwen(
    folder: Path, shape: Shape, *, edit: Callable[[list[Stored]], list[Stored]] = lambda tensors: tensors
) -> Written:
    """Write the whole folder. `edit` may drop, add or change tensors before they are written."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(shape))
    write_json(folder / "generation_config.json", generation_config(shape))
    write_tokenizer(folder, shape.own, TEMPLATE)
    tensors = edit([as_stored(weight, shape.dtype, shape.seed) for weight in weights(shape)])
    write_weights(folder, shape.form, tensors)
    return Written(folder, shape)


def unwritten(shape: Shape, folder: Path = Path("nowhere")) -> Checkpoint:
    """The checkpoint that `write_qwen` would write, of any size, for plans that read no weight."""
    file = MappedFile(folder / "model.safetensors")
    tensors = {
        one.name: SourceTensor(one.name, shape.dtype, one.shape, contiguous_strides(one.shape), 0, file)
        for one in weights(shape)
    }
    return Checkpoint(folder, config(shape), (file.path,), tensors)


def weights(shape: Shape) -> list[Weight]:
    """All tensors in the order of the module's state_dict."""
    blocks = [one for number in range(shape.blocks) for one in _block(shape, f"model.layers.{number}.")]
    return [
        Weight("model.embed_tokens.weight", (shape.vocab, shape.hidden), scale=shape.hidden**0.5),
        *blocks,
        Weight("model.norm.weight", (shape.hidden,), "norm"),
        *([] if shape.tied else [Weight("lm_head.weight", (shape.vocab, shape.hidden))]),
    ]


def _block(shape: Shape, prefix: str) -> list[Weight]:
    hidden = shape.hidden
    query, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    rows = {"q": query, "k": keys, "v": keys}
    attention = prefix + "self_attn."
    projections = [Weight(f"{attention}{part}_proj.weight", (n, hidden), scale=1.25) for part, n in rows.items()]
    norms = [Weight(f"{attention}{part}_norm.weight", (shape.head_width,), "norm") for part in "qk"]
    biases = [Weight(f"{attention}{part}_proj.bias", (n,), "norm") for part, n in rows.items()]
    return [
        *projections,
        *(norms if shape.is_moe else biases),
        Weight(attention + "o_proj.weight", (hidden, query), scale=0.5),
        *(_experts(shape, prefix + "mlp.") if shape.is_moe else _mlp(prefix + "mlp.", hidden, shape.ffn)),
        Weight(prefix + "input_layernorm.weight", (hidden,), "norm"),
        Weight(prefix + "post_attention_layernorm.weight", (hidden,), "norm"),
    ]


def _mlp(prefix: str, hidden: int, ffn: int) -> list[Weight]:
    return [
        Weight(prefix + "gate_proj.weight", (ffn, hidden)),
        Weight(prefix + "up_proj.weight", (ffn, hidden)),
        Weight(prefix + "down_proj.weight", (hidden, ffn), scale=0.8),
    ]


def _experts(shape: Shape, prefix: str) -> list[Weight]:
    router = Weight(prefix + "gate.weight", (shape.experts, shape.hidden), scale=2.0)
    parts = [_mlp(f"{prefix}experts.{number}.", shape.hidden, shape.expert_ffn) for number in range(shape.experts)]
    return [router, *(one for part in parts for one in part)]


def config(shape: Shape) -> dict[str, Any]:
    """config.json: keys and values of the releases' bases, with this shape's sizes."""
    common = {
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "max_window_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.blocks,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": shape.base,
        "sliding_window": None,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[shape.dtype],
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab,
    }
    if not shape.is_moe:
        return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **common}
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": shape.head_width,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape.expert_ffn,
        "norm_topk_prob": True,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.used,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
        **common,
    }


def generation_config(shape: Shape) -> dict[str, Any]:
    """As Qwen3's bases have it."""
    start = shape.own
    return {
        "bos_token_id": start,
        "do_sample": True,
        "eos_token_id": [start + 2, start],
        "pad_token_id": start,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "transformers_version": "4.51.0",
    }
