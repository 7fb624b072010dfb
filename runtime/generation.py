"""The token loop: prefill in batches, then one token after the other, until the end, the limit, or a stop.

The engine knows what stands in the KV cache and decodes only what is new: the longest common prefix of ids is kept.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library
from bq.runtime.prompt import Prompt
from bq.runtime.sampling import Sampler, Sampling
from bq.runtime.text_stream import TextStream
from bq.runtime.tokenizer import Tokenizer

_ABORTED, _NO_SLOT = 2, 1  # llama_decode's results (llama.h)


@dataclass(frozen=True)
class Options:
    """How to answer. `on_prefill` hears (tokens done, tokens in all); `cancel` stops at the next token or batch."""

    sampling: Sampling | None = None
    max_tokens: int | None = None
    cancel: threading.Event | None = None
    on_prefill: Callable[[int, int], None] | None = None

    def replaced(self, keywords: Mapping[str, Any]) -> "Options":
        return replace(self, **keywords)

    def with_defaults(self, sampling: Sampling, max_tokens: int) -> "Options":
        return replace(self, sampling=self.sampling or sampling, max_tokens=self.max_tokens or max_tokens)

    @property
    def is_cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


@dataclass
class Stats:
    """Counts in tokens, times in seconds; `stop` is "" while running, then "end", "length" or "cancel"."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    dropped_rounds: int = 0
    tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    context_used: int = 0
    stop: str = ""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.decode_seconds if self.decode_seconds else 0.0


class Engine:
    """A context and what its KV cache holds."""

    def __init__(self, context: Any, tokenizer: Tokenizer, size: int, ends: AbstractSet[int]) -> None:
        self.context = context
        self.tokenizer = tokenizer
        self.size = size
        self.ends = ends
        self._cached: list[int] = []
        self._batch = int(library().llama_n_batch(context))  # llama.cpp makes it as small as a small context
        self._one = (library().llama_token * 1)()

    def close(self) -> None:
        """Nothing is decoded any more; the context's owner frees it."""
        self.context = None

    def is_end(self, token: int) -> bool:
        return token in self.ends or self.tokenizer.is_end(token)

    def keep_prefix(self, ids: Sequence[int]) -> int:
        """Drop from the KV cache what `ids` do not begin with; returns how many tokens are kept.

        The last id is decoded in any case, for its logits.
        """
        common = 0
        for ours, theirs in zip(self._cached, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self._truncate(common)
        return common

    def _truncate(self, count: int) -> None:
        lib = library()
        if not lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), 0, count, -1):
            raise BqError(say("llama.cpp could not shorten its KV cache.", "llama.cpp 无法截短 KV 缓存。"))
        del self._cached[count:]

    def prefill(self, ids: Sequence[int], options: Options) -> bool:
        """Decode `ids` after what is cached, in batches; False if it was cancelled on the way."""
        lib = library()
        with _abort_on(self.context, options.cancel):
            for start in range(0, len(ids), self._batch):
                part = ids[start : start + self._batch]
                if options.is_cancelled or not self._decode((lib.llama_token * len(part))(*part), len(part)):
                    self._truncate(len(self._cached))
                    return False
                self._cached.extend(part)
                if options.on_prefill is not None:
                    options.on_prefill(start + len(part), len(ids))
        return True

    def add(self, token: int) -> None:
        """Decode one more token."""
        self._one[0] = token
        self._decode(self._one, 1)
        self._cached.append(token)

    @property
    def used(self) -> int:
        """Tokens in the KV cache."""
        return len(self._cached)

    def _decode(self, tokens: Any, count: int) -> bool:
        lib = library()
        result = lib.llama_decode(self.context, lib.llama_batch_get_one(tokens, count))
        if result == 0:
            return True
        if result == _ABORTED:
            return False
        raise BqError(
            say(
                f"llama.cpp could not decode (result {result}{', the context is full' if result == _NO_SLOT else ''}): {last_errors()}.",
                f"llama.cpp 解码失败（结果 {result}{'，上下文已满' if result == _NO_SLOT else ''}）：{last_errors()}。",
            ),
            say("Start a new conversation, or use a smaller --ctx.", "请开始新的对话，或使用更小的 --ctx。"),
        )


class _abort_on:
    """While prefilling, llama.cpp asks between operations whether to go on. Not while decoding: asking costs more there."""

    def __init__(self, context: Any, cancel: threading.Event | None) -> None:
        self.context, self.cancel = context, cancel
        self._callback: Any = None

    def __enter__(self) -> None:
        if self.cancel is not None:
            lib = library()
            cancel = self.cancel
            self._callback = lib.ggml_abort_callback(lambda _: cancel.is_set())
            lib.llama_set_abort_callback(self.context, self._callback, None)

    def __exit__(self, *_: object) -> None:
        if self._callback is not None:
            lib = library()
            lib.llama_set_abort_callback(self.context, lib.ggml_abort_callback(), None)


class Generation:
    """One answer as it comes: iterate over its text; `stats` grows on the way."""

    def __init__(self, engine: Engine, prompt: Prompt, options: Options) -> None:
        self._engine, self._prompt, self._options = engine, prompt, options
        self.stats = Stats(prompt_tokens=len(prompt.ids), dropped_rounds=prompt.dropped_rounds)

    def __iter__(self) -> Iterator[str]:
        """Pieces of text: whole characters, control characters made harmless."""
        stats, engine = self.stats, self._engine
        if engine.context is None:
            raise RuntimeError("the model is closed")
        begun = time.perf_counter()
        stats.reused_tokens = engine.keep_prefix(self._prompt.ids)
        is_ready = engine.prefill(self._prompt.ids[stats.reused_tokens :], self._options)
        stats.prefill_seconds = time.perf_counter() - begun
        stats.context_used = engine.used
        if not is_ready:
            stats.stop = "cancel"
            return
        sampling = self._options.sampling or Sampling()
        sampler = Sampler(sampling, len(engine.tokenizer), engine.size, self._prompt.ids)
        try:
            yield from self._decode(sampler)
        finally:
            sampler.close()
            stats.stop = stats.stop or "cancel"

    def _decode(self, sampler: Sampler) -> Iterator[str]:
        stats, engine, options = self.stats, self._engine, self._options
        stream = TextStream(strip_space=engine.tokenizer.add_dummy_prefix)
        limit = min(options.max_tokens or engine.size, engine.size - engine.used)
        while not stats.stop:
            begun = time.perf_counter()
            token = sampler.sample(engine.context)
            if engine.is_end(token):
                stats.stop = "end"
                break
            stats.tokens += 1
            text = stream.add(engine.tokenizer.piece(token))
            if stats.tokens >= limit:
                stats.stop = "length"
            elif options.is_cancelled:
                stats.stop = "cancel"
            else:
                engine.add(token)
            stats.context_used = engine.used
            stats.decode_seconds += time.perf_counter() - begun
            if text:
                yield text
        if rest := stream.finish():
            yield rest
