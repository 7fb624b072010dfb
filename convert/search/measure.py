"""Measures how much each group of matrices hurts in each format: the KL divergence of the model's output when that group alone is
quantized and everything else is not.

The model stays in memory; a group's weights are rounded to a format and put back, which takes less time than the texts that are
decoded to see what it did.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.convert import kernel_calls
from bq.convert.importance import Importance, column_weights
from bq.convert.kernel_calls import HAVE_KERNELS, Kernel
from bq.convert.search.groups import Group
from bq.runtime import ggml
from bq.runtime.evaluation.editable import Editable, open_editable
from bq.runtime.evaluation.logits_file import LogitsFile, first_scored
from bq.runtime.evaluation.perplexity import concatenate, decoder_rows
from bq.runtime.evaluation.perplexity import measure as score_chunks
from bq.runtime.evaluation.reference import Asked, Reference, temporary_base
from bq.runtime.evaluation.score import Ids
from bq.runtime.ggml import GgmlType, row_bytes
from bq.runtime.gguf_file import GgufFile
from bq.runtime.tensor_parts import rows_of
from bq.runtime.values import LoadOptions

F32Array = npt.NDArray[np.float32]
ReadRows = Callable[[str, int, int], F32Array]  # tensor, first row, row after the last -> [n, columns]
_SLAB_WEIGHTS = 1 << 20
_WORTH_KERNELS = 100_000_000  # weights: below, compiling the kernels takes longer than ggml


@dataclass(frozen=True)
class Source:
    """A model to search on: a file of whose tensors only names and shapes count, and where its exact rows come from."""

    file: GgufFile
    rows: ReadRows
    importance: Importance | None = None


@dataclass(frozen=True)
class Sample:
    """Chunks of token ids, each of `context` of them; those from the middle of each on are compared, as `bq eval` does."""

    chunks: tuple[tuple[int, ...], ...]
    context: int

    @property
    def arrays(self) -> list[Ids]:
        """The chunks as they are scored."""
        return [np.array(chunk, np.int32) for chunk in self.chunks]


@dataclass(frozen=True)
class Measurement:
    """The divergence of one group in one format, in nats per token."""

    group: str
    kind: GgmlType
    divergence: float


def rows_of_file(file: GgufFile) -> ReadRows:
    """The rows of a file's own tensors, dequantized."""

    def rows(name: str, first: int, after: int) -> F32Array:
        entry = file.tensors[name]
        size = row_bytes(entry.kind, entry.shape[-1])
        packed = file.bytes[entry.start + first * size : entry.start + after * size].reshape(-1, size)
        return ggml.dequantize(entry.kind, packed, entry.shape[-1])

    return rows


def measure(
    source: Source,
    wanted: Sequence[tuple[Group, GgmlType]],
    sample: Sample,
    options: LoadOptions,
    threads: int,
    scratch: Path,
) -> Iterator[Measurement]:
    """One measurement for each group and format that is wanted, those of a group together.

    The log probabilities of the unchanged model lie in a file without a name in `scratch` meanwhile. Raises BqError where the
    memory does not hold the model, or the disk those.
    """
    rounding, first = _Rounding.of(source, wanted), first_scored(sample.context)
    with open_editable(source.file, sample.context, first, options) as model, _workers(threads) as pool:
        for name in source.file.tensors:
            _fill(model, source, name, pool)
        with temporary_base(_as_it_is(model, sample), 0, scratch) as base:
            # What the rounding of the kept rows adds to every measurement: some 1e-6 nats, as much as a fine format.
            nothing = _divergence(model, sample, base)
            for group in dict.fromkeys(group for group, _ in wanted):
                for kind in (kind for one, kind in wanted if one == group):
                    for name in group.tensors:
                        _fill(model, source, name, pool, rounding, kind)
                    yield Measurement(group.name, kind, max(0.0, _divergence(model, sample, base) - nothing))
                for name in group.tensors:
                    _fill(model, source, name, pool)


@contextmanager
def _workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(threads, thread_name_prefix="round") as pool:
        yield pool


@dataclass(frozen=True)
class _Rounding:
    """Rounds rows to a format and back, by the kernels where that pays."""

    kernels: Mapping[GgmlType, Kernel] = field(default_factory=dict)
    importance: Importance | None = None

    @classmethod
    def of(cls, source: Source, wanted: Sequence[tuple[Group, GgmlType]]) -> "_Rounding":
        kinds = {kind for _, kind in wanted}
        for kind in kinds:
            ggml.prepare(kind)
        weights = sum(group.weights for group in {group for group, _ in wanted})
        if weights < _WORTH_KERNELS or not kernel_calls.is_installed():
            return cls({}, source.importance)
        loaded = kernel_calls.load_kernels(sorted(HAVE_KERNELS & kinds), with_importance=source.importance is not None)
        return cls(loaded.kernels, source.importance)

    def of_columns(self, name: str, shape: tuple[int, ...], kind: GgmlType) -> list[F32Array | None]:
        """What the columns' errors weigh, for each of a tensor's experts, or for the one matrix that it is."""
        experts = prod(shape[:-2])
        found = column_weights(self.importance, name, (*shape[:-2], shape[-1]), kind)
        return [None] * experts if found is None else list(found.reshape(experts, shape[-1]))

    def __call__(self, kind: GgmlType, rows: F32Array, importance: F32Array | None) -> F32Array:
        """Rows of one matrix."""
        kernel = self.kernels.get(kind)
        packed = None
        if kernel is not None:
            packed = kernel_calls.quantize(kernel, kind, kernel_calls.rows_in_memory(rows), importance, lambda: rows)
        if packed is None:
            packed = ggml.quantize(kind, rows, importance)
        return ggml.dequantize(kind, packed, rows.shape[1])


def _fill(
    model: Editable,
    source: Source,
    name: str,
    pool: ThreadPoolExecutor,
    rounding: _Rounding | None = None,
    kind: GgmlType | None = None,
) -> None:
    """Put a tensor's rows into the model, exact or rounded to a format."""
    entry = source.file.tensors[name]
    height = entry.shape[-2] if len(entry.shape) > 1 else 1  # of a matrix, or of each expert's
    step = max(1, _SLAB_WEIGHTS // entry.shape[-1])
    weighed = rounding.of_columns(name, entry.shape, kind) if rounding is not None and kind is not None else []

    def put(slab: tuple[int, int]) -> None:
        expert, first = slab
        start, after = expert * height + first, expert * height + min(first + step, height)
        rows = np.ascontiguousarray(source.rows(name, start, after))
        if rounding is not None and kind is not None:
            rows = rounding(kind, rows, weighed[expert])
        model.set_rows(name, start, rows)

    experts = rows_of(entry) // height
    for _ in pool.map(put, product(range(experts), range(0, height, step))):
        pass  # its error, if it had one, is raised here


def _divergence(model: Editable, sample: Sample, base: LogitsFile) -> float:
    """The mean over all positions that count of what the model says now."""
    scores = concatenate(list(score_chunks(decoder_rows(model.decoder), sample.arrays, base)))
    if scores.divergence is None:
        raise AssertionError("measured without the reference")
    return float(scores.divergence.mean())


def _as_it_is(model: Editable, sample: Sample) -> Asked:
    """What the model says now, to be kept as the reference."""
    reference = Reference("", {}, model.decoder.vocabulary, lambda: nullcontext(decoder_rows(model.decoder)))
    return Asked(reference, sample.arrays, lambda done, scores: None)
