"""What a checkpoint computes, from its own weights, in plain numpy: the independent side of every comparison with a file.

Written for reading: Baichuan 1 and 2 (arXiv 2309.10305), Qwen2 (arXiv 2407.10671) and Qwen3's mixture of experts (arXiv
2505.09388), of which Baichuan-M2 and M3 are. The checkpoint is read once, whatever the number of texts: all of them pass each
block together, and each matrix a slab of rows at a time in each thread, so that memory grows with the texts and not with the
model; of a block's experts only those are read that some token goes through.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bq.convert.convert import Conversion, prepare
from bq.convert.model_config import BAICHUAN_M1, Experts
from bq.convert.verify.blas import one_thread_each
from bq.convert.verify.checkpoint_weights import CheckpointWeights
from bq.convert.verify.layers import Floats, alibi_slopes, rms_norm, rope, route, silu, softmax
from bq.runtime.cpu import usable_cores
from bq.runtime.errors import BqError
from bq.runtime.language import say

_FEED_TOKENS = 1024  # in the feed-forward part at a time: with 13,696 units two arrays of 56 MB
_LOGIT_ROWS = 256  # computed at a time: 129 MB for 125,696 pieces


def open_forward(folder: Path) -> "Forward":
    """The forward pass of a checkpoint's folder. Raises BqError for whatever cannot be converted or computed."""
    return Forward(prepare(folder, "F32"))


@dataclass(frozen=True)
class Forward:
    """The forward pass of a prepared checkpoint; `noise` as in CheckpointWeights."""

    conversion: Conversion
    threads: int = field(default_factory=usable_cores)
    noise: float = 0

    @property
    def vocabulary(self) -> int:
        """Columns of the logits."""
        return self.conversion.config.vocab

    def logits(
        self, texts: Sequence[Sequence[int]], first: int = 0, progress: Callable[[float], None] = lambda _: None
    ) -> Iterator[tuple[int, int, Floats]]:
        """(index of the text, position, rows [n, vocabulary]) for the positions from `first` on, in order.

        A row is what follows the token at its position. `progress` hears which part of the work is done. Raises BqError if
        the checkpoint computes what is no number, or what is not written here.
        """
        if self.conversion.config.architecture == BAICHUAN_M1:
            raise _not_written()
        chosen = {index: text for index, text in enumerate(texts) if len(text) > first}
        if not chosen:
            return
        places = [(index, position) for index, text in chosen.items() for position in range(first, len(text))]
        is_wanted = np.concatenate([np.arange(len(text)) >= first for text in chosen.values()])
        with one_thread_each():
            hidden = self._hidden([*chosen.values()], progress)[is_wanted]
        for start in range(0, len(places), _LOGIT_ROWS):
            with one_thread_each():
                rows = self._logits(hidden[start : start + _LOGIT_ROWS])
            progress(self._share_of_blocks + (1 - self._share_of_blocks) * min(1, (start + len(rows)) / len(places)))
            yield from _by_text(places[start : start + len(rows)], rows)

    @cached_property
    def _weights(self) -> CheckpointWeights:
        return CheckpointWeights(self.conversion.plan.tensors, self.threads, self.noise)

    @property
    def _head(self) -> str:
        """The matrix that makes logits: the embedding where there is no other."""
        return "output" if "output.weight" in self._weights else "token_embd"

    @property
    def _share_of_blocks(self) -> float:
        """The part of the work that is done when the logits begin."""
        return 1 - self._weights[f"{self._head}.weight"].weights / self.conversion.plan.weights

    def _hidden(self, texts: Sequence[Sequence[int]], progress: Callable[[float], None]) -> Floats:
        """What the last block leaves of each token: [tokens of all texts, hidden]."""
        x = self._weights.rows("token_embd.weight", [token for text in texts for token in text])
        blocks, lengths = self.conversion.config.blocks, [len(text) for text in texts]
        for number in range(blocks):
            x += self._attention(self._norm(x, f"blk.{number}.attn_norm"), number, lengths)
            x += self._feed_forward(self._norm(x, f"blk.{number}.ffn_norm"), number)
            progress(self._share_of_blocks * (number + 1) / blocks)
        return x

    def _norm(self, x: Floats, name: str) -> Floats:
        return rms_norm(x, self._weights.vector(f"{name}.weight"), self.conversion.config.norm_eps)

    def _attention(self, x: Floats, number: int, lengths: Sequence[int]) -> Floats:
        """Each token takes from those before it in its own text what the heads find there."""
        q, k, v = (self._weights.linear(x, f"blk.{number}.attn_{part}") for part in "qkv")
        if f"blk.{number}.attn_q_norm.weight" in self._weights:
            q, k = (self._norm_heads(one, f"blk.{number}.attn_{part}_norm") for one, part in ((q, "q"), (k, "k")))
        mixed = np.empty_like(q)
        start = 0
        for length in lengths:
            text = slice(start, start + length)
            mixed[text] = self._mixed(q[text], k[text], v[text])
            start += length
        return self._weights.linear(mixed, f"blk.{number}.attn_output")

    def _norm_heads(self, x: Floats, name: str) -> Floats:
        """RMSNorm of each head's columns, as Qwen3 has it; all heads have the same weight."""
        return self._norm(x.reshape(-1, self.conversion.config.head_width), name).reshape(x.shape)

    def _mixed(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """One text's values, each head's weighed by softmax(q·k / sqrt(width)), the past alone.

        q is [tokens, heads * width]; of k and v several heads next to each other may share one.
        """
        config = self.conversion.config
        width, tokens, sharing = config.head_width, np.arange(len(q)), config.heads // config.kv_heads
        slopes = alibi_slopes(config.heads)
        distance = (tokens[:, None] - tokens[None, :]).astype(np.float32)  # [query, key]
        mixed = np.empty_like(q)

        def attend(head: int) -> None:
            columns, shared = (slice(one * width, (one + 1) * width) for one in (head, head // sharing))
            query, key = q[:, columns], k[:, shared]
            if config.position == "rope":
                query, key = (rope(one, config.rope_base, config.scaling) for one in (query, key))
            scores = query @ key.T / np.float32(math.sqrt(width))
            if config.position == "alibi":
                scores -= np.float32(slopes[head]) * distance
            scores[distance < 0] = -np.inf
            mixed[:, columns] = softmax(scores) @ v[:, shared]

        self._weights.each(attend, range(config.heads))
        return mixed

    def _feed_forward(self, x: Floats, number: int) -> Floats:
        """SwiGLU, some tokens at a time."""
        y, experts = np.empty_like(x), self.conversion.config.experts
        for start in range(0, len(x), _FEED_TOKENS):
            tokens = slice(start, start + _FEED_TOKENS)
            if experts is not None:
                y[tokens] = self._experts(x[tokens], f"blk.{number}.ffn", experts)
                continue
            gate, up = (self._weights.linear(x[tokens], f"blk.{number}.ffn_{part}") for part in ("gate", "up"))
            y[tokens] = self._weights.linear(silu(gate) * up, f"blk.{number}.ffn_down")
        return y

    def _experts(self, x: Floats, name: str, experts: Experts) -> Floats:
        """Each token through the experts that the router chooses for it, their results weighed."""
        chosen, weights = route(self._weights.linear(x, f"{name}_gate_inp"), experts.used)
        y = np.zeros_like(x)
        for expert in np.unique(chosen):
            tokens, places = np.nonzero(chosen == expert)
            gate, up = (
                self._weights.linear_of_expert(x[tokens], f"{name}_{part}_exps", int(expert)) for part in ("gate", "up")
            )
            down = self._weights.linear_of_expert(silu(gate) * up, f"{name}_down_exps", int(expert))
            y[tokens] += weights[tokens, places, np.newaxis] * down
        return y

    def _logits(self, hidden: Floats) -> Floats:
        """Logits [tokens, vocabulary]; with NormHead each row of lm_head is divided by its L2 norm."""
        x = self._norm(hidden, "output_norm")
        multiply = self._weights.unit_linear if self.conversion.norm_head.fold else self._weights.linear
        logits = multiply(x, self._head)
        if not np.isfinite(logits).all():
            raise BqError(
                say("The checkpoint computes logits that are no numbers.", "检查点算出的 logits 含有非数值。"),
                say("It is damaged: download it again, or ask its author.", "它已损坏：请重新下载，或联系其作者。"),
            )
        return logits


def _not_written() -> BqError:
    return BqError(
        say(
            "bq does not compute Baichuan-M1 (a convolution over keys and values), and llama.cpp does not either.",
            "bq 不计算 Baichuan-M1（对键和值做卷积），llama.cpp 也不支持。",
        ),
        say("Run the release with vLLM (baichuan-inc's fork).", "请用 vLLM（baichuan-inc 的分支）运行原版。"),
    )


def _by_text(places: Sequence[tuple[int, int]], rows: Floats) -> Iterator[tuple[int, int, Floats]]:
    """The rows of each text apart: (index, position of its first row, rows)."""
    start = 0
    for at in range(1, len(places) + 1):
        if at == len(places) or places[at][0] != places[start][0]:
            yield *places[start], rows[start:at]
            start = at
