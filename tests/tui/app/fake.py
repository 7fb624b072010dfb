"""Plays `bq.runtime.loading` for the tests of the screen; how far it gets and what fails is up to the test."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bq.runtime.errors import BqError, Cancelled
from bq.runtime.memory import HOST, Estimate, Use
from bq.runtime.prompt import Message, Prompt, Roles, measure_prompt


@dataclass(frozen=True)
class LoadOptions:
    ctx: int | None = None
    threads: int | None = None
    gpu_layers: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    name: str = "Baichuan2-7B-Chat"
    variant: str = "chat"
    mixture: str = "Q4_K_M"
    size_bytes: int = 4_600_000_000
    context: int = 4096
    sampling: Any = None
    max_new_tokens: int = 2048


FIT = SimpleNamespace(
    plan=SimpleNamespace(estimate=Estimate((Use(HOST, 4 << 30, 512 << 20, 128 << 20),))),
    used=Estimate((Use(HOST, 4 << 30, 512 << 20, 100 << 20),)),
    failed=(),
)


@dataclass
class Stats:
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
        return 12.5


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
    info: ModelInfo = ModelInfo()
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
    keywords: dict[str, Any] = field(default_factory=dict)
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

    def release(self) -> None:
        for gate in (self.loading, self.reading, self.writing):
            gate.open()


class FakeModel:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.info = fake.info
        self.fit = FIT
        self.warnings = fake.warnings

    def count(self, text: str) -> int:
        return len(text)

    def measure(self, messages: Sequence[Message], max_tokens: int | None = None) -> Prompt:
        """A character is a token here; the policy is the real one."""
        return measure_prompt(messages, lambda text: [0] * len(text), Roles(), self.info.context // 2)

    def chat(self, messages: Sequence[Message], **keywords: Any) -> "FakeGeneration":
        if self.info.variant == "base":
            raise BqError("A Base model does not chat.", "Use the Chat release.")
        self._fake.asked.append(tuple(messages))
        self._fake.keywords = keywords
        return FakeGeneration(self._fake, keywords["cancel"], keywords["on_prefill"])

    def complete(self, text: str, **keywords: Any) -> "FakeGeneration":
        self._fake.completed.append(text)
        return FakeGeneration(self._fake, keywords["cancel"], keywords["on_prefill"])

    def close(self) -> None:
        self._fake.open_models -= 1


class FakeGeneration:
    def __init__(self, fake: Fake, cancel: threading.Event, on_prefill: Callable[[int, int], None]) -> None:
        self._fake, self._cancel, self._on_prefill = fake, cancel, on_prefill
        self.stats = Stats(prompt_tokens=10, context_used=10, dropped_rounds=fake.dropped_rounds)
        answer = fake.answers.pop(0) if fake.answers else "An answer. It is long enough to be held."
        if isinstance(answer, BqError):
            raise answer
        self._pieces = cut(answer)

    def __iter__(self) -> Iterator[str]:
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
            self.stats.context_used = self._fake.context_used or 10 + self.stats.tokens
            yield piece


def cut(text: str) -> list[str]:
    """The text in pieces of one to six characters, always the same ones."""
    dice = random.Random(len(text))
    pieces = []
    while text:
        size = dice.randint(1, 6)
        pieces.append(text[:size])
        text = text[size:]
    return pieces
