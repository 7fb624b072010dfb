"""A loaded model: what it is, how many tokens a text has, and answers to messages or continuations of a text.

It drives llama.cpp's low-level calls itself: the bindings' `Llama` class detokenizes the whole answer again for each
token, holds a score buffer of n_batch times the vocabulary, and cannot be stopped (bench/loop.py measures it).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from bq.runtime.adapters import GivenAdapter, attach, fingerprint_of
from bq.runtime.after_thinking import after_thinking
from bq.runtime.draft import Draft, Steps
from bq.runtime.engine import Engine
from bq.runtime.errors import BqError, UsageError
from bq.runtime.generation import Generation, Options
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import answer_tokens, base_refusal, describe_file, file_warnings, prompt_format, think_refusal
from bq.runtime.language import say
from bq.runtime.llama import library
from bq.runtime.prompt import Message, Prompt, Role, fitting, measure_prompt
from bq.runtime.prompt_format import CHATML, Think
from bq.runtime.sampling import sampling_of
from bq.runtime.session import ModelSource, Session, restore, save
from bq.runtime.session_file import Fingerprint, SessionFile, open_session
from bq.runtime.tokenizer import Encodings, Tokenizer
from bq.runtime.values import ModelInfo as ModelInfo  # where it is looked for

if TYPE_CHECKING:
    from bq.runtime.loading import Fit

_LEAST_ANSWER_TOKENS = 256  # a long message may shrink the room for the answer down to this
_HEADROOM = 0.25  # of the budget, freed when rounds must go: so that it happens every few turns, not at each

_RELEASE_DEFAULTS = Options()


class Model:
    """One model in memory. Not thread-safe: one call at a time.

    `fit` says how it was loaded: the plan, its estimate, and what llama.cpp really took.
    """

    fit: "Fit"

    def __init__(self, file: GgufFile, model: Any, context: Any) -> None:
        lib = library()
        self._model, self._context = model, context
        self._engine: Engine | None = None
        self.tokenizer = Tokenizer(lib.llama_model_get_vocab(model), file)
        self.prompt_format = prompt_format(file)
        known = describe_file(file)
        self.info = ModelInfo(
            name=known.name,
            variant=known.variant,
            mixture=known.mixture,
            size_bytes=file.size_bytes,
            context=int(min(lib.llama_n_ctx(context), lib.llama_model_n_ctx_train(model))),
            sampling=sampling_of(file),
            max_new_tokens=answer_tokens(file),
            thinks=self.prompt_format.thinking is not None,
        )
        self.warnings = file_warnings(file)
        self._source = ModelSource.of(file, known.name)
        self._adapters: tuple[GivenAdapter, ...] = ()
        ends = self.prompt_format.ends if known.variant != "base" else frozenset()
        self._engine = Engine(context, self.tokenizer, ends, self.info.context)
        self._steps = Steps()  # what was learnt of this context's speed, for the drafts
        self._encodings = Encodings(self.tokenizer.encode)

    def count(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self.tokenizer.encode(text))

    def prompt(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        max_tokens: int | None = None,
        pinned: AbstractSet[int] = frozenset(),
        think: Think = "auto",
    ) -> Prompt:
        """The ids of a conversation, with room for an answer of `max_tokens` (None: the release's, or what is left).

        The `pinned` rounds, numbered from 0, stay although they are old. `think` is as in Options. Raises BqError if the system
        text, those and the newest round do not fit, and UsageError for a model that cannot be told to think.
        """
        return fitting(self.measure(messages, max_tokens, pinned, think))

    def measure(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        max_tokens: int | None = None,
        pinned: AbstractSet[int] = frozenset(),
        think: Think = "auto",
    ) -> Prompt:
        """What `prompt` would give, sizes and dropped rounds, also where it does not fit: for showing it before it is sent."""
        if think != "auto" and not self.info.thinks:
            raise think_refusal(self.info.name)
        context = self.info.context
        room = min(max_tokens or self.info.max_new_tokens, context // 2 if max_tokens is None else context - 1)
        alone = context - min(room, _LEAST_ANSWER_TOKENS, context // 4)
        budget, form = context - room, self.prompt_format
        return measure_prompt(as_messages(messages), self._encode, form, budget, _HEADROOM, alone, pinned, think)

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        options: Options = _RELEASE_DEFAULTS,
        force: bool = False,
        pinned: AbstractSet[int] = frozenset(),
        **keywords: Any,
    ) -> Generation:
        """Answer a conversation; keywords are the fields of Options. Messages may be mappings of "role" and "content".

        The `pinned` rounds, numbered from 0, stay in the context although they are old. Raises BqError for a Base file unless
        forced, and where the newest message, with those, does not fit into the context.
        """
        if self.info.variant == "base" and not force:
            raise base_refusal(self.info.name)
        return self._generate(*self.question(messages, options.replaced(keywords), pinned))

    def question(
        self,
        messages: Sequence[Message | Mapping[str, str]],
        options: Options,
        pinned: AbstractSet[int] = frozenset(),
    ) -> tuple[Prompt, Options]:
        """A conversation's prompt, and the options with which it is answered: a constraint begins after the thoughts.

        Under a constraint a model thinks only if it is told to. Raises what `chat` does.
        """
        is_free = options.constraint is None or options.think != "auto" or not self.info.thinks
        prompt = self.prompt(messages, options.max_tokens, pinned, options.think if is_free else "off")
        thinking = self.prompt_format.thinking
        if prompt.opens and options.constraint is not None and thinking is not None and self._engine is not None:
            options = replace(options, constraint=after_thinking(options.constraint, thinking.end, self._engine.is_end))
        return prompt, options

    def complete(self, text: str, options: Options = _RELEASE_DEFAULTS, **keywords: Any) -> Generation:
        """Go on with a text; keywords are the fields of Options. Raises BqError if the text fills the context."""
        ids = self._encode(text) or [self._start_token()]
        if len(ids) >= self.info.context:
            raise self._too_long(len(ids))
        return self._generate(Prompt(tuple(ids), continues=bool(text)), options.replaced(keywords))

    def _encode(self, text: str) -> Sequence[int]:
        """A text's ids. Raises BqError at once for one that no context could hold: encoding megabytes takes seconds."""
        least = self.tokenizer.least_tokens(text)
        if least > self.info.context:
            raise self._too_long(least)
        return self._encodings.encode(text)

    def _too_long(self, tokens: int) -> BqError:
        return BqError(
            say(
                f"The text has {tokens} tokens or more, the context {self.info.context}.",
                f"文本至少有 {tokens} 个词元，而上下文只有 {self.info.context} 个。",
            ),
            say("Shorten the text.", "请缩短文本。"),
        )

    def _start_token(self) -> int:
        """What an empty text starts from: the end of a document, as between the documents of the training.

        Of a ChatML model `eos` ends a message; what ends a document is its `bos`, which it puts before no text.
        """
        vocabulary = library().llama_model_get_vocab(self._model)
        is_chatml = self.prompt_format.name == CHATML
        return int((library().llama_vocab_bos if is_chatml else library().llama_vocab_eos)(vocabulary))

    def _generate(self, prompt: Prompt, options: Options) -> Generation:
        if self._engine is None:
            raise RuntimeError("the model is closed")
        if options.draft is True:
            options = replace(options, draft=partial(Draft, steps=self._steps))
        return Generation(self._engine, prompt, options.with_defaults(self.info.sampling, self.info.max_new_tokens))

    def save_session(self, path: Path, messages: Sequence[Message | Mapping[str, str]], with_cache: bool = True) -> int:
        """Write a conversation, and the KV cache as it stands, to a file; returns how many tokens of cache it holds.

        The file is replaced only by a whole one. Raises BqError if it cannot be written.
        """
        if self._engine is None:
            raise RuntimeError("the model is closed")
        return save(self._engine if with_cache else None, self.fingerprint, path, as_messages(messages))

    def restore_session(self, session: Path | SessionFile) -> Session:
        """The messages of a session, and its KV cache filled into the model where it belongs to it.

        Where it does not, `note` says why, and the next answer reads the messages anew. Raises BqError for a damaged file.
        """
        if self._engine is None:
            raise RuntimeError("the model is closed")
        if isinstance(session, SessionFile):
            return restore(self._engine, self.fingerprint, session)
        with open_session(session) as opened:
            return restore(self._engine, self.fingerprint, opened)

    def adapt(self, file: GgufFile, adapters: Sequence[GivenAdapter]) -> None:
        """Add LoRA adapters to the model, whose `file` this is, before anything is decoded. Raises BqError for a misfit."""
        attach(self._model, self._context, file, adapters)
        self._adapters = tuple(adapters)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What tells this model's file, and its adapters, from others."""
        return {**self._source.fingerprint(), **fingerprint_of(self._adapters)}

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


def as_messages(messages: Sequence[Message | Mapping[str, str]]) -> list[Message]:
    """Messages from what may be mappings, as other programs write them. Raises UsageError for one that is none."""
    return [one if isinstance(one, Message) else _as_message(one) for one in messages]


def _as_message(given: object) -> Message:
    role, content = (given.get("role"), given.get("content")) if isinstance(given, Mapping) else (None, None)
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UsageError(
            say(f"This is no message: {given!r:.200}.", f"这不是一条消息：{given!r:.200}。"),
            say(
                'A message is {"role": "system", "user" or "assistant", "content": a text}.',
                '消息的形式为 {"role": "system"、"user" 或 "assistant", "content": 文本}。',
            ),
        )
    return Message(cast(Role, role), content)
