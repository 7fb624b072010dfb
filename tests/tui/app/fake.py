"""Plays `bq.runtime.loading` for the tests of the screen; how far it gets and what fails is up to the test.

The model's process is a thread here: all between the screen and the model, the pipe included, is real.
"""

import contextlib
import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.memory import HOST, Estimate, Use
from bq.runtime.prompt import Message, Prompt, measure_prompt
from bq.runtime.prompt_format import Think, baichuan_format
from bq.runtime.values import Alternative, Sampling, Stats, Step
from bq.runtime.values import ModelInfo as RealInfo
from bq.tui.wire import Candidate, Question
from bq.tui.worker import Call, Worker


@dataclass(frozen=True)
class LoadOptions:
    ctx: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None


def ModelInfo(**changes: Any) -> RealInfo:
    """A 7B, with what the test wants otherwise."""
    usual: dict[str, Any] = {
        "name": "Baichuan2-7B-Chat",
        "variant": "chat",
        "mixture": "Q4_K_M",
        "size_bytes": 4_600_000_000,
        "context": 4096,
        "sampling": Sampling(),
        "max_new_tokens": 2048,
    }
    return RealInfo(**{**usual, **changes})


FIT = SimpleNamespace(
    plan=SimpleNamespace(estimate=Estimate((Use(HOST, 4 << 30, 512 << 20, 128 << 20),)), mlock=False),
    used=Estimate((Use(HOST, 4 << 30, 512 << 20, 100 << 20),)),
    failed=(),
)


class Gate:
    """A place where the fake waits until the test lets it go on, or stops it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def passes(self, stopped: Callable[[], bool]) -> bool:
        """Waits; False if it was stopped."""
        while not self._open.wait(0.005):
            if stopped():
                return False
        return not stopped()


@dataclass
class Fake:
    info: RealInfo = field(default_factory=ModelInfo)
    warnings: tuple[str, ...] = ()
    answers: list[str | BqError] = field(default_factory=list)  # one for each question; a default when used up
    load_error: Exception | None = None
    plan: Any = None  # of the loading, a real one
    error_at: int | None = None  # fails after so many pieces
    stop: str = "end"
    dropped_rounds: int = 0
    context_used: int = 0
    loading: Gate = field(default_factory=Gate)  # half-way through the loading
    reading: Gate = field(default_factory=Gate)  # half-way through the prompt
    writing: Gate = field(default_factory=Gate)  # after `hold_after` pieces
    hold_after: int = 3
    piece_seconds: float = 0.0
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)  # the last question's fields
    candidates: dict[Path, Candidate] = field(default_factory=dict)  # what the picker finds; all others fit
    processes: "list[FakeProcess]" = field(default_factory=list)
    saved: list[tuple[Message, ...]] = field(default_factory=list)  # sessions that were written
    copied: list[str] = field(default_factory=list)  # by the desktop's tool
    open_models: int = 0

    def load(
        self,
        path: Path,
        options: Any,
        progress: Callable[[float], bool],
        on_plan: Callable[[Any], None] = lambda _: None,
    ) -> "FakeModel":
        if self.plan is not None:
            on_plan(self.plan)
        for step in range(11):
            if step == 5:
                self.loading.passes(lambda: not progress(0.5))
            if not progress(step / 10):
                raise Cancelled("Loading was stopped.")
        if self.load_error:
            raise self.load_error
        self.open_models += 1
        return FakeModel(self)

    def start_worker(self) -> "FakeProcess":
        self.processes.append(FakeProcess(self))
        return self.processes[-1]

    def die(self, status: int = -6) -> None:
        """The model's process ends unasked."""
        self.processes[-1].die(status)

    def examine(self, paths: Sequence[Path], options: Any, held: Any) -> tuple[Candidate, ...]:
        usual = {"variant": "chat", "mixture": "Q4_K_M", "size_bytes": 4_600_000_000, "layers": 33, "context": 4096}
        figures = {"plan": "Memory: enough", "estimate_bytes": 5 << 30, "free_bytes": 8 << 30, "fits": True}
        made: Any = {**usual, **figures}
        return tuple(self.candidates.get(path, Candidate(path, name=path.stem, **made)) for path in paths)

    def release(self) -> None:
        for gate in (self.loading, self.reading, self.writing):
            gate.open()


class FakeProcess:
    """What bq.tui.remote needs of a process; it is a thread, so what ends it are its pipes."""

    pid = 0

    def __init__(self, fake: Fake) -> None:
        asked, ask = os.pipe()
        hear, told = os.pipe()
        self.stdin, self.stdout, self.stderr = os.fdopen(ask, "wb"), os.fdopen(hear, "rb"), io.BytesIO()
        self._told = os.fdopen(told, "wb")
        self._status: int | None = None
        # Its threads, one of which does not end, keep the stderr of their beginning: Textual's has the app and all its widgets.
        with contextlib.redirect_stderr(sys.__stderr__):
            worker = _Worker(fake, os.fdopen(asked, "rb"), self._told)
        self._thread = threading.Thread(target=worker.run, daemon=True)
        self._thread.start()

    def die(self, status: int) -> None:
        self._status = status
        self._told.close()

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise subprocess.TimeoutExpired("fake", timeout or 0)
            self._status = 0
            self._told.close()
        return self._status

    def terminate(self) -> None:
        self.die(-15)

    kill = terminate


class _Worker(Worker):
    """Remembers what was asked."""

    def __init__(self, fake: Fake, incoming: Any, outgoing: Any) -> None:
        super().__init__(incoming, outgoing, on_close=lambda: None)
        self._fake = fake

    def _begin(self, question: Question, call: Call) -> Any:
        self._fake.keywords = {**vars(question)}
        return super()._begin(question, call)


class FakeModel:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.info = fake.info
        self.fit = FIT
        self.warnings = fake.warnings

    def count(self, text: str) -> int:
        return len(text)

    def measure(
        self,
        messages: Sequence[Message],
        max_tokens: int | None = None,
        pinned: AbstractSet[int] = frozenset(),
        think: Think = "auto",
    ) -> Prompt:
        """A character is a token here; the policy is the real one."""
        budget = self.info.context // 2
        return measure_prompt(messages, lambda text: [0] * len(text), baichuan_format(), budget, pinned=pinned)

    def chat(
        self, messages: Sequence[Message], force: bool, pinned: AbstractSet[int], **keywords: Any
    ) -> "FakeGeneration":
        if self.info.variant == "base" and not force:
            raise BqError("A Base model does not chat.", "Use the Chat release.")
        self._fake.asked.append(tuple(messages))
        return FakeGeneration(self._fake, keywords)

    def complete(self, text: str, **keywords: Any) -> "FakeGeneration":
        self._fake.completed.append(text)
        return FakeGeneration(self._fake, keywords)

    def save_session(self, path: Path, messages: Sequence[Message], with_cache: bool = True) -> int:
        self._fake.saved.append(tuple(messages))
        return 0

    def close(self) -> None:
        self._fake.open_models -= 1


class FakeGeneration:
    def __init__(self, fake: Fake, keywords: dict[str, Any]) -> None:
        self._fake, self._cancel, self._on_prefill = fake, keywords["cancel"], keywords["on_prefill"]
        self._top = keywords["top_tokens"]
        self.stats = Stats(prompt_tokens=10, context_used=10, dropped_rounds=fake.dropped_rounds)
        answer = fake.answers.pop(0) if fake.answers else "An answer. It is long enough to be held."
        if isinstance(answer, BqError):
            raise answer
        self._pieces = cut(answer)

    def steps(self) -> Iterator[Step]:
        self.stats.stop = self._fake.stop
        self._on_prefill(4, 10)
        if not self._fake.reading.passes(self._cancel.is_set):
            self.stats.stop = "cancel"
            return
        self._on_prefill(10, 10)
        for number, piece in enumerate(self._pieces):
            if number == self._fake.error_at:
                raise BqError("The engine broke.", "Try again.")
            if self._cancel.wait(self._fake.piece_seconds) or (
                number == self._fake.hold_after and not self._fake.writing.passes(self._cancel.is_set)
            ):
                self.stats.stop = "cancel"
                return
            self.stats.tokens += 1
            self.stats.decode_seconds = self.stats.tokens / 12.5
            self.stats.context_used = self._fake.context_used or 10 + self.stats.tokens
            yield self._step(number, piece)

    def _step(self, number: int, piece: str) -> Step:
        """With alternatives, each half as likely as the one before; the first of them is the piece itself."""
        named = [piece, *(f"other{rank}" for rank in range(1, self._top))][: self._top]
        others = tuple(Alternative(number, name.encode(), -0.5 - 0.7 * rank) for rank, name in enumerate(named))
        return Step(piece, number, others[0] if others else None, others)


def cut(text: str) -> list[str]:
    """The text in pieces of one to six characters, always the same ones."""
    dice = random.Random(len(text))
    pieces = []
    while text:
        size = dice.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    return pieces
