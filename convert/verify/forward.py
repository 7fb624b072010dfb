"""What a checkpoint computes, from its own weights, in plain numpy: the independent side of every comparison with a file.

Written for reading, and from the papers: RMSNorm (Zhang and Sennrich 2019), RoPE (Su 2021) with the halves of a head rotated
against each other, ALiBi (Press 2022), SwiGLU (Shazeer 2020), NormHead (Baichuan 2, arXiv 2309.10305). The checkpoint is
read once, whatever the number of texts: all of them pass each block together, and each matrix a slab of rows at a time
in each thread, so that memory grows with the texts and not with the model.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bq.convert.convert import Conversion, prepare
from bq.convert.plan import PlannedTensor
from bq.convert.source import Array, aligned
from bq.convert.verify.blas import one_thread_each
from bq.runtime import ggml
from bq.runtime.cpu import usable_cores
from bq.runtime.errors import BqError
from bq.runtime.language import say

Floats = npt.NDArray[np.float32]
Part = TypeVar("Part")
_SLAB_WEIGHTS = 1 << 20  # widened at a time by a thread, 4 MiB
_FEED_TOKENS = 1024  # in the feed-forward part at a time: with 13,696 units two arrays of 56 MB
_LOGIT_ROWS = 256  # computed at a time: 129 MB for 125,696 pieces
_TINY = np.float32(1e-12)  # torch.nn.functional.normalize's eps


def open_forward(folder: Path) -> "Forward":
    """The forward pass of a checkpoint's folder. Raises BqError for whatever cannot be converted."""
    return Forward(prepare(folder, "F32"))


@dataclass(frozen=True)
class Forward:
    """The forward pass of a prepared checkpoint."""

    conversion: Conversion
    threads: int = field(default_factory=usable_cores)

    @property
    def vocabulary(self) -> int:
        """Columns of the logits."""
        return self.conversion.config.vocab

    def logits(
        self, texts: Sequence[Sequence[int]], first: int = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Iterator[tuple[int, int, Floats]]:
        """(index of the text, position, rows [n, vocabulary]) for the positions from `first` on, in order.

        A row is what follows the token at its position. `progress` hears which part of the work is done. Raises BqError if
        the checkpoint computes what is no number.
        """
        chosen = {index: text for index, text in enumerate(texts) if len(text) > first}
        if not chosen:
            return
        places = [(index, position) for index, text in chosen.items() for position in range(first, len(text))]
        is_wanted = np.concatenate([np.arange(len(text)) >= first for text in chosen.values()])
        with one_thread_each():
            hidden = self._hidden([*chosen.values()], progress)[is_wanted]
        for start in range(0, len(places), _LOGIT_ROWS):
            with one_thread_each():
                rows = self._head(hidden[start : start + _LOGIT_ROWS])
            progress(self._share_of_blocks + (1 - self._share_of_blocks) * min(1, (start + len(rows)) / len(places)))
            yield from _by_text(places[start : start + len(rows)], rows)

    @cached_property
    def _tensors(self) -> dict[str, PlannedTensor]:
        return {tensor.name: tensor for tensor in self.conversion.plan.tensors}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="forward")

    @property
    def _share_of_blocks(self) -> float:
        """The part of the work that is done when the logits begin."""
        return 1 - self._tensors["output.weight"].weights / self.conversion.plan.weights

    def _hidden(self, texts: Sequence[Sequence[int]], progress: Callable[[float], None]) -> Floats:
        """What the last block leaves of each token: [tokens of all texts, hidden]."""
        x = _widened(self._tensors["token_embd.weight"].source.view()[np.concatenate(texts).astype(np.intp)])
        blocks, lengths = self.conversion.config.blocks, [len(text) for text in texts]
        for number in range(blocks):
            x += self._attention(self._norm(x, f"blk.{number}.attn_norm"), number, lengths)
            x += self._feed_forward(self._norm(x, f"blk.{number}.ffn_norm"), number)
            progress(self._share_of_blocks * (number + 1) / blocks)
        return x

    def _norm(self, x: Floats, name: str) -> Floats:
        """RMSNorm: each token over the root of its mean square, times a weight for each column."""
        weight = _widened(self._tensors[f"{name}.weight"].source.view())
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt(mean_square + np.float32(self.conversion.config.norm_eps)) * weight)

    def _attention(self, x: Floats, number: int, lengths: Sequence[int]) -> Floats:
        """Each token takes from those before it in its own text what the heads find there."""
        q, k, v = (self._linear(x, f"blk.{number}.attn_{part}") for part in "qkv")
        mixed = np.empty_like(x)
        start = 0
        for length in lengths:
            text = slice(start, start + length)
            mixed[text] = self._mixed(q[text], k[text], v[text])
            start += length
        return self._linear(mixed, f"blk.{number}.attn_output")

    def _mixed(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """One text's values [tokens, hidden], each head's weighed by softmax(q·k / sqrt(width)), the past alone."""
        config = self.conversion.config
        width, tokens = config.head_width, np.arange(len(q))
        slopes = alibi_slopes(config.heads)
        distance = (tokens[:, None] - tokens[None, :]).astype(np.float32)  # [query, key]
        mixed = np.empty_like(v)

        def attend(head: int) -> None:
            columns = slice(head * width, (head + 1) * width)
            query, key = q[:, columns], k[:, columns]
            if config.position == "rope":
                query, key = rope(query, config.rope_base), rope(key, config.rope_base)
            scores = query @ key.T / np.float32(math.sqrt(width))
            if config.position == "alibi":
                scores -= np.float32(slopes[head]) * distance
            scores[distance < 0] = -np.inf
            mixed[:, columns] = softmax(scores) @ v[:, columns]

        self._all(attend, range(config.heads))
        return mixed

    def _feed_forward(self, x: Floats, number: int) -> Floats:
        """SwiGLU: down(silu(gate(x)) * up(x)), some tokens at a time."""
        y = np.empty_like(x)
        for start in range(0, len(x), _FEED_TOKENS):
            tokens = slice(start, start + _FEED_TOKENS)
            gate, up = (self._linear(x[tokens], f"blk.{number}.ffn_{part}") for part in ("gate", "up"))
            y[tokens] = self._linear(silu(gate) * up, f"blk.{number}.ffn_down")
        return y

    def _linear(self, x: Floats, name: str) -> Floats:
        """x [tokens, columns] times a matrix [rows, columns], without bias."""
        tensor = self._tensors[f"{name}.weight"]
        y = np.empty((len(x), tensor.rows), np.float32)

        def multiply(rows: slice) -> None:
            y[:, rows] = x @ _rows(tensor, rows).T

        self._all(multiply, _slabs(tensor))
        return y

    def _all(self, work: Callable[[Part], None], parts: Iterable[Part]) -> None:
        """Do each part of a work, in threads."""
        for _ in self._pool.map(work, parts):
            pass

    def _head(self, hidden: Floats) -> Floats:
        """Logits [tokens, vocabulary]; with NormHead each row of lm_head is divided by its L2 norm."""
        x, tensor = self._norm(hidden, "output_norm"), self._tensors["output.weight"]
        logits = np.empty((len(x), tensor.rows), np.float32)

        def multiply(rows: slice) -> None:
            weight = _rows(tensor, rows)
            if self.conversion.norm_head.fold:
                weight /= np.maximum(np.linalg.norm(weight, axis=1, keepdims=True), _TINY)
            logits[:, rows] = x @ weight.T

        self._all(multiply, _slabs(tensor))
        if not np.isfinite(logits).all():
            raise BqError(
                say("The checkpoint computes logits that are no numbers.", "检查点算出的 logits 含有非数值。"),
                say("It is damaged: download it again, or ask its author.", "它已损坏：请重新下载，或联系其作者。"),
            )
        return logits


def _slabs(tensor: PlannedTensor) -> Iterator[slice]:
    """A matrix in runs of rows, which are read ahead from the disk."""
    step = max(1, _SLAB_WEIGHTS // tensor.columns)
    for start in range(0, tensor.rows, step):
        rows = slice(start, min(start + step, tensor.rows))
        tensor.source.will_need(tensor.first_row + start, rows.stop - start)
        yield rows


def _rows(tensor: PlannedTensor, rows: slice) -> Floats:
    """Rows as the checkpoint has them: its own order, not that of a GGUF file."""
    return _widened(tensor.source.view()[tensor.first_row + rows.start : tensor.first_row + rows.stop])


def _widened(part: Array) -> Floats:
    wide = np.empty(part.shape, np.float32)
    ggml.widen(aligned(part), wide)
    return wide


def _by_text(places: Sequence[tuple[int, int]], rows: Floats) -> Iterator[tuple[int, int, Floats]]:
    """The rows of each text apart: (index, position of its first row, rows)."""
    start = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at][0] != places[start][0]:
            yield *places[start], rows[start:at]
            start = at


def rope(x: Floats, base: float) -> Floats:
    """Turn the pair (i, i + width/2) of position p by the angle p * base^(-2i/width); x is [tokens, width]."""
    half = x.shape[1] // 2
    angle = np.outer(np.arange(len(x)), base ** (-np.arange(half) / half))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    first, second = x[:, :half], x[:, half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=1)


def alibi_slopes(heads: int) -> list[float]:
    """How much each head minds distance: for 2^n heads 2^(-8i/2^n), i = 1 … 2^n.

    For another count those of the power of two below it, then every second one of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    whole = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)]
    return whole + between


def softmax(scores: Floats) -> Floats:
    """Shares that add up to 1 along the last axis."""
    shares: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def silu(x: Floats) -> Floats:
    """x * sigmoid(x); exp may overflow to infinity for a very negative x, which gives the right 0."""
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))
