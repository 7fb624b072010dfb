"""llama.cpp as the tests' oracle: its own quantizer for bytes, its logits in full precision.

The logits use a float32 KV cache and no flash attention: the defaults round keys and values to float16, an error of about
1e-3 that is llama.cpp's own choice and not the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.llama import library, model_params

F32_TYPE = 0  # enum ggml_type
FLASH_ATTENTION_OFF = 0  # enum llama_flash_attn_type


def quantize_with_llama(source: Path, out: Path, file_type: int, threads: int = 2) -> None:
    """`llama_model_quantize` from `source` to `out`, with the parameters of the llama-quantize tool's defaults."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    result = lib.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    assert result == 0, f"llama_model_quantize gave {result}"


def logits(
    path: Path, ids: Sequence[int], before: Callable[[Any, Any], None] = lambda model, context: None
) -> npt.NDArray[np.float32]:
    """Logits [n, vocabulary] of every position of `ids`, decoded in one batch; `before` that it sees model and context."""
    lib = library()
    model = lib.llama_model_load_from_file(str(path).encode(), model_params())
    assert model, path
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = max(64, len(ids))
    params.type_k = params.type_v = F32_TYPE
    params.flash_attn_type = FLASH_ATTENTION_OFF
    params.n_threads = params.n_threads_batch = 1  # more would wait for each other, spinning: the models are tiny
    context = lib.llama_init_from_model(model, params)
    batch = lib.llama_batch_init(len(ids), 0, 1)
    try:
        before(model, context)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert lib.llama_decode(context, batch) == 0
        vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        return np.ctypeslib.as_array(lib.llama_get_logits(context), (len(ids), vocabulary)).copy()
    finally:
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        lib.llama_model_free(model)
