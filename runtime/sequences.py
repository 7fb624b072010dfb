"""Several sequences in the one KV cache of a context: which tokens stand in which, and how many cells they take.

The cache is unified: a prefix that sequences have in common stands there once, in cells that belong to all of them. What
is kept here must be exactly what llama.cpp holds, for it cannot be asked.
"""

import ctypes
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np

from bq.runtime.engine import Engine, abort_on
from bq.runtime.llama import library


@dataclass(frozen=True)
class Part:
    """Tokens to decode after what a sequence holds; with `output`, the logits after the last of them are kept."""

    sequence: int
    tokens: Sequence[int]
    output: bool


class Sequences:
    """The sequences 0 to `size - 1` of an engine's context, which must hold nothing else."""

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine = engine
        self._tokens: list[list[int]] = [[] for _ in range(size)]
        self._cells: list[list[int]] = [[] for _ in range(size)]  # a number for each cell, the same where it is shared
        self._new_cell = count()
        self.most_tokens = int(library().llama_n_batch(engine.context))
        self._batch = _Batch(self.most_tokens)

    def used(self, sequence: int) -> int:
        """The tokens that a sequence holds."""
        return len(self._tokens[sequence])

    def cells(self, sequences: Iterable[int]) -> int:
        """The cells that these sequences take together."""
        return len(set(chain.from_iterable(self._cells[one] for one in sequences)))

    def common(self, sequence: int, ids: Sequence[int]) -> int:
        """How many tokens at the beginning of `ids` a sequence holds."""
        return common_prefix(self._tokens[sequence], ids)

    def begin(self, sequence: int, ids: Sequence[int]) -> int:
        """Let a sequence hold the longest prefix of `ids` that any sequence holds; returns its length."""
        lengths = [self.common(one, ids) for one in range(len(self._tokens))]
        best, own = max(lengths), lengths[sequence]
        if own == best:
            self._keep(sequence, own)
            return own
        source = lengths.index(best)
        self._keep(sequence, 0)  # its own cells would stand beside the shared ones
        lib = library()
        lib.llama_memory_seq_cp(lib.llama_get_memory(self._engine.context), source, sequence, 0, best)
        self._tokens[sequence] = self._tokens[source][:best]
        self._cells[sequence] = self._cells[source][:best]
        return best

    def drop(self, sequence: int) -> None:
        """Let a sequence hold nothing."""
        self._keep(sequence, 0)

    def decode(self, parts: Sequence[Part], cancel: threading.Event | None) -> int:
        """llama_decode's result for all parts at once; unless it is 0, every sequence is as it was before.

        The logits of a part with output are those of its last token's index in the batch.
        """
        if self._engine.context is None:
            raise RuntimeError("the model is closed")
        self._batch.fill([(part, self.used(part.sequence)) for part in parts])
        with abort_on(self._engine.context, cancel):
            result = int(library().llama_decode(self._engine.context, self._batch.struct))
        for part in parts:
            if result == 0:
                self._tokens[part.sequence].extend(part.tokens)
                self._cells[part.sequence].extend(next(self._new_cell) for _ in part.tokens)
            else:  # a batch is decoded in pieces: some may stand in the cache
                self._keep(part.sequence, self.used(part.sequence))
        return result

    def _keep(self, sequence: int, length: int) -> None:
        lib = library()
        lib.llama_memory_seq_rm(lib.llama_get_memory(self._engine.context), sequence, length, -1)
        del self._tokens[sequence][length:]
        del self._cells[sequence][length:]


def common_prefix(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences have in common at the beginning."""
    length = 0
    for one, other in zip(some, others, strict=False):
        if one != other:
            break
        length += 1
    return length


class _Batch:
    """A llama_batch over numpy arrays, filled without a Python loop over tokens."""

    def __init__(self, size: int) -> None:
        lib = library()
        self._tokens, self._positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._counts, self._sequences = np.ones(size, np.int32), np.zeros(size, np.int32)
        self._outputs = np.zeros(size, np.int8)
        first = self._sequences.ctypes.data
        self._pointers = first + np.arange(size, dtype=np.uintp) * np.uintp(self._sequences.itemsize)
        self.struct: Any = lib.llama_batch()
        for field, array in (
            ("token", self._tokens),
            ("pos", self._positions),
            ("n_seq_id", self._counts),
            ("seq_id", self._pointers),
            ("logits", self._outputs),
        ):
            kind = dict(lib.llama_batch._fields_)[field]
            setattr(self.struct, field, ctypes.cast(array.ctypes.data, kind))

    def fill(self, parts: Iterable[tuple[Part, int]]) -> None:
        """Parts, each with the position of its first token."""
        at = 0
        self._outputs[:] = 0
        for part, position in parts:
            end = at + len(part.tokens)
            self._tokens[at:end] = part.tokens
            self._positions[at:end] = np.arange(position, position + end - at)
            self._sequences[at:end] = part.sequence
            self._outputs[end - 1] = part.output
            at = end
        self.struct.n_tokens = at
