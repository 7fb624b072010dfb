"""What a model's tensors are: which are quantized, and how many bytes lie where, the embedding, the output and each block.

An adapter's tensors lie where those do that they are for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from bq.runtime.gguf_file import TensorEntry

_EXPERTS = frozenset(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"))
_ROUTER = ".ffn_gate_inp.weight"  # F32 in every file: llama.cpp neither converts nor quantizes it


@dataclass(frozen=True)
class Parts:
    """Bytes. The output's norm counts with the output; `experts` is what each of the blocks has of experts' matrices."""

    embedding: int
    output: int
    blocks: tuple[int, ...]
    experts: tuple[int, ...]
    widest_expert: int  # the largest tensor of experts


def is_matrix(tensor: TensorEntry) -> bool:
    """Whether a tensor is quantized: a matrix, or those of all experts of a block in one."""
    return len(tensor.shape) > 1 and not tensor.name.endswith(_ROUTER)


def is_expert(name: str) -> bool:
    """Whether a tensor has the matrices of a block's experts, or an adapter's for them."""
    return not _EXPERTS.isdisjoint(name.split(".", 3)[2:3])


def rows_of(tensor: TensorEntry) -> int:
    """The rows of a tensor, those of all its experts; a vector is one."""
    return prod(tensor.shape[:-1])


def parts_of(tensors: Iterable[TensorEntry], blocks: int) -> Parts:
    """The parts of a model of so many blocks, or of an adapter for it."""
    whole, experts = [0] * blocks, [0] * blocks
    output = embedding = widest = 0
    for tensor in tensors:
        part, _, rest = tensor.name.partition(".")
        number = rest.partition(".")[0]
        if part == "blk" and number.isdecimal() and int(number) < blocks:
            whole[int(number)] += tensor.size_bytes
            if is_expert(tensor.name):
                experts[int(number)] += tensor.size_bytes
                widest = max(widest, tensor.size_bytes)
        elif part == "token_embd":
            embedding += tensor.size_bytes
        else:
            output += tensor.size_bytes
    return Parts(embedding, output, tuple(whole), tuple(experts), widest)
