"""Logits of whole texts: what a loaded model says of each next token, a batch at a time so that no vocabulary of 125,696 fills the memory.

It runs the model as its user runs it: the same devices, KV cache and kernels.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.runtime.engine import decode_error
from bq.runtime.fit import Plan
from bq.runtime.llama import library, log_position
from bq.runtime.loading import load
from bq.runtime.model import Model
from bq.runtime.values import LoadOptions

Logits = npt.NDArray[np.float32]
BATCH = 512  # tokens of one decode; its logits take 257 MB for 125,696 pieces


class Decoder:
    """A model that reads texts from their beginning. Its KV cache is this object's while it is used."""

    def __init__(self, model: Model, batch: int = BATCH) -> None:
        engine = model._engine
        if engine is None:
            raise RuntimeError("the model is closed")
        self.model, self.tokenizer = model, model.tokenizer
        self.vocabulary = len(model.tokenizer)  # columns of the logits
        self._engine = engine
        self._batch = batch

    def logits(self, ids: Sequence[int], first: int = 0) -> Iterator[tuple[int, Logits]]:
        """(position, [n, vocabulary]) for the positions from `first` on, in order, the parts as they are decoded.

        Row i is what follows ids[position + i]. The array is llama.cpp's own: it holds until the next step. Raises BqError if
        llama.cpp fails, as it does for more ids than the context has.
        """
        lib, engine = library(), self._engine
        engine.take_over()
        batch = lib.llama_batch_init(self._batch, 0, 1)
        try:
            for start in range(0, len(ids), self._batch):
                part = ids[start : start + self._batch]
                batch.n_tokens = len(part)
                for i, token in enumerate(part):
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
                    batch.seq_id[i][0], batch.logits[i] = 0, start + i >= first
                mark = log_position()
                result = lib.llama_decode(engine.context, batch)
                if result:
                    raise decode_error(result, mark)
                wanted = start + len(part) - max(start, first)
                if wanted > 0:
                    pointer = lib.llama_get_logits(engine.context)
                    yield max(start, first), np.ctypeslib.as_array(pointer, (wanted, self.vocabulary))
        finally:
            lib.llama_batch_free(batch)
            if engine.context is not None:
                engine.take_over()


@contextmanager
def open_decoder(
    path: Path,
    context: int,
    first: int = 0,
    options: LoadOptions | None = None,
    progress: Callable[[float], bool] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
) -> Iterator[Decoder]:
    """A decoder of texts of up to `context` tokens whose logits are wanted from position `first` on.

    `options` are the user's, for devices and threads. Raises what bq.runtime.loading.load raises.
    """
    batch = min(BATCH, context)
    outputs = max(1, min(batch, context - first))
    chosen = replace(options or LoadOptions(), ctx=context, batch=batch, outputs=outputs)
    with load(path, chosen, progress, on_plan) as model:
        yield Decoder(model, batch)
