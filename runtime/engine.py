"""A context of llama.cpp and exactly what its KV cache holds.

Sequence 0 belongs to the conversation: its ids are kept here, the longest common prefix with the next prompt stays, and
only what is new is decoded. Whoever needs the whole cache (parallel sequences, a restored state) takes it over.
"""

import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library, log_position
from bq.runtime.tokenizer import Tokenizer

MOST_OUTPUTS = (
    32  # positions of one decode whose logits are kept: parallel sequences, or a draft and the token before it
)
NO_SLOT, ABORTED = 1, 2  # llama_decode's results (llama.h)


class Engine:
    """Decodes tokens into sequence 0 and knows which stand there. Not thread-safe: one call at a time."""

    def __init__(self, context: Any, tokenizer: Tokenizer, ends: AbstractSet[int], longest: int | None = None) -> None:
        """`ends` are tokens that end an answer beside the vocabulary's own; `longest` tokens may stand in sequence 0."""
        lib = library()
        self.context = context
        self.tokenizer = tokenizer
        self.size = int(lib.llama_n_ctx(context))  # tokens of all sequences together
        self.longest = longest or self.size
        self._ends = ends
        self._ids: list[int] = []
        self.owner: object = None  # the answer that decodes now; one that was begun before it may not go on
        self._batch_size = int(lib.llama_n_batch(context))  # llama.cpp makes it as small as a small context
        self._one = (lib.llama_token * 1)()
        self._one_batch = lib.llama_batch_get_one(self._one, 1)
        self._several = lib.llama_batch_init(MOST_OUTPUTS, 0, 1)

    def close(self) -> None:
        """Nothing is decoded any more; the context's owner frees it."""
        if self.context is not None:
            library().llama_batch_free(self._several)
            self.context = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens in the KV cache of sequence 0, in order."""
        return tuple(self._ids)

    @property
    def used(self) -> int:
        """How many tokens those are."""
        return len(self._ids)

    def is_end(self, token: int) -> bool:
        """Whether an answer ends at this token."""
        return token in self._ends or self.tokenizer.is_end(token)

    def forget(self) -> None:
        """Empty the KV cache, all sequences of it."""
        lib = library()
        self._check_open()
        self.owner = None
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)
        self._ids = []

    take_over = forget  # for whoever decodes into sequences of its own: afterwards the cache is not what a chat left

    def adopt(self, ids: Sequence[int]) -> None:
        """The KV cache of sequence 0 has been filled by other means and holds exactly these tokens."""
        self._ids = list(ids)

    def keep_prefix(self, ids: Sequence[int]) -> int:
        """Drop from the KV cache what `ids` do not begin with; returns how many tokens are kept.

        The last id is decoded in any case, for its logits.
        """
        common = 0
        for ours, theirs in zip(self._ids, ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        self.truncate(common)
        return common

    def truncate(self, count: int) -> None:
        """Keep the first `count` tokens. Raises BqError if llama.cpp cannot."""
        lib = library()
        self._check_open()
        if not lib.llama_memory_seq_rm(lib.llama_get_memory(self.context), 0, count, -1):
            raise BqError(
                say("llama.cpp could not shorten its KV cache.", "llama.cpp 无法截短 KV 缓存。"),
                say("Load the model again.", "请重新加载模型。"),
            )
        del self._ids[count:]

    def prefill(
        self,
        ids: Sequence[int],
        cancel: threading.Event | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> bool:
        """Decode `ids` after what is there, in batches; False if it was cancelled on the way, the cache then as it was
        after the last whole batch. `on_progress` hears (tokens done, tokens in all)."""
        lib = library()
        self._check_open()
        with abort_on(self.context, cancel):
            for start in range(0, len(ids), self._batch_size):
                part = ids[start : start + self._batch_size]
                tokens = (lib.llama_token * len(part))(*part)  # held here: the batch only points to it
                batch = lib.llama_batch_get_one(tokens, len(part))
                if (cancel is not None and cancel.is_set()) or not self._decode(batch):
                    return False
                self._ids.extend(part)
                # A GPU is only given its work: without this a stop would wait for two batches, and progress run ahead.
                lib.llama_synchronize(self.context)
                if on_progress is not None:
                    on_progress(start + len(part), len(ids))
        return True

    def add(self, token: int) -> None:
        """Decode one more token; its logits are output -1."""
        self._one[0] = token
        self._decode(self._one_batch)
        self._ids.append(token)

    def add_several(self, tokens: Sequence[int]) -> None:
        """Decode up to MOST_OUTPUTS tokens at once; the logits after the i-th are output i."""
        batch, position = self._several, len(self._ids)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = 1
        self._decode(batch)
        self._ids.extend(tokens)

    def _check_open(self) -> None:
        if self.context is None:
            raise RuntimeError("the model is closed")

    def _decode(self, batch: Any) -> bool:
        """Whether it was decoded; False if the abort callback stopped it. After a failure the cache is as before."""
        self._check_open()
        mark = log_position()
        result = library().llama_decode(self.context, batch)
        if result == 0:
            return True
        self.truncate(len(self._ids))
        if result == ABORTED:
            return False
        raise decode_error(result, mark)


def decode_error(result: int, mark: int) -> BqError:
    """What a result of llama_decode other than 0 and 2 means; `mark` is the log's position before it."""
    full = result == NO_SLOT
    detail = last_errors(mark)
    return BqError(
        say(
            f"llama.cpp could not decode (result {result}{', the context is full' if full else ''}){f': {detail}' if detail else ''}.",
            f"llama.cpp 解码失败（结果 {result}{'，上下文已满' if full else ''}）{f'：{detail}' if detail else ''}。",
        ),
        say("Start a new conversation, or use a larger --ctx.", "请开始新的对话，或使用更大的 --ctx。")
        if full
        else say("`--debug` shows llama.cpp's log.", "`--debug` 可显示 llama.cpp 的日志。"),
    )


class abort_on:
    """While prefilling, llama.cpp asks between operations whether to go on (on the CPU; a GPU stops between batches).

    Not while decoding: a token is short, and asking costs more there.
    """

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
