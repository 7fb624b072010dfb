"""Loads a GGUF file into llama.cpp: checks it, chooses how, and turns what goes wrong into one line."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.cpu import decode_threads
from bq.runtime.errors import BqError, Cancelled
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library, model_params
from bq.runtime.model import Model
from bq.runtime.structure import ARCHITECTURE, check_structure

_BATCH = 512


@dataclass(frozen=True)
class LoadOptions:
    """ctx in tokens, gpu_layers as llama.cpp counts them; None lets bq choose."""

    ctx: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None


def load(path: Path, options: LoadOptions = LoadOptions(), progress: Callable[[float], bool] | None = None) -> Model:
    """Load a GGUF file. `progress` hears a fraction and returns False to stop.

    Raises BqError for a file that is damaged, no Baichuan, or too large for the memory; Cancelled if `progress` stopped it.
    """
    file = read_gguf(path)
    check_structure(file)
    lib = library()
    params = model_params()
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    stopped: list[bool] = []

    @lib.llama_progress_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_progress(fraction: float, _: object) -> bool:
        if progress is not None and not progress(fraction):
            stopped.append(True)
        return not stopped

    params.progress_callback = on_progress
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if stopped:
        if model:
            lib.llama_model_free(model)
        raise Cancelled(say("Loading was stopped.", "已停止加载。"))
    if not model:
        raise _load_failure(path)
    context = lib.llama_init_from_model(model, _context_params(lib, file, options))
    if not context:
        lib.llama_model_free(model)
        raise _load_failure(path)
    return Model(file, model, context)


def _context_params(lib: Any, file: GgufFile, options: LoadOptions) -> Any:
    trained = file.count(f"{ARCHITECTURE}.context_length", 4096)
    size = min(options.ctx or trained, trained)
    params = lib.llama_context_default_params()
    params.n_ctx = size
    params.n_batch = params.n_ubatch = _BATCH
    params.n_threads = params.n_threads_batch = options.threads or decode_threads(file.size_bytes)
    return params


def _load_failure(path: Path) -> BqError:
    detail = last_errors()
    return BqError(
        say(
            f"llama.cpp could not load {path.name}{': ' + detail if detail else ''}.",
            f"llama.cpp 无法加载 {path.name}{'：' + detail if detail else ''}。",
        ),
        say(
            "If memory is short, use a smaller mixture or a smaller --ctx; `--debug` shows llama.cpp's log.",
            "若内存不足，请换更小的量化或更小的 --ctx；`--debug` 可显示 llama.cpp 的日志。",
        ),
    )
