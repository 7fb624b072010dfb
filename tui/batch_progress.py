"""How far a batch is, and its answers on stdout in the order of the input."""

import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bq.runtime.language import say
from bq.tui.batch_journal import encode
from bq.tui.progress import Redrawn, bar, time_left

if TYPE_CHECKING:
    from bq.runtime.batch import Counts


class Sink(Protocol):
    """Where answers go; `done` are the numbers of the lines it has, `failed` those of them that are errors."""

    failed: set[int]

    @property
    def done(self) -> Collection[int]: ...

    def add(self, answer: Mapping[str, Any]) -> None: ...

    def tick(self) -> None: ...


class Printer:
    """Prints answers in the order of the input, each as soon as all before it are there."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = iter(numbers)
        self._next = next(self._numbers, None)
        self._waiting: dict[int, bytes] = {}
        self._done: set[int] = set()
        self.failed: set[int] = set()

    @property
    def done(self) -> Collection[int]:
        return self._done

    def add(self, answer: Mapping[str, Any]) -> None:
        line = answer["line"]
        self._waiting[line] = encode(answer)
        self._done.add(line)
        if answer["stop"] == "error":
            self.failed.add(line)
        while self._next in self._waiting:
            sys.stdout.buffer.write(self._waiting.pop(self._next))
            self._next = next(self._numbers, None)
        sys.stdout.buffer.flush()

    def tick(self) -> None:
        """Nothing waits for the disk."""


class Progress(Redrawn):
    """Draws how far a batch is, and keeps the counts for the end."""

    def __init__(self, sink: Sink, total: int) -> None:
        super().__init__()
        self._sink, self._total, self._before = sink, total, len(sink.done)
        self._counts: Counts | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, counts: "Counts") -> None:
        self._sink.tick()
        self._counts = counts
        self.draw(self._describe)

    def _describe(self, seconds: float) -> str:
        done, tokens = len(self._sink.done), self._counts.tokens if self._counts else 0
        return describe(done, self._total, done - self._before, tokens, seconds)

    def report(self) -> None:
        """Print the counts of the whole run."""
        if self._counts is None:
            return
        counts, seconds = self._counts, self.seconds
        lines = len(self._sink.done) - self._before
        print(
            say(
                f"{lines} lines in {seconds:.1f} s, {lines / seconds:.2f} per second; prompts {counts.prompt_tokens} tokens, "
                f"{counts.reused_tokens} reused; answers {counts.tokens} tokens, {counts.tokens / seconds:.1f} tokens/s; "
                f"{counts.put_back} put back",
                f"{seconds:.1f} 秒内 {lines} 行，每秒 {lines / seconds:.2f} 行；提示 {counts.prompt_tokens} 词元，"
                f"复用 {counts.reused_tokens}；回答 {counts.tokens} 词元，{counts.tokens / seconds:.1f} 词元/秒；"
                f"退回 {counts.put_back} 次",
            ),
            file=sys.stderr,
        )


def describe(done: int, total: int, done_now: int, tokens: int, seconds: float) -> str:
    """The line of progress after `seconds` of work in which `done_now` of the `done` lines were answered."""
    speed = tokens / seconds if seconds else 0.0
    line = f"{bar(done / total)}  {done}/{total}  " + say(f"{speed:,.1f} tokens/s", f"{speed:,.1f} 词元/秒")
    return f"{line}  {time_left(seconds / done_now * (total - done))}" if done_now else line
