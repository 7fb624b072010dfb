"""The model's process: it loads, reads and answers what the app asks for by its pipe, so that an abort of llama.cpp ends it alone.

It ends by itself when the app is gone, however that ended. Its own stdout is the pipe and nothing else's: what C code
prints there goes to stderr, which the app keeps for `--debug`.
"""

import contextlib
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say, set_language
from bq.runtime.openmp import limit_spins
from bq.tui import wire
from bq.tui.wire import Envelope

if TYPE_CHECKING:
    from bq.runtime.fit import LoadOptions, Plan
    from bq.runtime.generation import Generation
    from bq.runtime.model import Model
    from bq.runtime.prompt import Message
    from bq.runtime.sampling import MakeConstraint
    from bq.runtime.values import Stats, Step
    from bq.tui.answer_form import AnswerForm

# Text goes out with the first token after the one, or alone after the other: both are less than the app waits between looks.
GATHER_SECONDS, FLUSH_SECONDS = 0.05, 0.06
_MOST_STEPS = 256  # in one line
_MOST_FORM_CHARACTERS = 1 << 20
_LONGEST_WRITING_SECONDS = 60  # of a KV cache, when the app is gone
MOST_TOP_TOKENS = 1000
STATS_SECONDS = 0.1  # between two tellings of the counts: no one reads them faster


def main() -> None:
    """Serve the app until its pipe closes (bq.tui.remote starts this)."""
    limit_spins()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    _keep_last_words()
    Worker(incoming, outgoing, on_close=lambda: os._exit(0)).run()


def _keep_last_words() -> None:
    """What llama.cpp logs, and where the code was when it crashed, goes to stderr at once: afterwards no one could ask for it."""
    import faulthandler

    from bq.runtime.llama import echo_log

    echo_log(True)
    faulthandler.enable()


@dataclass
class Call:
    """A request under way: whether it is to end, and where to tell what becomes of it."""

    cancel: threading.Event
    tell: Callable[[Any], None]


class Worker:
    """Does one request after the other. What needs no model at rest, a cancellation and writing down messages, waits for none."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, on_close: Callable[[], None]) -> None:
        """`on_close` is called once the app has closed the pipe and no file is being written."""
        self._incoming, self._on_close = incoming, on_close
        self._outbox = Outbox(outgoing)
        self._requests: SimpleQueue[Envelope | None] = SimpleQueue()
        self._cancels: dict[int, threading.Event] = {}
        self._writing = threading.Lock()  # no end, and no other model, while a file is written
        self._model: Model | None = None
        self._held: dict[str, int] = {}

    def run(self) -> None:
        """Serve until the pipe closes."""
        threading.Thread(target=self._listen, daemon=True).start()
        for envelope in iter(self._requests.get, None):
            self._serve(envelope)
        self._free()

    def _listen(self) -> None:
        """In a thread of its own, so that a cancellation arrives whatever the other one does."""
        try:
            for line in wire.lines(self._incoming):
                self._receive(wire.decode(line))
        except (BqError, OSError, ValueError):  # nobody is there, or it is not the app: there is nothing to do for it
            pass
        for cancel in list(self._cancels.values()):
            cancel.set()
        self._requests.put(None)
        self._writing.acquire(timeout=_LONGEST_WRITING_SECONDS)
        self._on_close()
        self._writing.release()

    def _receive(self, envelope: Envelope) -> None:
        if envelope.kind == wire.CANCEL:
            if envelope.id in self._cancels:
                self._cancels[envelope.id].set()
            return
        self._cancels[envelope.id] = threading.Event()
        if _is_messages_alone(envelope):
            threading.Thread(target=self._serve, args=(envelope,), daemon=True).start()
        else:
            self._requests.put(envelope)

    def _serve(self, envelope: Envelope) -> None:
        """Answer a request, by an error if need be; nothing is raised."""
        set_language(envelope.language)
        cancel = self._cancels.get(envelope.id, threading.Event())
        call = Call(cancel, lambda reply: self._outbox.put(envelope.id, reply))
        try:
            call.tell(self._do(wire.open_envelope(envelope, wire.REQUESTS), call))
        except BqError as error:
            call.tell(wire.Failed.of(error))
        except Exception as error:  # a defect of bq or of llama.cpp: told, and the process lives on
            call.tell(_defect(error))
        finally:
            self._cancels.pop(envelope.id, None)

    def _do(self, request: Any, call: Call) -> Any:
        match request:
            case wire.Load():
                return self._load(request, call)
            case wire.Question():
                return self._answer(request, call)
            case wire.Measure():
                return self._measure(request)
            case wire.Examine():
                return self._examine(request)
            case wire.Restore():
                return self._restore(request)
            case wire.Save():
                return self._save(request)
        raise TypeError(type(request))

    def _load(self, request: wire.Load, call: Call) -> wire.Loaded:
        from bq.runtime.fit_advice import compare, describe
        from bq.runtime.llama import listening
        from bq.runtime.loading import load
        from bq.tui.candidates import held_by

        self._free()
        call.tell(wire.Progress(0.0))

        def on_progress(fraction: float) -> bool:
            call.tell(wire.Progress(fraction))
            return not call.cancel.is_set()

        def on_plan(plan: "Plan") -> None:
            log.clear()  # of a try that failed
            call.tell(wire.Planned(describe(plan)))

        with listening() as log:
            model = self._model = load(request.path, _options(request.options), on_progress, on_plan)
        self._held = held_by(model.fit, "".join(text for _, text in log))
        return wire.Loaded(model.info, tuple(model.warnings), compare(model.fit))

    def _answer(self, question: wire.Question, call: Call) -> wire.Answered:
        generation = self._begin(question, call)
        call.tell(wire.Wrote("", (), generation.stats))
        told = time.monotonic()
        for step in generation.steps():
            is_due = time.monotonic() - told >= STATS_SECONDS
            if step.text or question.top_tokens or is_due:
                call.tell(Piece(step, bool(question.top_tokens), generation.stats if is_due else None))
            told = time.monotonic() if is_due else told
        return wire.Answered(generation.stats)

    def _begin(self, question: wire.Question, call: Call) -> "Generation":
        model = self._loaded()
        if question.top_tokens > MOST_TOP_TOKENS:
            from bq.runtime.values import out_of_range

            raise out_of_range("top_tokens", question.top_tokens)
        options: dict[str, Any] = {
            "sampling": question.sampling,
            "max_tokens": question.max_tokens,
            "constraint": _constraint(question.form) if question.form else None,
            "top_tokens": question.top_tokens,
            "cancel": call.cancel,
            "on_prefill": lambda done, total: call.tell(wire.Read(done, total)),
        }
        if question.raw:
            return model.complete(_text_of(question.messages), **options)
        options["think"] = question.think
        return model.chat(question.messages, force=question.force, pinned=question.pinned, **options)

    def _measure(self, request: wire.Measure) -> wire.Unsent:
        model = self._loaded()
        prompt = model.measure(request.messages, request.max_tokens, request.pinned, request.think)
        draft = model.count(request.messages[-1].content)
        return wire.Unsent(len(prompt.ids), prompt.budget, frozenset(prompt.left_out), draft)

    def _examine(self, request: wire.Examine) -> wire.Examined:
        from bq.tui.candidates import examine

        return wire.Examined(examine(request.paths, _options(request.options), self._held))

    def _restore(self, request: wire.Restore) -> wire.Restored:
        session = self._loaded().restore_session(request.path)
        return wire.Restored(session.restored_tokens, session.note)

    def _save(self, request: wire.Save) -> wire.Saved:
        with self._writing:
            return wire.Saved(self._loaded().save_session(request.path, request.messages, request.with_cache))

    def _loaded(self) -> "Model":
        if self._model is None:
            raise BqError(say("No model is loaded.", "尚未加载模型。"))
        return self._model

    def _free(self) -> None:
        with self._writing:
            model, self._model, self._held = self._model, None, {}
            if model is not None:
                model.close()


def _is_messages_alone(envelope: Envelope) -> bool:
    """Whether it asks to write a session without the KV cache, which is at rest only between answers."""
    message = envelope.message
    return envelope.kind == "save" and isinstance(message, dict) and message.get("with_cache") is False


def _text_of(messages: "Sequence[Message]") -> str:
    """What a model without roles goes on from: the last text, and what it has written of the answer."""
    last = [message.content for message in messages[-2:] if message.role != "system"]
    return "".join(last if messages and messages[-1].role == "assistant" else last[-1:])


def _options(given: dict[str, Any]) -> "LoadOptions":
    from bq.runtime.loading import LoadOptions

    options: LoadOptions = wire.unpack(LoadOptions, given)
    return options


def _constraint(form: "AnswerForm") -> "MakeConstraint":
    """Raises UsageError for what can be no form of an answer."""
    from bq.runtime.constraint import by_choices, by_grammar, by_json_schema
    from bq.runtime.json_schema import parse_schema
    from bq.tui.commands.structured import split_choices

    if len(form.text) > _MOST_FORM_CHARACTERS:
        raise UsageError(
            say("The form of the answer is longer than 1 MiB.", "回答格式超过 1 MiB。"),
            say("Use a smaller one.", "请使用更小的。"),
        )
    if form.kind == "choices":
        return by_choices(split_choices((form.text,)))
    return by_grammar(form.text) if form.kind == "grammar" else by_json_schema(parse_schema(form.text))


def _defect(error: Exception) -> wire.Failed:
    return wire.Failed(
        "error",
        say("Unexpected error", "意外错误") + f": {type(error).__name__}: {error}",
        say("Run `bq chat --debug` for the details.", "详情请运行 `bq chat --debug`。"),
        traceback.format_exc(),
    )


# What goes out


@dataclass(frozen=True)
class Piece:
    """A step of an answer on its way out; the `stats`, if it is time for them, grow meanwhile."""

    step: "Step"
    with_steps: bool
    stats: "Stats | None" = None


_GATHERED = (Piece, *wire.MEANWHILE)


class Outbox:
    """Writes replies: at once what the app waits for, text gathered for so long that it is still seen at once.

    The thread that decodes writes itself, which costs the least; another one writes what no later piece takes along in time.
    A token waits for the app only once the pipe is full.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._waiting: deque[tuple[int, Any]] = deque()
        self._some = threading.Event()
        self._flushing = threading.Lock()
        self._flushed = 0.0  # when; on time.monotonic's clock
        threading.Thread(target=self._flush_late, daemon=True).start()

    def put(self, id: int, reply: Any) -> None:
        """Have it written, if need be a little later."""
        self._waiting.append((id, reply))
        if not isinstance(reply, _GATHERED) or time.monotonic() - self._flushed >= GATHER_SECONDS:
            self._flush()
        elif not self._some.is_set():
            self._some.set()

    def _flush(self) -> None:
        with self._flushing:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._flushed = time.monotonic()
            with contextlib.suppress(OSError, ValueError):  # the app is gone, and the listening thread hears of it
                self._stream.write(b"".join(wire.encode(id, reply) for id, reply in together(batch)))
                self._stream.flush()

    def _flush_late(self) -> None:
        while self._some.wait():
            left = self._flushed + FLUSH_SECONDS - time.monotonic()
            if left > 0:
                time.sleep(left)
                continue
            self._some.clear()
            if self._waiting:
                self._flush()


def together(batch: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The same replies with neighbours joined: pieces of a text, and of a progress the last."""
    pieces: list[Piece] = []
    last: tuple[int, Any] | None = None
    for id, reply in batch:
        if isinstance(reply, Piece) and pieces and last is not None and last[0] == id and len(pieces) < _MOST_STEPS:
            pieces.append(reply)
            continue
        if last is not None and not _is_outdated(last, id, reply):
            yield last[0], _joined(pieces) if pieces else last[1]
        last, pieces = (id, reply), [reply] if isinstance(reply, Piece) else []
    if last is not None:
        yield last[0], _joined(pieces) if pieces else last[1]


def _is_outdated(last: tuple[int, Any], id: int, reply: Any) -> bool:
    return last[0] == id and type(last[1]) is type(reply) and isinstance(reply, (wire.Progress, wire.Read))


def _joined(pieces: list[Piece]) -> wire.Wrote:
    steps = tuple(one.step for one in pieces) if pieces[0].with_steps else ()
    stats = next((one.stats for one in pieces if one.stats), None)
    return wire.Wrote("".join(one.step.text for one in pieces), steps, stats)
