"""The progress line of long work: a bar, what is done, speed, time left. Silent where no one watches."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bq.runtime.language import say
from bq.tui.table import cut

if TYPE_CHECKING:
    from bq.convert.write import Progress

_EVERY_SECONDS = 0.1
_BAR = 24


class Redrawn:
    """One line on stderr that is drawn again and again, if stderr is a terminal."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._drawn = 0.0

    @property
    def seconds(self) -> float:
        """Since the work began."""
        return time.monotonic() - self._begun

    def draw(self, describe: Callable[[float], str], is_last: bool = False) -> None:
        """Draw what `describe` says after so many seconds of work, ten times a second at most, the last one always."""
        now = time.monotonic()
        if not self._is_on or (now - self._drawn < _EVERY_SECONDS and not is_last):
            return
        self._drawn = now
        columns = shutil.get_terminal_size().columns
        sys.stderr.write("\r\x1b[K" + cut(describe(self.seconds), columns - 1))  # a line that wraps cannot be redrawn
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._is_on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class ProgressLine(Redrawn):
    """The line of a conversion."""

    def __call__(self, progress: "Progress") -> None:
        self.draw(lambda seconds: describe(progress, seconds), progress.weights_done == progress.weights)


def bar(done: float) -> str:
    """A bar for the part of the work that is done, and the same in percent."""
    return "█" * int(done * _BAR) + "░" * (_BAR - int(done * _BAR)) + f" {done:4.0%}"


def time_left(seconds: float) -> str:
    """Minutes and seconds that the work will still take."""
    clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    return say(f"{clock} left", f"剩余 {clock}")


def describe(progress: "Progress", seconds: float) -> str:
    """The line of a conversion after `seconds` of work."""
    done = progress.weights_done / progress.weights
    left = seconds / done - seconds if done else 0.0
    speed = progress.bytes_written / 1e6 / seconds if seconds else 0.0
    return f"{bar(done)}  {progress.tensor}  {speed:,.0f} MB/s  {time_left(left)}"
