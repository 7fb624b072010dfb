"""Random Baichuan-M1 checkpoints of any size: blocks that see everything alternate with blocks of a window and other heads.

Promise: names and shapes as the official fork of vLLM and mlx-lm's baichuan_m1.py load them, config.json with the keys that these
read. The tokenizer is the small one of Baichuan 2, which cuts texts in the same way, with the roles' pieces of M1 in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert.checkpoint import Checkpoint
from bq.convert.source import MappedFile, SourceTensor, contiguous_strides
from tests.support import companions
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import F32
from tests.support.weights import Weight, as_stored, values

ROLES = {103: "<B_SYS>", 104: "<C_Q>", 105: "<C_A>"}  # in place of reserved pieces, as in the release


@dataclass(frozen=True)
class Shape:
    """What to make; the blocks of odd number have windows."""

    hidden: int = 96
    blocks: int = 4
    heads: int = 3
    kv_heads: int = 1
    window_heads: int = 6
    window_kv_heads: int = 2
    ffn: int = 128
    vocab: int = 704
    pieces: int = 700

    def keys(self, block: int) -> tuple[int, int]:
        """Key-value heads of a block, and the width of one."""
        if block % 2:
            return self.window_kv_heads, self.hidden // self.window_heads
        return self.kv_heads, self.hidden // self.heads


def write_m1(folder: Path, shape: Shape) -> dict[str, F32]:
    """Write the folder; its tensors as float32."""
    folder.mkdir(parents=True, exist_ok=True)
    companions.write(folder, 2, config(shape), chat=False, modeling=False)
    roles = {str(number): {"content": text, "special": True} for number, text in ROLES.items()}
    companions.write_json(
        folder / "tokenizer_config.json", companions.tokenizer_config() | {"added_tokens_decoder": roles}
    )
    (folder / "tokenizer.model").write_bytes(companions.tokenizer(2, shape.pieces))
    write_safetensors(folder / "model.safetensors", [as_stored(one, "bf16", 0) for one in weights(shape)])
    return {one.name: values(one, "bf16", 0) for one in weights(shape)}


def unwritten(shape: Shape) -> Checkpoint:
    """The checkpoint of any size, for plans that read no weight."""
    file = MappedFile(Path("nowhere/model.safetensors"))
    tensors = {
        one.name: SourceTensor(one.name, "bf16", one.shape, contiguous_strides(one.shape), 0, file)
        for one in weights(shape)
    }
    return Checkpoint(Path("nowhere"), config(shape), (file.path,), tensors)


def weights(shape: Shape) -> list[Weight]:
    """All tensors."""
    blocks = [one for number in range(shape.blocks) for one in _block(shape, number)]
    return [
        Weight("model.embed_tokens.weight", (shape.vocab, shape.hidden)),
        *blocks,
        Weight("model.norm.weight", (shape.hidden,), "norm"),
        Weight("lm_head.weight", (shape.vocab, shape.hidden), "head"),
    ]


def _block(shape: Shape, number: int) -> list[Weight]:
    hidden, ffn, prefix = shape.hidden, shape.ffn, f"model.layers.{number}."
    kv_heads, width = shape.keys(number)
    return [
        Weight(prefix + "self_attn.W_pack.weight", (hidden + 2 * kv_heads * width, hidden)),
        Weight(prefix + "self_attn.o_proj.weight", (hidden, hidden)),
        *(Weight(f"{prefix}self_attn.conv_{one}", (1, 1, kv_heads, 1, 2), "taps") for one in "kv"),
        Weight(prefix + "mlp.gate_proj.weight", (ffn, hidden)),
        Weight(prefix + "mlp.up_proj.weight", (ffn, hidden)),
        Weight(prefix + "mlp.down_proj.weight", (hidden, ffn)),
        Weight(prefix + "input_layernorm.weight", (hidden,), "norm"),
        Weight(prefix + "post_attention_layernorm.weight", (hidden,), "norm"),
    ]


def config(shape: Shape) -> dict[str, Any]:
    """config.json; the base of RoPE is one of our own, for no source names that of the release."""
    return {
        "architectures": ["BaichuanM1ForCausalLM"],
        "model_type": "baichuan_m1",
        "conv_window": 2,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": 32768,
        "model_max_length": 32768,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.blocks,
        "num_key_value_heads": shape.kv_heads,
        "num_swa_attention_heads": shape.window_heads,
        "num_swa_key_value_heads": shape.window_kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 50000.0,
        "sliding_window": 8192,
        "sliding_window_layers": list(range(1, shape.blocks, 2)),
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab,
    }
