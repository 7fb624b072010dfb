"""The progress line of a conversion: tensor, speed, time left. Silent where no one watches."""

import sys
import time

from bq.convert.write import Progress
from bq.runtime.language import say

_EVERY_SECONDS = 0.1
_BAR = 24


class ProgressLine:
    """Redraws one line on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()
        self._begun = time.monotonic()
        self._drawn = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        is_last = progress.weights_done == progress.weights
        if not self._is_on or (now - self._drawn < _EVERY_SECONDS and not is_last):
            return
        self._drawn = now
        sys.stderr.write("\r\x1b[K" + describe(progress, now - self._begun))
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line for what comes next."""
        if self._is_on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def describe(progress: Progress, seconds: float) -> str:
    """The line after `seconds` of work."""
    done = progress.weights_done / progress.weights
    left = seconds / done - seconds if done else 0.0
    bar = "█" * int(done * _BAR) + "░" * (_BAR - int(done * _BAR))
    speed = progress.bytes_written / 1e6 / seconds if seconds else 0.0
    clock = f"{int(left) // 60}:{int(left) % 60:02d}"
    return f"{bar} {done:4.0%}  {progress.tensor}  {speed:,.0f} MB/s  " + say(f"{clock} left", f"剩余 {clock}")
