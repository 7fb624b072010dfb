"""A model that only has noise to say, held to a constraint: what comes out, as it is printed."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime.automaton import Automaton
from bq.runtime.grammar import parse_grammar
from bq.runtime.llama import library
from bq.runtime.sampling import Constraint, MakeConstraint
from bq.runtime.text_stream import TextStream
from bq.runtime.tokenizer import Tokenizer

MOST_CLOSING = 4000
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data (llama.h)


def ramble(make: MakeConstraint, tokenizer: Tokenizer, rng: np.random.Generator, limit: int = 80) -> str:
    """An answer of random tokens among those that may come, brought to its end after `limit` of them."""
    constraint = make(tokenizer)
    stream = TextStream(strip_space=tokenizer.add_dummy_prefix)
    text = ""
    for count in range(limit + MOST_CLOSING):
        if constraint.must_end() or (count >= limit and constraint.may_end()):
            return text + stream.finish()
        token = next_token(constraint, tokenizer, rng) if count < limit else closing_token(constraint, tokenizer)
        if tokenizer.is_end(token):
            assert constraint.may_end()
            return text + stream.finish()
        constraint.accept(token)
        text += stream.add(tokenizer.piece(token))
    raise AssertionError(f"no end: {text[-200:]!r}")


def next_token(constraint: Constraint, tokenizer: Tokenizer, rng: np.random.Generator) -> int:
    """Any token that may come."""
    logits = rng.normal(size=len(tokenizer)).astype(np.float32)
    token = int(logits.argmax())
    if not constraint.allows(token):
        constraint.mask(logits)
        token = int(logits.argmax())
        assert logits[token] > -np.inf, "no token may follow"
    assert constraint.allows(token)
    return token


def closing_token(constraint: Constraint, tokenizer: Tokenizer) -> int:
    """The constraint's own way out, which must be one that it allows."""
    token = constraint.closing(np.zeros(len(tokenizer), np.float32))
    assert token is not None
    assert constraint.allows(token)
    return token


def allowed(constraint: Constraint, tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """Which tokens may come, by the mask."""
    logits = np.zeros(len(tokenizer), np.float32)
    constraint.mask(logits)
    return logits == 0


class Language:
    """The texts of a grammar: `text in Language(gbnf)`."""

    def __init__(self, gbnf: str) -> None:
        self._automaton = Automaton(parse_grammar(gbnf))

    def __contains__(self, text: str) -> bool:
        state = self._automaton.start
        for character in text:
            after = self._automaton.step(state, ord(character))
            if after is None:
                return False
            state = after
        return state.is_whole


class LlamaGrammar:
    """llama.cpp's own grammar sampler on the same vocabulary. A token that it does not allow would end the process."""

    def __init__(self, gbnf: str, tokenizer: Tokenizer) -> None:
        self._lib: Any = library()
        self.sampler = self._lib.llama_sampler_init_grammar(tokenizer._vocab, gbnf.encode(), b"root")
        assert self.sampler, gbnf
        self._size = len(tokenizer)

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which tokens may come."""
        candidates = np.zeros(self._size, _CANDIDATE)
        candidates["id"] = np.arange(self._size)
        array = self._lib.llama_token_data_array(
            data=ctypes.cast(candidates.ctypes.data, ctypes.POINTER(self._lib.llama_token_data)),
            size=self._size,
            selected=-1,
            sorted=False,
        )
        self._lib.llama_sampler_apply(self.sampler, ctypes.byref(array))
        return np.asarray(candidates["logit"] == 0)

    def accept(self, token: int) -> None:
        assert self.allowed()[token]
        self._lib.llama_sampler_accept(self.sampler, token)

    def close(self) -> None:
        self._lib.llama_sampler_free(self.sampler)
