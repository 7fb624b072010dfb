"""Many prompts through parallel sequences of one context.

One decode carries the next token of every running answer and as many prompt tokens of new ones as fit into the batch; a
sequence whose answer ends is taken by the next prompt at once. What prompts begin with in common (a system text, an
instruction) is decoded once and shared. An answer is let in where the cache has room for its prompt and about as many
tokens as answers have had; should the cache be full all the same, the youngest answer gives its cells up and goes on later
where it was.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from bq.runtime.ending import answer_limit, reason_to_stop
from bq.runtime.engine import ABORTED, MOST_OUTPUTS, NO_SLOT, Engine, decode_error
from bq.runtime.errors import BqError
from bq.runtime.generation import Options
from bq.runtime.language import say
from bq.runtime.llama import library, log_position
from bq.runtime.model import Model
from bq.runtime.sampling import Sampler, Sampling
from bq.runtime.sequences import Part, Sequences, common_prefix
from bq.runtime.text_stream import StopStrings, TextStream

_WORTH_WAITING = 32  # tokens: a prompt waits for another's decode if it can share so many more of them afterwards
_FIRST_GUESS = 128  # tokens of an answer, while none has ended
_LEAST_AHEAD = 16  # tokens that an answer is taken to need still, however long it is already


@dataclass(frozen=True)
class Job:
    """One prompt; `key` comes back with its result, whose text begins with `opens` (as in Prompt).

    Of the options, `cancel`, `draft`, `think` and `top_tokens` mean nothing here.
    """

    key: int
    ids: tuple[int, ...]
    options: Options = field(default_factory=Options)
    opens: str = ""


@dataclass(frozen=True)
class Result:
    """One answer. `stop` is as in Stats, or "error": then `error` says in one line what was wrong with this job alone."""

    key: int
    text: str
    stop: str
    prompt_tokens: int
    ids: tuple[int, ...] = ()
    error: str = ""

    @property
    def tokens(self) -> int:
        """How many tokens the answer has."""
        return len(self.ids)


@dataclass
class Counts:
    """What a run has done so far, in tokens; `steps` are calls of llama_decode, `put_back` answers that gave way."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    put_back: int = 0


def run_batch(
    model: Model,
    jobs: Iterable[Job],
    parallel: int,
    cancel: threading.Event | None = None,
    on_step: Callable[[Counts], None] | None = None,
) -> Iterator[Result]:
    """Answer the jobs, up to `parallel` at once (as far as the model was loaded for); results come as they are finished.

    Jobs are taken from the iterable only when there is room for them. Without a seed of its own a job draws at random. Ends
    early if `cancel` is set. Whenever the iterator ends or is closed, the model's cache is empty. Raises BqError if llama.cpp
    fails.
    """
    engine = model._engine
    if engine is None:
        raise RuntimeError("the model is closed")
    most = min(parallel, MOST_OUTPUTS, int(library().llama_n_seq_max(engine.context)))
    run = _Run(engine, _with_defaults(jobs, model), most, model.info.context, cancel)
    engine.take_over()
    try:
        yield from run.results(on_step)
    finally:
        run.close()
        if engine.context is not None:
            engine.take_over()


def _with_defaults(jobs: Iterable[Job], model: Model) -> Iterator[Job]:
    for job in jobs:
        yield replace(job, options=job.options.with_defaults(model.info.sampling, model.info.max_new_tokens))


class _Answer:
    """One job on its way: the ids so far, what draws the next, and the text."""

    def __init__(self, job: Job, engine: Engine, context: int) -> None:
        self.job, self._engine = job, engine
        self.ids = list(job.ids)
        self.tokens = 0
        self.stop = self.error = ""
        options, tokenizer = job.options, engine.tokenizer
        constraint = options.constraint(tokenizer) if options.constraint else None
        self._sampler = Sampler(options.sampling or Sampling(), len(tokenizer), job.ids, constraint)
        self._stream = TextStream(strip_space=tokenizer.add_dummy_prefix)
        self._stops = StopStrings(options.stop)
        self._pieces: list[str] = []
        self._room = context - len(job.ids)
        self.limit = answer_limit(options.max_tokens, self._room, constraint)

    def draw(self, output: int) -> None:
        """Draw the next token from this output of the last decode; `stop` then says whether it was the last."""
        try:
            token = self._next_token(output)
        except BqError as error:
            self.stop, self.error = "error", str(error)
            return
        if token is None or self._engine.is_end(token):
            self.stop = "end" if token is not None else "incomplete"
            return
        self.tokens += 1
        self.ids.append(token)
        self._pieces.append(self._stops.add(self._stream.add(self._engine.tokenizer.piece(token))))
        going = reason_to_stop(self._sampler.constraint, self.tokens, self.limit, self._room)
        self.stop = "stop" if self._stops.found else going

    def _next_token(self, output: int) -> int | None:
        context = self._engine.context
        if self.tokens < self.limit:
            return self._sampler.sample(context, output)
        return self._sampler.close_soon(context, output)

    def result(self) -> Result:
        """The finished answer."""
        text = "".join((self.job.opens, *self._pieces, self._stops.finish(self._stream.finish())))
        length = len(self.job.ids)
        return Result(self.job.key, text, self.stop, length, tuple(self.ids[length:]), self.error)

    def close(self) -> None:
        self._sampler.close()


class _Run:
    """The answers under way and those that wait."""

    def __init__(
        self, engine: Engine, jobs: Iterator[Job], parallel: int, context: int, cancel: threading.Event | None
    ) -> None:
        self._engine, self._jobs, self._cancel = engine, jobs, cancel
        self._cache = Sequences(engine, parallel)
        self._parallel, self._context = parallel, context
        self._running: dict[int, _Answer] = {}  # by sequence, the oldest first
        self._waiting: deque[_Answer] = deque()
        self._ended = self._ended_tokens = 0
        self.counts = Counts()

    def results(self, on_step: Callable[[Counts], None] | None) -> Iterator[Result]:
        while True:
            yield from self._let_in()
            if not self._running or self._is_cancelled() or not self._step():
                return
            if on_step is not None:
                on_step(self.counts)
            yield from self._finished()

    def close(self) -> None:
        for answer in (*self._running.values(), *self._waiting):
            answer.close()

    def _is_cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.is_set()

    def _let_in(self) -> Iterator[Result]:
        """Give free sequences to waiting answers and new jobs; a job that cannot be answered is a result at once."""
        while len(self._running) < self._parallel:
            if not self._waiting:
                job = next(self._jobs, None)
                if job is None:
                    return
                refused = self._take_in(job)
                if refused is not None:
                    yield refused
                    continue
            if not self._has_room(self._waiting[0]) or self._shares_soon(self._waiting[0]):
                return
            self._place(self._waiting.popleft())

    def _take_in(self, job: Job) -> Result | None:
        try:
            if not 0 < len(job.ids) < self._context:
                raise _no_room(len(job.ids), self._context)
            self._waiting.append(_Answer(job, self._engine, self._context))
        except BqError as error:
            return Result(job.key, "", "error", len(job.ids), error=str(error))
        return None

    def _has_room(self, new: _Answer) -> bool:
        """Whether the cache takes one more answer, if all become about as long as others were. One alone always fits."""
        if not self._running:
            return True
        cache, running = self._cache, self._running
        shared = max(cache.common(sequence, new.ids) for sequence in running)
        need = len(new.ids) - shared + self._ahead(new)
        for sequence, answer in running.items():
            need += len(answer.ids) - cache.used(sequence) + self._ahead(answer)
        return cache.cells(running) + need <= self._engine.size

    def _ahead(self, answer: _Answer) -> int:
        """The tokens that an answer is taken to need still: up to half as much again as answers had on average."""
        usual = 3 * self._ended_tokens // (2 * self._ended) if self._ended else _FIRST_GUESS
        return max(_LEAST_AHEAD, min(answer.limit, usual) - answer.tokens)

    def _shares_soon(self, new: _Answer) -> bool:
        """Whether a running answer is about to decode a good part of what the new one begins with."""
        has = max(self._cache.common(sequence, new.ids) for sequence in range(self._parallel))
        coming = max((common_prefix(one.ids, new.ids) for one in self._running.values()), default=0)
        return coming >= has + _WORTH_WAITING

    def _place(self, answer: _Answer) -> None:
        """The prompt's last token is decoded in any case, for its logits."""
        known = answer.ids[:-1]
        free = [sequence for sequence in range(self._parallel) if sequence not in self._running]
        sequence = max(free, key=lambda one: self._cache.common(one, known))
        reused = self._cache.begin(sequence, known)
        if answer.tokens == 0:
            self.counts.prompt_tokens += len(answer.ids)
            self.counts.reused_tokens += reused
        self._running[sequence] = answer

    def _step(self) -> bool:
        """Decode once and draw a token for each answer whose ids are all decoded; False if it was cancelled."""
        parts = self._decode()
        if parts is None:
            return False
        self.counts.steps += 1
        output = -1
        for part in parts:
            output += len(part.tokens)
            if part.output:
                answer = self._running[part.sequence]
                before = answer.tokens
                answer.draw(output)
                self.counts.tokens += answer.tokens - before
        return True

    def _decode(self) -> list[Part] | None:
        """Decode what comes next, or as much of it as the cache has room for; None if it was cancelled."""
        while True:
            parts = self._parts()
            is_short = len(parts) == sum(len(part.tokens) for part in parts)
            mark = log_position()
            result = self._cache.decode(parts, None if is_short else self._cancel)
            if result == 0:
                return parts
            if result == ABORTED:
                return None
            if result != NO_SLOT or not self._make_room():
                raise decode_error(result, mark)

    def _parts(self) -> list[Part]:
        """The next token of every answer, then the prompts, the oldest first, as far as the batch goes."""
        room = self._cache.most_tokens
        parts = []
        behind = {sequence: len(one.ids) - self._cache.used(sequence) for sequence, one in self._running.items()}
        for sequence in sorted(behind, key=lambda one: behind[one] > 1):
            size = min(behind[sequence], room)
            if size:
                at = self._cache.used(sequence)
                tokens = self._running[sequence].ids[at : at + size]
                parts.append(Part(sequence, tokens, output=size == behind[sequence]))
                room -= size
        return parts

    def _make_room(self) -> bool:
        """Empty a sequence that no answer uses, else put the youngest answer back; False if there is only one."""
        for sequence in range(self._parallel):
            if sequence not in self._running and self._cache.used(sequence):
                self._cache.drop(sequence)
                return True
        if len(self._running) < 2:
            return False
        sequence, answer = self._running.popitem()
        self._cache.drop(sequence)
        self._waiting.appendleft(answer)
        self.counts.put_back += 1
        return True

    def _finished(self) -> Iterator[Result]:
        for sequence in [sequence for sequence, answer in self._running.items() if answer.stop]:
            answer = self._running.pop(sequence)
            self._ended += 1
            self._ended_tokens += answer.tokens
            answer.close()
            yield answer.result()


def _no_room(tokens: int, size: int) -> BqError:
    return BqError(
        say(
            f"The prompt has {tokens} tokens, the context {size}.", f"提示有 {tokens} 个词元，而上下文只有 {size} 个。"
        ),
        say("Shorten it, or use a larger --ctx.", "请缩短，或使用更大的 --ctx。"),
    )
