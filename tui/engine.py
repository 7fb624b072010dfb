"""The model behind the screen: jobs that run in a worker thread and that the screen watches.

The screen's thread never waits for the model. It starts a job, reads the job's fields at its own pace (one attribute or one
deque at a time, so no lock), and sets `cancel`. The model lives in a process of its own (bq.tui.remote): if that ends, the
job that ran says so in its error, else `lost` does, and the next Loading starts another. Nothing heavy is imported here.
"""

import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.runtime.prompt_format import Think
from bq.runtime.values import Alternative as Alternative  # of this module's jobs, for those who read them
from bq.runtime.values import Stats as Stats
from bq.runtime.values import Step as Step
from bq.tui import remote as pipe
from bq.tui import wire
from bq.tui.conversation import Stop
from bq.tui.remote import Cancel, Remote, RemoteModel
from bq.tui.wire import Candidate as Candidate
from bq.tui.wire import Question as Question
from bq.tui.wire import Unsent as Unsent

if TYPE_CHECKING:
    from bq.runtime.values import LoadOptions
    from bq.tui.kept_session import KeptSession


class Job(ABC):
    """Work in the worker thread. `done` is set last: whoever sees it set has seen everything.

    `settled` is set by the screen, once it has taken over all that the job brought: only then may the next one begin.
    """

    def __init__(self) -> None:
        self.cancel = Cancel()
        self.error: BqError | None = None
        self.done = False
        self.settled = False

    def run(self, engine: "Engine") -> None:
        """Does the work and raises nothing: what went wrong is in `error`."""
        try:
            if self.cancel.is_set():
                raise Cancelled(say("It was stopped before it began.", "尚未开始即已停止。"))
            self._do(engine)
        except BqError as error:
            self.error = error
        except Exception as error:  # a defect of bq: shown, and the app lives on
            self.error = _unexpected(error)
            engine.own_trace = traceback.format_exc()
        finally:
            if self.error is engine.lost:
                engine.lost = None  # it is told here
            self.done = True

    @abstractmethod
    def _do(self, engine: "Engine") -> None: ...


class Loading(Job):
    """Brings a model into memory, and the session if there is one; the model before is freed. `progress` goes from 0 to 1."""

    progress = 0.0
    plan = ""  # how it is loaded and what it will take, in a line
    fit = ""  # how far off that was

    def __init__(self, path: Path, session: "KeptSession | None" = None) -> None:
        super().__init__()
        self.path = path
        self._session = session

    def _do(self, engine: "Engine") -> None:
        remote = engine.begin_loading()
        loaded: wire.Loaded = remote.call(wire.Load(self.path, asdict(engine.options)), self._hear, self.cancel)
        model = RemoteModel(remote, self.path, loaded.info, loaded.warnings)
        self.fit = loaded.fit
        engine.take(model)
        if self._session is not None:
            self._session.restore(model)

    def _hear(self, reply: Any) -> None:
        if isinstance(reply, wire.Progress):
            self.progress = min(1.0, max(0.0, reply.fraction))
        elif isinstance(reply, wire.Planned):
            self.plan = reply.line


class Answering(Job):
    """One answer. The screen takes the text as it comes, and reads how far the prompt and the answer are."""

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question
        self.stats: Stats | None = None
        self.read = (0, 0)  # tokens of the prompt: read, in all
        self.begun = False  # the first piece of text has come
        self._pieces: deque[str] = deque()
        self._steps: deque[Step] = deque()

    @property
    def stop(self) -> Stop:
        """How the answer ended, once it is done."""
        if self.error:
            return "cancel" if isinstance(self.error, Cancelled) else "error"
        return cast(Stop, self.stats.stop) if self.stats and self.stats.stop else "end"

    def take(self) -> str:
        """The text that has come since the last call."""
        return "".join(_taken(self._pieces))

    def take_steps(self) -> list[Step]:
        """The tokens that have come since the last call, with the alternatives that were asked for; their text is `take`'s."""
        return _taken(self._steps)

    def _do(self, engine: "Engine") -> None:
        model = engine.model
        if model is None:
            raise engine.lost or BqError(say("No model is loaded.", "尚未加载模型。"))
        answered: wire.Answered = model.remote.call(self.question, self._hear, self.cancel)
        self.stats = answered.stats

    def _hear(self, reply: Any) -> None:
        if isinstance(reply, wire.Read):
            self.read = (reply.done, reply.total)
        elif isinstance(reply, wire.Wrote):
            self.stats = reply.stats or self.stats
            self._steps.extend(reply.steps)
            if reply.text:
                self._pieces.append(reply.text)
                self.begun = True


class Engine:
    """The one model of the app and the process that it lives in. Jobs run one at a time.

    `died` says that the process ended unasked, `lost` why if no job told it; both until the next Loading.
    """

    def __init__(self, options: "LoadOptions") -> None:
        self.options = options
        self.model: RemoteModel | None = None
        self.job: Job | None = None  # the one that was started last
        self.was_loaded = False
        self.died = False
        self.lost: BqError | None = None
        self.own_trace = ""
        self._remote: Remote | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def busy(self) -> bool:
        return self.job is not None and not self.job.settled

    @property
    def trace(self) -> str:
        """What llama.cpp logged last, and the trace of the last error that was no BqError; for `--debug`."""
        return (self._remote.log + self._remote.trace if self._remote else "") + self.own_trace

    def work(self, job: Job) -> None:
        """Runs a job to its end; for a worker thread."""
        with self._one_at_a_time:
            job.run(self)

    def measure(
        self,
        messages: Sequence[Message],
        max_tokens: int | None,
        pinned: AbstractSet[int] = frozenset(),
        think: Think = "auto",
    ) -> Unsent | None:
        """Counts a prompt exactly, before it is sent; None while a job has the model, or there is none."""
        if not self._one_at_a_time.acquire(blocking=False):
            return None
        try:
            if self.model is None:
                return None
            request = wire.Measure(tuple(messages), max_tokens, frozenset(pinned), think)
            unsent: Unsent = self.model.remote.call(request)
            return unsent
        except BqError:  # a text beyond all measure: sending it will say so
            return None
        finally:
            self._one_at_a_time.release()

    def examine(self, paths: Sequence[Path]) -> list[Candidate]:
        """How these models would be loaded; for a worker thread, and after the job under way. Raises BqError if none can tell."""
        with self._one_at_a_time:
            request = wire.Examine(tuple(paths), asdict(self.options))
            examined: wire.Examined = self._process().call(request)
            return list(examined.candidates)

    def stop(self) -> None:
        """Asks the job under way to end."""
        if self.job is not None:
            self.job.cancel.set()

    def rest(self) -> None:
        """Stops what runs and waits for it: one token, or one batch of the prompt."""
        self.stop()
        with self._at_rest():
            return

    def close(self) -> None:
        """Stops what runs, waits for it, and ends the process with the model. The engine may load again."""
        self.stop()
        with self._at_rest():
            self.model = None
            if self._remote is not None:
                self._remote.close()

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Once what runs has stopped; a process that does not answer what cannot be stopped is ended."""
        if not self._one_at_a_time.acquire(timeout=pipe.PATIENCE_SECONDS):
            if self._remote is not None:
                self._remote.lose_patience()
            self._one_at_a_time.acquire()
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def begin_loading(self) -> Remote:
        """Forgets the model before, which the process frees; starts a process if there is none."""
        self.model, self.died, self.lost = None, False, None
        return self._process()

    def take(self, model: RemoteModel) -> None:
        """A model has been loaded. If its process has ended since, nothing is."""
        self.was_loaded = True
        self.model = model
        if not model.remote.is_alive:
            self.model = None

    def _process(self) -> Remote:
        if self._remote is None or not self._remote.is_alive:
            self._remote = Remote(self._on_end)
        return self._remote

    def _on_end(self, remote: Remote, error: BqError, is_told: bool) -> None:
        if remote is self._remote:
            self.model, self.died = None, True
            self.lost = None if is_told else error


def _taken(waiting: "deque[Any]") -> list[Any]:
    return [waiting.popleft() for _ in range(len(waiting))]


def _unexpected(error: Exception) -> BqError:
    return BqError(
        say("Unexpected error", "意外错误") + f": {type(error).__name__}: {error}",
        say("Run `bq chat --debug` for the details.", "详情请运行 `bq chat --debug`。"),
    )
