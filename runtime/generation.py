"""The token loop: prefill what is new, then one token after the other, until the end, the limit, or a stop.

Where a draft proposes what may come next, several tokens are decoded at once and checked one by one by the same sampler:
the answer is what it would be without.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bq.runtime.ahead import Ahead
from bq.runtime.draft import Draft
from bq.runtime.ending import answer_limit, reason_to_stop
from bq.runtime.engine import Engine
from bq.runtime.prompt import Prompt
from bq.runtime.prompt_format import THINK_MODES, Think
from bq.runtime.sampling import F32, Logits, MakeConstraint, Sampler, Sampling, log_softmax, out_of_range, top_k
from bq.runtime.text_stream import StopStrings, TextStream
from bq.runtime.values import Alternative as Alternative  # where they are looked for
from bq.runtime.values import Stats as Stats
from bq.runtime.values import Step as Step


@dataclass(frozen=True)
class Options:
    """How to answer; None means as the release has it.

    `stop`: texts that end the answer and are not part of it. `constraint` makes what the answer must obey
    (bq.runtime.constraint). `draft` says whether what comes next may be guessed from what was there before, which changes
    nothing but the speed; or it makes the guesser from the prompt's ids. `top_tokens`: how many alternatives each step
    names. `cancel` stops at the next token or batch. `on_prefill` hears (tokens done, tokens in all). `think` is whether a
    model that knows modes of it thinks before it answers, in `<think>…</think>` at the beginning of the text; "auto" leaves it
    to the model, but under a constraint it does not.
    """

    sampling: Sampling | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    constraint: MakeConstraint | None = None
    draft: bool | Callable[[Sequence[int]], Draft] = True
    top_tokens: int = 0
    cancel: threading.Event | None = None
    on_prefill: Callable[[int, int], None] | None = None
    think: Think = "auto"

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise out_of_range("max_tokens", self.max_tokens)
        if self.top_tokens < 0:
            raise out_of_range("top_tokens", self.top_tokens)
        if self.think not in THINK_MODES:
            raise out_of_range("think", self.think)

    def replaced(self, keywords: Mapping[str, Any]) -> "Options":
        return replace(self, **keywords)

    def with_defaults(self, sampling: Sampling, max_tokens: int) -> "Options":
        return replace(self, sampling=self.sampling or sampling, max_tokens=self.max_tokens or max_tokens)

    @property
    def is_cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


class Generation:
    """One answer as it comes: iterate over its text, or over its `steps()`; `stats` grows on the way."""

    def __init__(self, engine: Engine, prompt: Prompt, options: Options) -> None:
        self._engine, self._prompt, self._options = engine, prompt, options
        self._logits = Logits(len(engine.tokenizer))
        self.stats = Stats(prompt_tokens=len(prompt.ids), dropped_rounds=prompt.dropped_rounds)

    def __iter__(self) -> Iterator[str]:
        """Pieces of text: whole characters, control characters made harmless. Raises BqError if llama.cpp fails."""
        return (step.text for step in self.steps() if step.text)

    def steps(self) -> Iterator[Step]:
        """Token by token, also those that complete no character. Raises BqError if llama.cpp fails."""
        stats, engine, options = self.stats, self._engine, self._options
        if engine.context is None:
            raise RuntimeError("the model is closed")
        engine.owner = self
        constraint = options.constraint(engine.tokenizer) if options.constraint else None
        sampler = Sampler(options.sampling or Sampling(), len(engine.tokenizer), self._prompt.ids, constraint)
        try:
            if self._prefill():
                yield from self._answer(sampler)
        except Exception:
            stats.stop = "error"
            raise
        finally:
            sampler.close()
            stats.stop = stats.stop or "cancel"

    def _prefill(self) -> bool:
        """Decode what of the prompt is not in the KV cache; False if it was cancelled."""
        stats, engine, options = self.stats, self._engine, self._options
        begun = time.perf_counter()
        stats.reused_tokens = engine.keep_prefix(self._prompt.ids)
        is_ready = engine.prefill(self._prompt.ids[stats.reused_tokens :], options.cancel, options.on_prefill)
        stats.prefill_seconds = time.perf_counter() - begun
        stats.context_used = engine.used
        return is_ready

    def _answer(self, sampler: Sampler) -> Iterator[Step]:
        stats, engine = self.stats, self._engine
        stream = TextStream(strip_space=engine.tokenizer.add_dummy_prefix and not self._prompt.continues)
        stops = StopStrings(self._options.stop)
        if self._prompt.opens:
            yield Step(self._prompt.opens)
        for token, chosen, alternatives in self._tokens(sampler):
            text = stops.add(stream.add(engine.tokenizer.piece(token)))
            if stops.found:
                stats.stop = "stop"
            yield Step(text, token, chosen, alternatives)
        if rest := stops.finish(stream.finish()):
            yield Step(rest)

    def _tokens(self, sampler: Sampler) -> Iterator[tuple[int, Alternative | None, tuple[Alternative, ...]]]:
        """Sample a token and give it out; decode it when the next one is wanted, so that it is seen at once."""
        stats, engine = self.stats, self._engine
        draft = self._options.draft(self._prompt.ids) if callable(self._options.draft) else None
        ahead = Ahead(engine, stats, self._logits, draft)
        room = min(engine.size, engine.longest) - engine.used
        limit = answer_limit(self._options.max_tokens, room, sampler.constraint)
        output = -1
        try:
            while not stats.stop:
                begun = time.perf_counter()
                row = self._logits.row(engine.context, output).copy() if self._options.top_tokens else None
                draw = sampler.sample if stats.tokens < limit else sampler.close_soon
                token = draw(engine.context, output)
                if token is None or engine.is_end(token):
                    stats.stop = "end" if token is not None else "incomplete"
                    break
                stats.tokens += 1
                stats.stop = reason_to_stop(sampler.constraint, stats.tokens, limit, room)
                study = self._study(row, token) if row is not None else (None, ())
                stats.decode_seconds += time.perf_counter() - begun
                yield (token, *study)
                self._check_owner()
                if not stats.stop and self._options.is_cancelled:
                    stats.stop = "cancel"
                if not stats.stop:
                    output = ahead.after(token)
        finally:
            if engine.owner is self:
                ahead.close()

    def _check_owner(self) -> None:
        if self._engine.owner is not self:
            raise RuntimeError("another answer was begun with this model; this one cannot go on")

    def _study(self, row: F32, token: int) -> tuple[Alternative, tuple[Alternative, ...]]:
        tokens = [token, *map(int, top_k(row, self._options.top_tokens))]
        piece = self._engine.tokenizer.piece
        chosen, *others = [
            Alternative(one, piece(one), float(logprob))
            for one, logprob in zip(tokens, log_softmax(row, tokens), strict=True)
        ]
        return chosen, tuple(others)
