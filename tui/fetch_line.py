"""The progress line of a download: bytes, rate and time left over all its files, which come several at a time."""

import sys
import threading

from bq.runtime.language import say
from bq.tui.harmless import one_line
from bq.tui.progress import Redrawn, bar, time_left


class FetchLine(Redrawn):
    """`report` and `checked` are for a Watcher, from any thread. What was here at the start does not count for the rate."""

    def __init__(self, total_bytes: int, missing_bytes: int) -> None:
        super().__init__()
        self._total, self._here = total_bytes, total_bytes - missing_bytes
        self._done: dict[str, int] = {}
        self._lock = threading.Lock()

    def report(self, path: str, done: int, total: int) -> None:
        """So many bytes of a file are here."""
        with self._lock:
            self._done[path] = done
            every = sum(self._done.values())
            self.draw(lambda seconds: self._describe(every, seconds))

    def checked(self, path: str, done: int, total: int) -> None:
        """So many bytes of a file were read back for its hash."""
        with self._lock:
            self.draw(lambda _: f"{bar(done / max(1, total))}  " + say(f"checking {path}", f"校验 {path}"))

    def note(self, text: str) -> None:
        """A line that stays, such as what is waited for."""
        with self._lock:
            self.clear()
            print(one_line(text), file=sys.stderr)

    def _describe(self, done: int, seconds: float) -> str:
        rate = max(0, done - self._here) / seconds if seconds else 0.0
        left = f"  {time_left((self._total - done) / rate)}" if rate else ""
        return (
            f"{bar(done / max(1, self._total))}  {amount(done)} / {amount(self._total)}  {rate / 1e6:,.1f} MB/s{left}"
        )


def amount(size: float) -> str:
    """A size as download pages give it: "15.0 GB"."""
    from bq.library.sources.space import bytes_text

    return bytes_text(size)
