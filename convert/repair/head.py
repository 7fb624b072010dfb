"""NormHead in a file that is already quantized: whether output.weight has it, and how it is put there.

Dividing a row by its norm is the same as dividing the scales of its blocks: nothing is quantized a second time, and the
result is, but for the rounding of float16 scales, what a straight conversion quantizes to. Only for another type are rows
widened and quantized anew.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from bq.convert.repair.gguf_rewrite import changed_meanwhile
from bq.convert.rows import normalise_rows
from bq.convert.verify.limits import NORM_STRAY, TELLING_NOISE, norm_noise
from bq.convert.verify.value_checks import scan
from bq.convert.write import CHUNK_WEIGHTS
from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.language import say

OUTPUT = "output.weight"
# Where a block has its float16 scales (block_q4_0 and its like in ggml-common.h); a minimum is scaled as they are.
SCALED: Mapping[GgmlType, tuple[int, ...]] = {
    GgmlType.Q4_0: (0,),
    GgmlType.Q4_1: (0, 2),
    GgmlType.Q5_0: (0,),
    GgmlType.Q5_1: (0, 2),
    GgmlType.Q8_0: (0,),
    GgmlType.Q2_K: (80, 82),
    GgmlType.Q3_K: (108,),
    GgmlType.Q4_K: (0, 2),
    GgmlType.Q5_K: (0, 2),
    GgmlType.Q6_K: (208,),
    GgmlType.IQ3_S: (0,),
    GgmlType.IQ4_NL: (0,),
    GgmlType.IQ4_XS: (0,),
}
_TINY = 1e-12  # torch.nn.functional.normalize's eps
_AHEAD = 2  # chunks per thread that may wait for the writer
_U8Array = npt.NDArray[np.uint8]

# "absent": a vocabulary alone; "sound": as its generation needs it; "fold": raw where NormHead belongs; "lost": normalised
# where it does not; "damaged": no numbers; "unknown": the type is too coarse to tell.
Verdict = Literal["absent", "sound", "fold", "lost", "damaged", "unknown"]


@dataclass(frozen=True)
class Head:
    """What output.weight is: the verdict, between which norms nine in ten of its rows lie, and how many stray from 1."""

    verdict: Verdict
    low: float = 0.0
    high: float = 0.0
    strays: int = 0

    @property
    def norms(self) -> str:
        """As one reads them."""
        return f"{self.low:.3f} … {self.high:.3f}"


def judge_head(file: GgufFile, generation: int, threads: int) -> Head:
    """By the norms of all rows but those of zeros, which padding has. A Baichuan 2 may say that it has no NormHead."""
    entry = file.tensors.get(OUTPUT)
    if entry is None:
        return Head("absent")
    values = scan(replace(file, tensors={OUTPUT: entry}), threads, lambda _: None)
    if values.bad:
        return Head("damaged")
    norms, noise = values.head_norms[values.head_norms > 0], norm_noise(entry.kind)
    if not len(norms):
        return Head("sound")
    low, high = (float(one) for one in np.quantile(norms, (0.05, 0.95)))
    if noise is None:
        return Head("unknown", low, high)
    strays = int((np.abs(norms - 1) > max(NORM_STRAY, noise)).sum())
    is_normalised = 1 - noise < low <= high < 1 + noise
    if generation == 1:
        if is_normalised and noise > TELLING_NOISE:
            return Head("unknown", low, high)
        return Head("lost" if is_normalised else "sound", low, high)
    is_right = (is_normalised and not strays) or file.text("bq.norm_head") == "none"
    return Head("sound" if is_right else "fold", low, high, strays)


def folded_rows(file: GgufFile, target: GgmlType, threads: int) -> Iterator[memoryview]:
    """The bytes of output.weight with rows of norm 1, in the type `target`, chunk by chunk.

    Raises BqError for values that are no numbers.
    """
    entry = file.tensors[OUTPUT]
    ggml.prepare(target)
    step = max(1, CHUNK_WEIGHTS // entry.shape[1])
    row_bytes = entry.size_bytes // entry.shape[0]
    pending: deque[Future[_U8Array]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fold")
    try:
        with file.path.open("rb") as source:
            source.seek(entry.start)
            for start in range(0, entry.shape[0], step):
                if len(pending) > threads * _AHEAD:
                    yield pending.popleft().result().data
                rows = min(step, entry.shape[0] - start)
                data = source.read(rows * row_bytes)
                if len(data) < rows * row_bytes:
                    raise changed_meanwhile(file.path)
                packed = np.frombuffer(data, np.uint8).reshape(rows, -1)
                pending.append(pool.submit(fold_rows, entry, packed, target, start))
        while pending:
            yield pending.popleft().result().data
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def fold_rows(entry: TensorEntry, packed: _U8Array, target: GgmlType, first: int = 0) -> _U8Array:
    """Packed rows [n, row_bytes] -> those divided by their norms, packed as `target`; `first` numbers them in messages."""
    wide = ggml.dequantize(entry.kind, packed, entry.shape[1])
    _check_finite(wide, first)
    if target == entry.kind and target in SCALED:
        norms = np.maximum(np.linalg.norm(wide.astype(np.float64), axis=1), _TINY)
        return _rescaled(target, packed, norms)
    normalise_rows(wide)
    return ggml.quantize(target, wide)


def _rescaled(kind: GgmlType, packed: _U8Array, norms: npt.NDArray[np.float64]) -> _U8Array:
    """The same quants with every scale divided by the norm of its row."""
    blocks = packed.reshape(len(packed), -1, ggml.block_size(kind)[1]).copy()
    for at in SCALED[kind]:
        scales = blocks[:, :, at : at + 2].copy().view("<f2")[:, :, 0]  # [rows, blocks]
        divided = (scales / norms[:, np.newaxis]).astype("<f2")
        blocks[:, :, at : at + 2] = divided[:, :, np.newaxis].view(np.uint8)
    rescaled: _U8Array = blocks.reshape(packed.shape)
    return rescaled


def _check_finite(rows: npt.NDArray[np.float32], first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise BqError(
            say(
                f"Row {first + bad[0]} of output.weight holds what is no number.",
                f"output.weight 第 {first + bad[0]} 行含有非数值。",
            ),
            say("Convert the release again with `bq convert`.", "请用 `bq convert` 重新转换原版发布。"),
        )
