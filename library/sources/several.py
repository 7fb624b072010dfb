"""Several files at a time, a few threads of them, stopped at once by Ctrl+C, by `cancel`, or by the first failure."""

import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from bq.library.sources.source import RemoteFile, Watcher

THREADS = 4  # a single connection rarely fills a line; many are what servers answer 429 to
_LOOK_SECONDS = 0.1
_LEAVE_SECONDS = 1.0


def each(files: Iterable[RemoteFile], work: Callable[[RemoteFile, Watcher], None], watcher: Watcher) -> None:
    """Do `work` for each file, the smallest first: they tell soonest what is wrong. Raises what the first failure raised.

    The threads are daemons: one that hangs in a read does not keep the program from ending.
    """
    waiting: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    for file in sorted(files, key=lambda file: (file.size, file.path)):
        waiting.put(file)
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    inner = replace(watcher, cancel=threading.Event())
    arguments = (waiting, work, inner, ended)
    threads = [
        threading.Thread(target=_work, args=arguments, daemon=True) for _ in range(min(THREADS, waiting.qsize()))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            _wait(ended, watcher)
    finally:
        inner.cancel.set()
        until = time.monotonic() + _LEAVE_SECONDS
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0))


def _wait(ended: "queue.SimpleQueue[BaseException | None]", watcher: Watcher) -> None:
    """Wait for the next thread to end, and raise what ended it."""
    while True:
        watcher.stop_if_cancelled()
        try:
            failure = ended.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        if failure is not None:
            raise failure
        return


def _work(
    waiting: "queue.SimpleQueue[RemoteFile]",
    work: Callable[[RemoteFile, Watcher], None],
    watcher: Watcher,
    ended: "queue.SimpleQueue[BaseException | None]",
) -> None:
    try:
        while not watcher.cancel.is_set():
            work(waiting.get_nowait(), watcher)
    except queue.Empty:
        ended.put(None)
    except BaseException as failure:  # whatever it is, the caller has to hear of it
        ended.put(failure)
    else:
        ended.put(None)
