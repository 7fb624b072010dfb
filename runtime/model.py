"""A loaded model: what it is, how many tokens a text has, and answers to messages or continuations of a text.

It drives llama.cpp's low-level calls itself: the bindings' `Llama` class detokenizes the whole answer again for each
token, holds a score buffer of n_batch times the vocabulary, and cannot be stopped (bench/loop.py measures it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.runtime.generation import Engine, Generation, Options
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file, file_warnings
from bq.runtime.language import say
from bq.runtime.llama import library
from bq.runtime.prompt import Message, Prompt, Roles, build_prompt
from bq.runtime.sampling import Sampling, sampling_of
from bq.runtime.tokenizer import Tokenizer

DEFAULT_ANSWER_TOKENS = 2048  # max_new_tokens of every Chat release
_LEAST_ANSWER_TOKENS = 256  # a long message may shrink the room for the answer down to this

_RELEASE_DEFAULTS = Options()


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded file says of itself; `context` is the number of tokens in use."""

    name: str
    variant: str
    mixture: str
    size_bytes: int
    context: int
    sampling: Sampling
    max_new_tokens: int


class Model:
    """One model in memory. Not thread-safe: one call at a time."""

    def __init__(self, file: GgufFile, model: Any, context: Any) -> None:
        lib = library()
        self._model, self._context = model, context
        self._engine: Engine | None = None
        self.tokenizer = Tokenizer(lib.llama_model_get_vocab(model), file)
        self.roles = Roles(file.count("bq.role.user_id", 195), file.count("bq.role.assistant_id", 196))
        known = describe_file(file)
        self.info = ModelInfo(
            name=known.name,
            variant=known.variant,
            mixture=known.mixture,
            size_bytes=file.size_bytes,
            context=int(lib.llama_n_ctx(context)),
            sampling=sampling_of(file),
            max_new_tokens=max(0, file.count("bq.max_new_tokens")) or DEFAULT_ANSWER_TOKENS,
        )
        self.warnings = file_warnings(file)
        ends = {self.roles.user} if known.variant != "base" else set()
        self._engine = Engine(context, self.tokenizer, self.info.context, ends)

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self.tokenizer.encode(text))

    def prompt(self, messages: Sequence[Message], max_tokens: int | None = None) -> Prompt:
        """The ids of a conversation, with room for an answer of `max_tokens` (None: the release's, or what is left).

        Raises BqError if the system text and the newest round do not fit.
        """
        context = self.info.context
        room = min(max_tokens or self.info.max_new_tokens, context // 2 if max_tokens is None else context - 1)
        try:
            return build_prompt(messages, self.tokenizer.encode, self.roles, context - room)
        except BqError:
            if room <= _LEAST_ANSWER_TOKENS:
                raise
        return build_prompt(messages, self.tokenizer.encode, self.roles, context - _LEAST_ANSWER_TOKENS)

    def chat(
        self, messages: Sequence[Message], options: Options = _RELEASE_DEFAULTS, force: bool = False, **keywords: Any
    ) -> Generation:
        """Answer a conversation; keywords are the fields of Options. Raises BqError for a Base file unless forced."""
        if self.info.variant == "base" and not force:
            raise UsageError(
                say(
                    f"{self.info.name} is a Base model: it goes on with a text and answers no one.",
                    f"{self.info.name} 是 Base 模型：它只会续写文本，不会对话。",
                ),
                say("Use `bq complete`, or a Chat release.", "请使用 `bq complete`，或改用 Chat 版本。"),
            )
        options = options.replaced(keywords)
        return self._generate(self.prompt(messages, options.max_tokens), options)

    def complete(self, text: str, options: Options = _RELEASE_DEFAULTS, **keywords: Any) -> Generation:
        """Go on with a text; keywords are the fields of Options. Raises BqError if the text fills the context."""
        ids = self.tokenizer.encode(text) or [self._start_token()]
        if len(ids) >= self.info.context:
            raise BqError(
                say(
                    f"The text has {len(ids)} tokens, the context {self.info.context}.",
                    f"文本有 {len(ids)} 个词元，而上下文只有 {self.info.context} 个。",
                ),
                say("Shorten the text.", "请缩短文本。"),
            )
        return self._generate(Prompt(tuple(ids), 0), options.replaced(keywords))

    def _start_token(self) -> int:
        """What an empty text starts from: the end of a document, as between the documents of the training."""
        return int(library().llama_vocab_eos(library().llama_model_get_vocab(self._model)))

    def _generate(self, prompt: Prompt, options: Options) -> Generation:
        if self._engine is None:
            raise RuntimeError("the model is closed")
        return Generation(self._engine, prompt, options.with_defaults(self.info.sampling, self.info.max_new_tokens))

    def close(self) -> None:
        """Free the memory; the model is not used again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
            self.tokenizer.close()
            library().llama_free(self._context)
            library().llama_model_free(self._model)

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
