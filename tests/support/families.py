"""Random checkpoints of the four Baichuan families, in exactly the released form but of any size.

Promise: `write_checkpoint` makes the folder that a download makes (config, tokenizer, weights as `.bin` or safetensors,
one file or shards) from a `Shape` alone, streaming; the `Checkpoint` it gives back knows the same values as float32
and is the mapping that tests.support.reference reads.
Source of the forms: facts.md section 1, the files of ../shared/data/releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.support import companions, reference
from tests.support.safetensors_file import write_safetensors
from tests.support.shards import write_shards
from tests.support.stored import F32, DType, Stored
from tests.support.tokenizer import Generation
from tests.support.torchzip import write_torch_zip
from tests.support.weights import Weight, as_stored, values

Family = Literal["b1-7b", "b1-13b", "b2-7b", "b2-13b"]
Form = Literal["bin", "bin-shards", "safetensors", "safetensors-shards"]
FAMILIES: tuple[Family, ...] = ("b1-7b", "b1-13b", "b2-7b", "b2-13b")
FORMS: tuple[Form, ...] = ("bin", "bin-shards", "safetensors", "safetensors-shards")


@dataclass(frozen=True)
class Shape:
    """What to make. Six heads by default: ALiBi treats counts that are no power of two in a way of its own, and with
    fewer than four heads its slopes are too flat to matter.
    """

    family: Family = "b2-7b"
    hidden: int = 192
    heads: int = 6
    ffn: int = 320
    vocab: int = 704  # rows of the embedding; those above `pieces` are padding
    pieces: int = 700
    dtype: DType = "bf16"
    form: Form = "bin"
    chat: bool = True
    seed: int = 0
    shards: int = 3
    blocks: int | None = None  # other than the family's only to test refusals
    inv_freq: bool = False  # the rotary buffers that old 7B files carry
    modeling: bool = True  # write modeling_baichuan.py, which says NormHead for generation 2
    z_loss: bool = True  # write z_loss_weight in the config of b2-7b
    normalized_head: bool = False  # lm_head as saved after a first forward pass: rows of norm 1

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} over {self.heads} heads gives no even head width")
        if self.vocab < self.pieces:
            raise ValueError(f"vocab {self.vocab} is less than the tokenizer's {self.pieces} pieces")

    @property
    def generation(self) -> Generation:
        return 1 if self.family.startswith("b1") else 2

    @property
    def alibi(self) -> bool:
        return self.family.endswith("13b")

    @property
    def n_blocks(self) -> int:
        return self.blocks if self.blocks is not None else (40 if self.alibi else 32)


class Checkpoint(Mapping[str, F32]):
    """A written checkpoint: tensor name to values as float32, made anew at every access."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder, self.shape = folder, shape
        self.config = config(shape)
        self._weights = {weight.name: weight for weight in weights(shape)}

    def __getitem__(self, name: str) -> F32:
        return _values(self._weights[name], self.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def architecture(self) -> reference.Architecture:
        return reference.architecture(self.config, norm_head=self.shape.generation == 2)

    def logits(self, ids: Sequence[int]) -> F32:
        """What the model computes, by the reference: [n_tokens, vocab]."""
        return reference.logits(self, self.architecture, ids)


def write_checkpoint(
    folder: Path, shape: Shape, *, edit: Callable[[list[Stored]], list[Stored]] = lambda tensors: tensors
) -> Checkpoint:
    """Write the whole folder. `edit` may drop, add or change tensors before they are written, to make broken ones."""
    folder.mkdir(parents=True, exist_ok=True)
    companions.write(folder, shape.generation, config(shape), chat=shape.chat, modeling=shape.modeling)
    (folder / "tokenizer.model").write_bytes(companions.tokenizer(shape.generation, shape.pieces))
    write_weights(folder, shape.form, edit([_stored(weight, shape) for weight in weights(shape)]), shape.shards)
    return Checkpoint(folder, shape)


def write_weights(folder: Path, form: Form, tensors: Sequence[Stored], shards: int = 3) -> None:
    """The weight files alone. Released `.bin` files were written by transformers with torch 2.0: plain dicts."""

    def write_bin(path: Path, part: Sequence[Stored]) -> None:
        write_torch_zip(path, part, container="dict", writer="torch-2.0")

    if form == "bin":
        write_torch_zip(folder / "pytorch_model.bin", tensors)
    elif form == "bin-shards":
        write_shards(folder, tensors, shards, ("pytorch_model", "bin"), write_bin)
    elif form == "safetensors":
        write_safetensors(folder / "model.safetensors", tensors)
    else:
        write_shards(folder, tensors, shards, ("model", "safetensors"), write_safetensors)


def weights(shape: Shape) -> list[Weight]:
    """All tensors in the order of the module's state_dict."""
    blocks = [weight for number in range(shape.n_blocks) for weight in _block_weights(shape, f"model.layers.{number}.")]
    return [
        Weight("model.embed_tokens.weight", (shape.vocab, shape.hidden), scale=shape.hidden**0.5),
        *blocks,
        Weight("model.norm.weight", (shape.hidden,), "norm"),
        Weight("lm_head.weight", (shape.vocab, shape.hidden), "unit_head" if shape.normalized_head else "head"),
    ]


def _block_weights(shape: Shape, prefix: str) -> list[Weight]:
    hidden, ffn = shape.hidden, shape.ffn
    buffers = [Weight(prefix + "self_attn.rotary_emb.inv_freq", (hidden // shape.heads // 2,), "inv_freq")]
    return [
        Weight(prefix + "self_attn.W_pack.weight", (3 * hidden, hidden), scale=1.25),
        Weight(prefix + "self_attn.o_proj.weight", (hidden, hidden), scale=0.5),
        *(buffers if shape.inv_freq and not shape.alibi else []),
        Weight(prefix + "mlp.gate_proj.weight", (ffn, hidden)),
        Weight(prefix + "mlp.down_proj.weight", (hidden, ffn), scale=0.8),
        Weight(prefix + "mlp.up_proj.weight", (ffn, hidden)),
        Weight(prefix + "input_layernorm.weight", (hidden,), "norm"),
        Weight(prefix + "post_attention_layernorm.weight", (hidden,), "norm"),
    ]


def config(shape: Shape) -> dict[str, Any]:
    """config.json: keys and values of the release, with this shape's sizes."""
    cls = "BaiChuan" if shape.family == "b1-7b" else "Baichuan"
    context: dict[str, int] = {}
    if not shape.alibi:
        context["max_position_embeddings"] = 4096
    if shape.family != "b1-7b":
        context["model_max_length"] = 4096
    z_loss = {"z_loss_weight": 0} if shape.family == "b2-7b" and shape.z_loss else {}
    return {
        "architectures": [f"{cls}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_baichuan.{cls}Config",
            "AutoModelForCausalLM": f"modeling_baichuan.{cls}ForCausalLM",
        },
        **({"tokenizer_class": "BaichuanTokenizer"} if shape.generation == 2 else {}),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        **context,
        "model_type": "baichuan",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.n_blocks,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "torch_dtype": {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[shape.dtype],
        "transformers_version": "4.29.2",
        "use_cache": True,
        "vocab_size": shape.vocab,
        **z_loss,
    }


def _stored(weight: Weight, shape: Shape) -> Stored:
    return as_stored(weight, shape.dtype, shape.seed)


def _values(weight: Weight, shape: Shape) -> F32:
    return values(weight, shape.dtype, shape.seed)
