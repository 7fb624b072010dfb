"""A loaded model: what it is, how many tokens a text has, and answers to messages or continuations of a text.

It drives llama.cpp's low-level calls itself: the bindings' `Llama` class detokenizes the whole answer again for each
token, holds a score buffer of n_batch times the vocabulary, and cannot be stopped (bench/loop.py measures it).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bq.runtime.cpu import decode_threads
from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.generation import Engine, Generation, Options
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import describe_file, file_warnings, senseless_key
from bq.runtime.language import say
from bq.runtime.llama import last_errors, library, model_params
from bq.runtime.prompt import Message, Prompt, Roles, build_prompt
from bq.runtime.sampling import Sampling, sampling_of
from bq.runtime.tokenizer import Tokenizer

ARCHITECTURE = "baichuan"
DEFAULT_ANSWER_TOKENS = 2048  # max_new_tokens of every Chat release
_LEAST_ANSWER_TOKENS = 256  # a long message may shrink the room for the answer down to this
_BATCH = 512

_RELEASE_DEFAULTS = Options()


@dataclass(frozen=True)
class LoadOptions:
    """ctx in tokens, gpu_layers as llama.cpp counts them; None lets bq choose."""

    ctx: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None


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


def load(path: Path, options: LoadOptions = LoadOptions(), progress: Callable[[float], bool] | None = None) -> "Model":
    """Load a GGUF file. `progress` hears a fraction and returns False to stop.

    Raises BqError for a file that is damaged, no Baichuan, or too large for the memory; Cancelled if `progress` stopped it.
    """
    file = read_gguf(path)
    _check_runs(file)
    lib = library()
    params = model_params()
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    stopped: list[bool] = []

    @lib.llama_progress_callback  # type: ignore[untyped-decorator, unused-ignore]
    def on_progress(fraction: float, _: object) -> bool:
        if progress is not None and not progress(fraction):
            stopped.append(True)
        return not stopped

    params.progress_callback = on_progress
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if stopped:
        if model:
            lib.llama_model_free(model)
        raise Cancelled(say("Loading was stopped.", "已停止加载。"))
    if not model:
        raise _load_failure(path)
    context = lib.llama_init_from_model(model, _context_params(lib, file, options))
    if not context:
        lib.llama_model_free(model)
        raise _load_failure(path)
    return Model(file, model, context)


def _check_runs(file: GgufFile) -> None:
    architecture = file.text("general.architecture", "?")
    if architecture != ARCHITECTURE:
        raise UsageError(
            say(
                f"{file.path.name} is a {architecture} model; bq runs Baichuan models.",
                f"{file.path.name} 是 {architecture} 模型；bq 运行 Baichuan 模型。",
            ),
            say("Use llama.cpp itself for it.", "请直接使用 llama.cpp。"),
        )
    blocks = file.count(f"{ARCHITECTURE}.block_count")
    if blocks not in (32, 40):
        raise BqError(
            say(
                f"{file.path.name} has {blocks} blocks; llama.cpp would run it without positions.",
                f"{file.path.name} 有 {blocks} 块；llama.cpp 运行时会丢失位置信息。",
            ),
            say("Only 32 blocks (7B) and 40 (13B) work.", "只支持 32 块（7B）与 40 块（13B）。"),
        )
    key = senseless_key(file)
    if key is not None:
        raise BqError(
            say(f"{file.path.name} has a senseless {key}.", f"{file.path.name} 的 {key} 没有意义。"),
            say("Convert the checkpoint again with `bq convert`.", "请用 `bq convert` 重新转换检查点。"),
        )


def _context_params(lib: Any, file: GgufFile, options: LoadOptions) -> Any:
    trained = file.count(f"{ARCHITECTURE}.context_length", 4096)
    size = min(options.ctx or trained, trained)
    params = lib.llama_context_default_params()
    params.n_ctx = size
    params.n_batch = params.n_ubatch = _BATCH
    params.n_threads = params.n_threads_batch = options.threads or decode_threads(file.size_bytes)
    return params


def _load_failure(path: Path) -> BqError:
    detail = last_errors()
    return BqError(
        say(
            f"llama.cpp could not load {path.name}{': ' + detail if detail else ''}.",
            f"llama.cpp 无法加载 {path.name}{'：' + detail if detail else ''}。",
        ),
        say(
            "If memory is short, use a smaller mixture or a smaller --ctx; `--debug` shows llama.cpp's log.",
            "若内存不足，请换更小的量化或更小的 --ctx；`--debug` 可显示 llama.cpp 的日志。",
        ),
    )


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
