"""A constraint on an answer that a model thinks before: it holds from the end of the thoughts on."""

from collections.abc import Callable

import numpy as np

from bq.runtime.sampling import F32, Constraint, MakeConstraint
from bq.runtime.tokenizer import Tokenizer


def after_thinking(make: MakeConstraint, end: int, is_end: Callable[[int], bool]) -> MakeConstraint:
    """The same constraint, beginning after the token `end`; until that has come, the answer cannot end (`is_end`)."""
    return lambda tokenizer: _AfterThinking(make(tokenizer), end, is_end, tokenizer)


class _AfterThinking:
    def __init__(self, inner: Constraint, end: int, is_end: Callable[[int], bool], tokenizer: Tokenizer) -> None:
        self._inner, self._end = inner, end
        self._is_end, self._size = is_end, len(tokenizer)
        self._is_thinking = True

    def allows(self, token: int) -> bool:
        return not self._is_end(token) if self._is_thinking else self._inner.allows(token)

    def mask(self, logits: F32) -> None:
        if self._is_thinking:
            logits[[token for token in range(self._size) if self._is_end(token)]] = -np.inf
        else:
            self._inner.mask(logits)

    def accept(self, token: int) -> None:
        if self._is_thinking:
            self._is_thinking = token != self._end
        else:
            self._inner.accept(token)

    def may_end(self) -> bool:
        return not self._is_thinking and self._inner.may_end()

    def must_end(self) -> bool:
        return not self._is_thinking and self._inner.must_end()

    def closing(self, logits: F32) -> int | None:
        return self._end if self._is_thinking else self._inner.closing(logits)

    def close(self) -> None:
        self._inner.close()
