"""No signal goes unheard by a program that waits for a key.

Python runs a signal's handler between two of its own steps, or when the signal interrupts a system call. One that comes
after the last step before a read, and before the read itself, does neither: the program would wait for a key that nobody
presses. So each signal is followed by harmless ones, which interrupt the read.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_AFTER_SECONDS = (0.05, 0.1, 0.2, 0.4)  # one might come too early on a machine that is busy


@contextmanager
def every_signal_heard() -> Iterator[None]:
    """For the length of the block, in the main thread. Without effect on Windows, where no signal interrupts a read."""
    if not hasattr(signal, "pthread_kill"):
        yield
        return
    with ExitStack() as ends:  # each step is undone, also where an interrupt comes between two of them
        reader, writer = os.pipe()
        ends.callback(os.close, reader)
        is_over = threading.Event()
        thread = threading.Thread(target=_follow, args=(reader, threading.get_ident(), is_over), daemon=True)
        thread.start()
        ends.callback(thread.join)
        ends.callback(os.close, writer)  # the thread's read is at its end then
        ends.callback(is_over.set)
        os.set_blocking(writer, False)
        handler = signal.signal(signal.SIGURG, lambda number, frame: None)
        ends.callback(signal.signal, signal.SIGURG, signal.SIG_DFL if handler is None else handler)
        ends.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer, warn_on_full_buffer=False))
        yield


def _follow(reader: int, waiting: int, is_over: threading.Event) -> None:
    """Send the thread that waits for keys a signal after each of the others."""
    while numbers := os.read(reader, 64):
        if any(number != signal.SIGURG for number in numbers):
            for seconds in _AFTER_SECONDS:
                if not is_over.wait(seconds):
                    signal.pthread_kill(waiting, signal.SIGURG)
