"""Which layers of a mixture of experts keep their experts in main memory while the rest of the layer is on a GPU.

Of 128 experts a token uses 8: their matrices are most of the weights and the least of the work, so a model far larger than a
GPU runs at a useful speed with attention there and the experts here. llama.cpp's --n-cpu-moe takes the first layers; here they
are spread evenly, so that each of several GPUs, which have layers one behind the other, is relieved by the same part.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

from bq.runtime.ggml import open_library


def layers_relieved(blocks: int, gpu_layers: int, count: int) -> tuple[int, ...]:
    """The blocks on a GPU whose experts are in main memory. `count` is of all blocks, those that lie there as a whole included."""
    first = min(blocks, max(0, blocks + 1 - gpu_layers))
    on_gpu = blocks - first
    wanted = min(max(0, count - first), on_gpu)
    return tuple(first + i for i in range(on_gpu) if (i + 1) * wanted // on_gpu > i * wanted // on_gpu)


class _Override(ctypes.Structure):
    """struct llama_model_tensor_buft_override (llama.h), which the bindings only have as a comment."""

    _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


def overrides(layers: Sequence[int]) -> Any:
    """What llama_model_params.tensor_buft_overrides takes for these layers, None for none; to be held while a model is loaded.

    One pattern for all: llama.cpp compiles every one anew for every tensor. With ggml's plain CPU buffer it looks for the best
    of the host's, which may be a repacked or a pinned one (llama_model_loader::create_tensor).
    """
    if not layers:
        return None
    numbers = "|".join(map(str, layers))
    pattern = rf"blk\.({numbers})\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # common.h, LLM_FFN_EXPS_REGEX
    return (_Override * 2)(_Override(pattern.encode(), _cpu_buffer_type()), _Override(None, None))


@cache
def _cpu_buffer_type() -> int:
    base = open_library("ggml-base")
    base.ggml_backend_cpu_buffer_type.argtypes, base.ggml_backend_cpu_buffer_type.restype = [], ctypes.c_void_p
    return int(base.ggml_backend_cpu_buffer_type())
