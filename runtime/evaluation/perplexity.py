"""Perplexity of a text, and beside a reference KL divergence, chunk by chunk as llama-perplexity measures them.

The text is cut into chunks of the context; the model reads each from an empty cache, without BOS, and the tokens of the
second half are scored, so that each has at least half a chunk before it. A chunk's rows are scored as they come and
then forgotten; only a few numbers for each token stay.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO, TypeVar
from zlib import crc32

import numpy as np

from bq.runtime.cpu import usable_cores
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.decoder import Decoder
from bq.runtime.evaluation.figures import Figures, bq_version
from bq.runtime.evaluation.logits_file import LogitsFile, Packed, first_scored, pack, rows_of, unpack, unpack_nll
from bq.runtime.evaluation.score import (
    F32,
    F64,
    Ids,
    Scores,
    agreement,
    divergence,
    mean,
    negative_log_likelihood,
    perplexity,
    perplexity_ratio,
    quantile,
    share,
)
from bq.runtime.language import say

LEAST_CHUNKS = 2  # of a text, as llama-perplexity wants it
_NAMES = ("nll", "base_nll", "divergence", "same_top")  # the fields of Scores
_GROUP_VALUES = 1 << 19  # logits that one thread works on at a time: some MiB, near the processor's cache

# Logits of chunks: (index of the chunk, rows [n, vocabulary]) for the positions from `first` on, in order, in any parts.
Rows = Callable[[Sequence[Ids], int], Iterator[tuple[int, F32]]]
T = TypeVar("T")


def cut(ids: Sequence[int], context: int, most: int | None = None) -> list[Ids]:
    """The chunks of a text, `most` at most; what is left at its end is not used. Raises UsageError for too short a text."""
    least = LEAST_CHUNKS * context
    if len(ids) < least:
        raise UsageError(
            say(
                f"The text has {len(ids):,} tokens; a context of {context} needs {least:,} or more.",
                f"文本有 {len(ids):,} 个词元；上下文 {context} 至少需要 {least:,} 个。",
            ),
            say("Give a longer text, or a smaller --ctx.", "请给出更长的文本，或更小的 --ctx。"),
        )
    count = len(ids) // context
    chunks = np.asarray(ids[: count * context], np.int32).reshape(count, context)
    return list(chunks[:most])


def decoder_rows(decoder: Decoder) -> Rows:
    """What a loaded model says; `decoder` has room for a chunk."""

    def rows(chunks: Sequence[Ids], first: int) -> Iterator[tuple[int, F32]]:
        for index, chunk in enumerate(chunks):
            for _, part in decoder.logits(chunk.tolist(), first):
                yield index, part

    return rows


def measure(rows: Rows, chunks: Sequence[Ids], base: LogitsFile | None = None, start: int = 0) -> Iterator[Scores]:
    """The scores of the chunks from `start` on, each when it is there; `base` has the same chunks."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        packed: Packed | None = None

        def score(logits: F32, at: int, tokens: Ids) -> Scores:
            return score_rows(logits, tokens, None if packed is None else packed[at : at + len(logits)])

        for index, parts in groupby(rows(chunks[start:], first_scored(len(chunks[0]))), itemgetter(0)):
            packed = base.rows(start + index) if base is not None else None
            found = [one for part in _targets(parts, chunks[start + index]) for one in _in_groups(pool, score, *part)]
            scores = concatenate(found)
            known = base.likelihoods.get(start + index) if base is not None else None
            yield scores if known is None else replace(scores, base_nll=known)


def score_rows(logits: F32, tokens: Ids, packed: Packed | None = None) -> Scores:
    """The scores of some rows, which are followed by these tokens; `packed` are the reference's rows.

    Raises BqError for logits that are no numbers.
    """
    _check(logits)
    nll = negative_log_likelihood(logits, tokens)
    if packed is None:
        return Scores(nll)
    base = unpack(packed, logits.shape[1])
    base_nll = unpack_nll(packed, tokens).astype(np.float64)
    return Scores(nll, base_nll, divergence(base, logits), agreement(base, logits))


def write_rows(rows: Rows, chunks: Sequence[Ids], out: BinaryIO, start: int = 0) -> Iterator[tuple[Scores, int]]:
    """Write the rows of the chunks from `start` on as a file of log probabilities has them.

    Gives each chunk's scores and the CRC-32 of its bytes, when it is written.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        for index, parts in groupby(rows(chunks[start:], first_scored(len(chunks[0]))), itemgetter(0)):
            checksum, found = 0, []
            for part in _targets(parts, chunks[start + index]):
                for packed, nll in _in_groups(pool, _packed, *part):
                    checksum = crc32(packed.data, checksum)
                    out.write(packed.data)
                    found.append(Scores(nll))
            yield concatenate(found), checksum


def _packed(logits: F32, at: int, tokens: Ids) -> tuple[Packed, F64]:
    _check(logits)
    return pack(logits), negative_log_likelihood(logits, tokens)


def _targets(parts: Iterator[tuple[int, F32]], chunk: Ids) -> Iterator[tuple[F32, int, Ids]]:
    """The rows of one chunk, which of its scored rows the first is, and the tokens that follow them.

    What follows the last token of the chunk is not known.
    """
    first, at, wanted = first_scored(len(chunk)), 0, rows_of(len(chunk))
    for _, logits in parts:
        kept = logits[: wanted - at]
        if len(kept):
            yield kept, at, chunk[first + at + 1 : first + at + 1 + len(kept)]
        at += len(kept)
    if at != wanted:
        raise AssertionError(f"a chunk of {len(chunk)} tokens has {at} rows")


def _in_groups(pool: Executor, work: Callable[[F32, int, Ids], T], logits: F32, at: int, tokens: Ids) -> Iterator[T]:
    """`work` on some rows at a time, on all cores; the results are in order."""
    step = max(1, _GROUP_VALUES // logits.shape[1])
    starts = range(0, len(logits), step)
    return pool.map(lambda i: work(logits[i : i + step], at + i, tokens[i : i + step]), starts)


def _check(logits: F32) -> None:
    if not np.isfinite(logits).all():
        raise BqError(
            say("The model's logits are no numbers.", "模型的 logits 含有非数值。"),
            say("The file is damaged: convert it again.", "文件已损坏：请重新转换。"),
        )


def concatenate(parts: Sequence[Scores]) -> Scores:
    """The scores of several chunks as one."""

    def joined(name: str) -> Any:
        found = [getattr(one, name) for one in parts]
        return None if found[0] is None else np.concatenate(found)

    return Scores(*(joined(name) for name in _NAMES))


def figures_of(scores: Scores, context: int, text: str, text_sha256: str, against: str = "") -> Figures:
    """The statistics of all scores of a run."""
    found = perplexity(scores.nll)
    figures: dict[str, Any] = {
        "perplexity": found.value,
        "perplexity_error": found.error,
        "tokens": len(scores),
        "context": context,
        "text": text,
        "text_sha256": text_sha256,
        "measured": date.today().isoformat(),
        "version": bq_version(),
    }
    if scores.divergence is None or scores.base_nll is None or scores.same_top is None:
        return Figures(**figures)
    kl, same = mean(scores.divergence), share(scores.same_top)
    ratio = perplexity_ratio(scores.nll, scores.base_nll)
    return Figures(
        **figures,
        against=against,
        kl_mean=kl.value,
        kl_mean_error=kl.error,
        kl_median=quantile(scores.divergence, 0.5),
        kl_p99=quantile(scores.divergence, 0.99),
        kl_max=float(scores.divergence.max()),
        top1=same.value,
        top1_error=same.error,
        perplexity_change=ratio.value,
        perplexity_change_error=ratio.error,
    )


def to_record(scores: Scores) -> dict[str, Any]:
    """The scores of a chunk as plain data for a journal; floats keep every bit."""
    found = {name: getattr(scores, name) for name in _NAMES}
    return {name: values.tolist() for name, values in found.items() if values is not None}


def from_record(record: dict[str, Any], context: int, has_base: bool) -> Scores | None:
    """The scores of a journal's record, None if it makes no sense for such a chunk."""
    count = rows_of(context)
    found = {name: _floats(record.get(name), count) for name in (_NAMES if has_base else _NAMES[:1])}
    if any(values is None for values in found.values()):
        return None
    if has_base:
        found["same_top"] = found["same_top"].astype(bool)
    return Scores(**found)


def _floats(values: object, count: int) -> Any:
    if not isinstance(values, list) or len(values) != count:
        return None
    sound = all(isinstance(one, int | float) and math.isfinite(one) for one in values)
    return np.array(values, np.float64) if sound else None
