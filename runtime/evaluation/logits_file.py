"""A reference's log probabilities on disk, in the file that llama-perplexity makes and reads by --kl-divergence-base.

    8 bytes   "_logits_"
    12 bytes  context C, pieces of the vocabulary V, chunks N: three 32-bit numbers
    4 C N     the token ids of all chunks, 32 bits each
    N chunks  each of C - 1 - C/2 rows, those of the positions from C/2 on but the last

A row is two float32 numbers, a scale and a minimum, then V 16-bit numbers q, and one more of padding if V is odd:
ln p = scale * q + minimum. All is little-endian.

What the rounding costs: ln p is off by up to half a scale, at most 1.2e-4, and the mean divergence of thousands of tokens
by some 1e-6. What lies more than 16 below the greatest logit is all minimum, which no divergence counts; the perplexity
of the reference comes out too low where it finds many tokens of the text that unlikely.
"""

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError
from bq.runtime.evaluation.score import F32, F64, Ids, log_sum_exp
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

MAGIC = b"_logits_"
SUFFIX = ".logits"
Packed = npt.NDArray[np.uint16]  # rows as the file has them

_COUNTS = struct.Struct("<III")
_HEADER_BYTES = len(MAGIC) + _COUNTS.size
_HEAD = 4  # 16-bit numbers that a row's two floats take
_REACH = np.float32(16)  # from the greatest logit down
_STEPS = np.float32(65535)
_LEAST_SCALE = np.float32(np.finfo(np.float32).tiny)  # below it 1 / scale overflows
_MOST_CONTEXT, _MOST_PIECES = 1 << 24, 1 << 24
_LOUDEST = 0.01  # a log probability is 0 at most, but for the rounding


def first_scored(context: int) -> int:
    """The position of a chunk from which on the next token is scored: each has half a chunk before it."""
    return context // 2


def rows_of(context: int) -> int:
    """Scored positions of a chunk; what follows its last token is not known."""
    return context - 1 - first_scored(context)


def row_bytes(vocabulary: int) -> int:
    """Bytes of a row."""
    return 2 * (_HEAD + vocabulary + vocabulary % 2)


def chunk_bytes(context: int, vocabulary: int) -> int:
    """Bytes that the rows of a chunk take."""
    return rows_of(context) * row_bytes(vocabulary)


def header(chunks: Sequence[Ids], vocabulary: int) -> bytes:
    """All that stands before the rows."""
    counts = _COUNTS.pack(len(chunks[0]), vocabulary, len(chunks))
    return MAGIC + counts + b"".join(np.asarray(chunk, "<i4").tobytes() for chunk in chunks)


def pack(logits: F32) -> Packed:
    """Rows of logits as the file keeps them."""
    top = logits.max(axis=1)
    bottom = np.maximum(logits.min(axis=1), top - _REACH)
    log_total = (log_sum_exp(logits) - top).astype(np.float32)
    scale = (top - bottom) / _STEPS
    inverse = np.divide(np.float32(1), scale, where=scale >= _LEAST_SCALE, out=np.zeros_like(scale))
    packed = np.zeros((len(logits), row_bytes(logits.shape[1]) // 2), "<u2")
    packed[:, :_HEAD] = np.stack((scale, bottom - top - log_total), axis=1).astype("<f4").view("<u2")
    steps = np.rint(inverse[:, None] * np.maximum(logits - bottom[:, None], 0))
    packed[:, _HEAD : _HEAD + logits.shape[1]] = np.minimum(steps, _STEPS)
    return packed


def unpack(packed: Packed, vocabulary: int) -> F32:
    """The log probabilities [n, vocabulary] of rows of the file."""
    scale, least = _floats(packed)
    return np.asarray(scale * packed[:, _HEAD : _HEAD + vocabulary].astype(np.float32) + least)


def unpack_nll(packed: Packed, tokens: Ids) -> F32:
    """-ln of the probability that each row gives its token."""
    scale, least = _floats(packed)
    chosen = packed[np.arange(len(tokens)), tokens + _HEAD].astype(np.float32)
    return np.asarray(-(scale[:, 0] * chosen + least[:, 0]))


def _floats(packed: Packed) -> tuple[F32, F32]:
    """Scale and minimum of each row, [n, 1] both."""
    found = np.ascontiguousarray(packed[:, :_HEAD]).view("<f4")
    return found[:, :1], found[:, 1:]


class LogitsFile(AbstractContextManager["LogitsFile"]):
    """An open file of which chunks are read one by one; the first `skipped` chunks may be left out of it.

    `likelihoods` has what the rows cannot: of whoever made them, -ln p of the tokens before it was rounded and cut.
    """

    def __init__(
        self, file: BinaryIO, path: Path, tokens: Ids, vocabulary: int, rows_start: int, skipped: int = 0
    ) -> None:
        self.likelihoods: dict[int, F64] = {}
        self.path, self.name = path, path.name
        self.tokens = tokens  # [chunks, context]
        self.vocabulary = vocabulary
        self._file, self._start, self._skipped = file, rows_start, skipped

    @property
    def context(self) -> int:
        return int(self.tokens.shape[1])

    def rows(self, chunk: int) -> Packed:
        """The rows of a chunk. Raises BqError for what no log probabilities can be."""
        size = chunk_bytes(self.context, self.vocabulary)
        self._file.seek(self._start + (chunk - self._skipped) * size)
        data = self._file.read(size)
        if len(data) < size:
            raise _damaged(self.name, say(f"it ends in chunk {chunk + 1}", f"在第 {chunk + 1} 块中断"))
        packed: Packed = np.frombuffer(data, "<u2").reshape(rows_of(self.context), -1)
        scale, least = _floats(packed)
        with np.errstate(over="ignore", invalid="ignore"):
            loudest = scale * _STEPS + least
        if not (np.isfinite(loudest).all() and (scale >= 0).all() and (loudest <= _LOUDEST).all()):
            raise _damaged(
                self.name, say(f"chunk {chunk + 1} holds no log probabilities", f"第 {chunk + 1} 块不是对数概率")
            )
        return packed

    def close(self) -> None:
        """Nothing is read any more."""
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def is_logits_file(path: Path) -> bool:
    """Whether a file begins like one of these."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_logits(path: Path) -> LogitsFile:
    """Open a file and check its claims. Raises BqError for one that is not whole."""
    try:
        file = path.open("rb")
        try:
            size = path.stat().st_size
            tokens, vocabulary = _read_header(file, path.name, size)
            return LogitsFile(file, path, tokens, vocabulary, _HEADER_BYTES + tokens.nbytes)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise unreadable(path, error) from None


def _read_header(file: BinaryIO, name: str, size: int) -> tuple[Ids, int]:
    """The tokens [chunks, context] and the size of the vocabulary."""
    head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or not head.startswith(MAGIC):
        raise _damaged(name, say("it has no header", "没有文件头"))
    context, vocabulary, chunks = _COUNTS.unpack(head[len(MAGIC) :])
    if not (rows_of(context) > 0 < chunks and context <= _MOST_CONTEXT and 0 < vocabulary <= _MOST_PIECES):
        raise _damaged(
            name,
            say(
                f"it claims {chunks} chunks of {context} tokens, {vocabulary} pieces",
                f"声称有 {chunks} 块、每块 {context} 个词元、词表 {vocabulary}",
            ),
        )
    expected = _HEADER_BYTES + chunks * (4 * context + chunk_bytes(context, vocabulary))
    if size != expected:
        raise _damaged(
            name, say(f"it has {size:,} of {expected:,} bytes", f"应有 {expected:,} 字节，实有 {size:,} 字节")
        )
    tokens = np.frombuffer(file.read(4 * context * chunks), "<i4").reshape(chunks, context).astype(np.int32)
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise _damaged(name, say("its tokens are none of its vocabulary", "其词元超出词表"))
    return tokens, vocabulary


def _damaged(name: str, why: str) -> BqError:
    return BqError(
        say(f"{name} is no whole file of log probabilities: {why}.", f"{name} 不是完整的对数概率文件：{why}。"),
        say("Make it again, with --save-logits.", "请用 --save-logits 重新生成。"),
    )
