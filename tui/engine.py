"""The model behind the screen: jobs that run in a worker thread and that the screen watches.

The screen's thread never calls the model. It starts a job, reads the job's fields at its own pace (one attribute or one
deque at a time, so no lock), and sets `cancel`. Only this module would change if the model moved to another process.
llama.cpp is imported by the first job, not before.
"""

import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.tui.conversation import Stop

if TYPE_CHECKING:
    from bq.runtime.fit import Plan
    from bq.runtime.generation import Stats
    from bq.runtime.loading import LoadOptions
    from bq.runtime.model import Model
    from bq.runtime.sampling import Sampling
    from bq.tui.kept_session import KeptSession


class Job(ABC):
    """Work in the worker thread. `done` is set last: whoever sees it set has seen everything.

    `settled` is set by the screen, once it has taken over all that the job brought: only then may the next one begin.
    """

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.error: BqError | None = None
        self.done = False
        self.settled = False

    def run(self, engine: "Engine") -> None:
        """Does the work and raises nothing: what went wrong is in `error`."""
        try:
            self._do(engine)
        except BqError as error:
            self.error = error
        except Exception as error:  # a defect of bq or of llama.cpp: shown, and the app lives on
            self.error = _unexpected(error)
            engine.trace = traceback.format_exc()
        finally:
            self.done = True

    @abstractmethod
    def _do(self, engine: "Engine") -> None: ...


class Loading(Job):
    """Brings the model into memory, and the session if there is one. `progress` goes from 0 to 1."""

    progress = 0.0
    plan = ""  # how it is loaded and what it will take, in a line
    fit = ""  # how far off that was

    def __init__(self, session: "KeptSession | None" = None) -> None:
        super().__init__()
        self._session = session

    def _do(self, engine: "Engine") -> None:
        from bq.runtime.fit_advice import compare
        from bq.runtime.loading import load

        engine.model = load(engine.path, engine.options, self._on_progress, self._on_plan)
        engine.was_loaded = True
        self.fit = compare(engine.model.fit)
        if self._session is not None:
            self._session.restore(engine.model)

    def _on_progress(self, progress: float) -> bool:
        self.progress = progress
        return not self.cancel.is_set()

    def _on_plan(self, plan: "Plan") -> None:
        from bq.runtime.fit_advice import describe

        self.plan = describe(plan)


class Answering(Job):
    """One answer. The screen takes the text as it comes, and reads how far the prompt and the answer are."""

    def __init__(
        self,
        messages: Sequence[Message],
        *,
        sampling: "Sampling | None" = None,
        max_tokens: int | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__()
        self.messages = messages
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.raw = raw  # go on from the text as it is, without roles: all that a Base model can do
        self.stats: Stats | None = None
        self.read = (0, 0)  # tokens of the prompt: read, in all
        self.begun = False  # the first piece of text has come
        self._pieces: deque[str] = deque()

    @property
    def stop(self) -> Stop:
        """How the answer ended, once it is done."""
        if self.error:
            return "cancel" if isinstance(self.error, Cancelled) else "error"
        return cast(Stop, self.stats.stop) if self.stats and self.stats.stop else "end"

    def take(self) -> str:
        """The text that has come since the last call."""
        pieces = []
        while self._pieces:
            pieces.append(self._pieces.popleft())
        return "".join(pieces)

    def _do(self, engine: "Engine") -> None:
        model = engine.model
        if model is None:
            raise BqError(say("No model is loaded.", "尚未加载模型。"))
        if self.raw:
            generation = model.complete(
                self.messages[-1].content,
                sampling=self.sampling,
                max_tokens=self.max_tokens,
                cancel=self.cancel,
                on_prefill=self._on_prefill,
            )
        else:
            generation = model.chat(
                self.messages,
                sampling=self.sampling,
                max_tokens=self.max_tokens,
                cancel=self.cancel,
                on_prefill=self._on_prefill,
            )
        self.stats = generation.stats
        for piece in generation:
            self._pieces.append(piece)
            self.begun = True

    def _on_prefill(self, read: int, total: int) -> None:
        self.read = (read, total)


@dataclass(frozen=True)
class Unsent:
    """What sending the text that is being written would mean, in tokens of the model's own tokenizer."""

    prompt_tokens: int
    budget: int
    dropped_rounds: int


class Engine:
    """The one model of the app. Jobs run one at a time."""

    def __init__(self, path: Path, options: "LoadOptions") -> None:
        self.path = path
        self.options = options
        self.model: Model | None = None
        self.job: Job | None = None  # the one that was started last
        self.was_loaded = False
        self.trace = ""  # of the last error that was no BqError
        self._one_at_a_time = threading.Lock()

    @property
    def busy(self) -> bool:
        return self.job is not None and not self.job.settled

    def work(self, job: Job) -> None:
        """Runs a job to its end; for a worker thread."""
        with self._one_at_a_time:
            job.run(self)

    def measure(self, messages: Sequence[Message], max_tokens: int | None) -> Unsent | None:
        """Counts a prompt exactly, before it is sent; None while a job has the model, or there is none."""
        if not self._one_at_a_time.acquire(blocking=False):
            return None
        try:
            if self.model is None:
                return None
            prompt = self.model.measure(messages, max_tokens)
            return Unsent(len(prompt.ids), prompt.budget, prompt.dropped_rounds)
        except BqError:  # a text beyond all measure: sending it will say so
            return None
        finally:
            self._one_at_a_time.release()

    def stop(self) -> None:
        """Asks the job under way to end."""
        if self.job is not None:
            self.job.cancel.set()

    def rest(self) -> None:
        """Stops what runs and waits for it: one token, or one batch of the prompt."""
        self.stop()
        with self._one_at_a_time:
            return

    def close(self) -> None:
        """Stops what runs, waits for it and frees the model."""
        self.stop()
        with self._one_at_a_time:
            model, self.model = self.model, None
            if model is not None:
                model.close()


def _unexpected(error: Exception) -> BqError:
    return BqError(
        say("Unexpected error", "意外错误") + f": {type(error).__name__}: {error}",
        say("Run `bq chat --debug` for the details.", "详情请运行 `bq chat --debug`。"),
    )
