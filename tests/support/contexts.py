"""A model in memory once, and engines on contexts of any kind made from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.engine import Engine
from bq.runtime.gguf_file import read_gguf
from bq.runtime.llama import library, model_params
from bq.runtime.tokenizer import Tokenizer

F16, Q8_0 = 1, 8  # enum ggml_type


@dataclass(frozen=True)
class Kind:
    """Of a context: `parallel` sequences, each with a cache of its own unless `unified`."""

    kv: int = F16
    flash: bool = True
    size: int = 256
    parallel: int = 1
    unified: bool = True


class Loaded:
    """A model without a context."""

    def __init__(self, path: Path) -> None:
        lib = library()
        self.path = path
        self.model: Any = lib.llama_model_load_from_file(str(path).encode(), model_params())
        assert self.model, path
        self.tokenizer = Tokenizer(lib.llama_model_get_vocab(self.model), read_gguf(path))

    @contextmanager
    def engine(self, kind: Kind = Kind()) -> Iterator[Engine]:
        """An engine on a new context."""
        lib = library()
        params = lib.llama_context_default_params()
        params.n_ctx = kind.size * (1 if kind.unified else kind.parallel)
        params.n_seq_max, params.kv_unified = kind.parallel, kind.unified
        params.type_k = params.type_v = kind.kv
        params.flash_attn_type = int(kind.flash)
        params.n_threads = params.n_threads_batch = 1
        context = lib.llama_init_from_model(self.model, params)
        assert context, kind
        engine = Engine(context, self.tokenizer, set())
        try:
            yield engine
        finally:
            engine.close()
            lib.llama_free(context)

    def close(self) -> None:
        """Free it; no engine of it is open any more."""
        library().llama_model_free(self.model)
