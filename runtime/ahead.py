"""Several tokens in one decode: the sampled one and the guesses of a draft, checked one by one by the same sampler.

The answer is what it would be without: a guess counts only if the sampler draws it, and only widths are used whose logits
are those of single steps (bq.runtime.draft says why that needs a trial). This module makes the trials.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bq.runtime.draft import Draft
from bq.runtime.engine import MOST_OUTPUTS, Engine
from bq.runtime.sampling import F32, Logits


class Counts(Protocol):
    """What is counted on the way (Stats of bq.runtime.generation)."""

    drafted: int
    accepted: int
    context_used: int
    decode_seconds: float


@dataclass(frozen=True)
class _Trial:
    """Tokens that were decoded at once from `position` on, and their logits [n, vocab]."""

    position: int
    tokens: list[int]
    rows: F32


class Ahead:
    """What has been decoded beyond the last token: the guesses of a draft, as far as they turn out right."""

    def __init__(self, engine: Engine, stats: Counts, logits: Logits, draft: Draft | None) -> None:
        self._engine, self._stats, self._logits, self._draft = engine, stats, logits, draft
        self._guesses: list[int] = []
        self._right = 0
        self._trial: _Trial | None = None
        self._mark: float | None = None  # stats.decode_seconds when the last step began

    def after(self, token: int) -> int:
        """Make the logits that follow `token` available; returns their output index."""
        begun, stats = time.perf_counter(), self._stats
        index = self._plain(token) if self._draft is None else self._drafted(self._draft, token, begun)
        stats.context_used = self._engine.used - len(self._guesses) + self._right
        stats.decode_seconds += time.perf_counter() - begun
        return index

    def close(self) -> None:
        """Take back the guesses that were wrong."""
        wrong = len(self._guesses) - self._right
        if wrong and self._engine.context is not None:
            self._engine.truncate(self._engine.used - wrong)
        self._guesses, self._right = [], 0

    def _plain(self, token: int) -> int:
        self._engine.add(token)
        return -1

    def _drafted(self, draft: Draft, token: int, begun: float) -> int:
        draft.observe(token)
        if self._right < len(self._guesses) and self._guesses[self._right] == token:
            self._right += 1
            self._stats.accepted += 1
            return self._right
        if self._mark is not None:
            draft.learn(len(self._guesses), self._right, self._stats.decode_seconds - self._mark)
        self.close()
        if self._trial is None and (guesses := self._fitting(draft.trial())):
            self._try(draft, [token, *guesses])
        self._mark = self._stats.decode_seconds + time.perf_counter() - begun
        self._guesses = self._fitting(draft.propose())
        self._stats.drafted += len(self._guesses)
        return self._step(draft, [token, *self._guesses])

    def _fitting(self, guesses: list[int]) -> list[int]:
        """The guesses, or none if llama.cpp has no room for them: another width than the draft's is another step."""
        return guesses if len(guesses) < min(MOST_OUTPUTS, self._engine.size - self._engine.used) else []

    def _step(self, draft: Draft, tokens: Sequence[int]) -> int:
        """Decode tokens; returns the output of the first."""
        engine = self._engine
        if len(tokens) > 1:
            engine.add_several(tokens)
        else:
            engine.add(tokens[0])
        first = 0 if len(tokens) > 1 else -1
        if self._trial is not None:
            self._compare(draft, self._trial, tokens, first)
        return first

    def _try(self, draft: Draft, tokens: list[int]) -> None:
        """Decode tokens at once, keep their logits, and take them back: the steps that follow will show what is right."""
        begun, engine = time.perf_counter(), self._engine
        engine.add_several(tokens)
        position = engine.used - len(tokens)
        rows = np.stack([self._logits.row(engine.context, i) for i in range(len(tokens))])
        engine.truncate(position)
        self._trial = _Trial(position, tokens, rows)
        draft.tried(len(tokens) - 1, time.perf_counter() - begun)

    def _compare(self, draft: Draft, trial: _Trial, tokens: Sequence[int], first: int) -> None:
        """The logits of a step against the trial's for the same tokens, before a constraint masks them.

        Every step begins where the right tokens of the last one ended, so none of the trial's is left out.
        """
        begin = self._engine.used - len(tokens) - trial.position
        for at, token in enumerate(tokens[: len(trial.tokens) - begin], begin):
            if trial.tokens[at] != token:
                self._trial = None  # the answer went another way: nothing is known
                return
            row = self._logits.row(self._engine.context, first + at - begin)
            if not np.array_equal(row.view(np.uint32), trial.rows[at].view(np.uint32)):
                self._judge(draft, trial, False)
                return
        if begin + len(tokens) >= len(trial.tokens):
            self._judge(draft, trial, True)

    def _judge(self, draft: Draft, trial: _Trial, is_same: bool) -> None:
        self._trial = None
        draft.judge(len(trial.tokens) - 1, trial.position, is_same)
