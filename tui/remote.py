"""The app's end of the pipe to the model's process: starts it, asks it, hears it, and ends it. bq.tui.worker is the other end.

Whatever becomes of that process, whoever waits for a reply gets one or a BqError. Nothing of llama.cpp is imported here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bq.runtime.errors import BqError
from bq.runtime.language import get_language, say
from bq.runtime.prompt import Message
from bq.runtime.session_file import SessionFile
from bq.runtime.values import ModelInfo
from bq.tui import wire

PATIENCE_SECONDS = 20  # for a request that was cancelled; then the process is ended
_LOOK_SECONDS = 1.0
_END_SECONDS = 5  # for a process that was asked to end, before it is made to
_LAST_WORDS = 1 << 16  # bytes of stderr
# Nothing is imported from the folder that the app was started in, which `-m` would do; and Ctrl+C is the app's alone.
_CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:] = [folder for folder in sys.path if folder]; from bq.tui.worker import main; main()"
)
_NO_DEBUGGER = {"GGML_NO_BACKTRACE": "1"}  # an abort would start one first, and wait for it


class ProcessEnded(BqError):
    """The model's process is gone, and the model with it."""


class Cancel(threading.Event):
    """An event that also tells, when it is set, whoever cannot wait for it. To set it twice does no harm."""

    def __init__(self) -> None:
        super().__init__()
        self.tell: Callable[[], None] = lambda: None

    def set(self) -> None:
        super().set()
        self.tell()


@dataclass
class _Call:
    """A request under way."""

    hear: Callable[[Any], None]
    is_job: bool
    reply: Any = None
    error: BqError | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def end(self, reply: Any = None, error: BqError | None = None) -> None:
        self.reply, self.error = reply, error
        self.ended.set()


def start_worker() -> "subprocess.Popen[bytes]":
    """The model's process. Raises BqError if the system starts none."""
    own_group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # Windows: no Ctrl+C for it
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_NO_DEBUGGER, **os.environ},
            creationflags=own_group,
        )
    except OSError as error:
        raise BqError(
            say(f"The model's process cannot be started: {error}.", f"无法启动模型进程：{error}。"),
            say("Close other programs, then Ctrl+R tries again.", "请关闭其他程序，再按 Ctrl+R 重试。"),
        ) from None


class Remote:
    """One process. `on_end` hears once, in a thread of its own, that it ended unasked, why, and whether a job was told."""

    def __init__(self, on_end: Callable[["Remote", BqError, bool], None]) -> None:
        self.process = start_worker()
        self._on_end = on_end
        self._calls: dict[int, _Call] = {}
        self._next_id = 0
        self._lock = threading.Lock()  # of the calls
        self._sending = threading.Lock()
        self.ended_by: BqError | None = None  # how the process ended, or what it said that makes no sense
        self.trace = ""  # of the last error that was no BqError
        self._broken: BqError | None = None  # why it was ended by this side
        self._is_closed = False
        self._last_words = bytearray()
        self._keeper = threading.Thread(target=self._keep_last_words, daemon=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._keeper.start()
        self._listener.start()

    @property
    def is_alive(self) -> bool:
        return self.ended_by is None

    @property
    def log(self) -> str:
        """The end of what llama.cpp logged, and of what else the process said on stderr."""
        return bytes(self._last_words).decode("utf-8", "replace")

    def call(self, request: Any, hear: Callable[[Any], None] = lambda reply: None, cancel: Cancel | None = None) -> Any:
        """Ask and wait; `hear` gets what is told meanwhile, in another thread. With `cancel` it is a job's.

        Raises the BqError that it ended with, ProcessEnded if the process did.
        """
        call = _Call(hear, cancel is not None)
        id = self._add(call)
        timer = threading.Timer(PATIENCE_SECONDS, self.lose_patience)
        timer.daemon = True
        try:
            self._send(wire.encode(id, request, get_language()))
            if cancel is not None:
                cancel.tell = lambda: self._cancel(id, timer)
                if cancel.is_set():
                    cancel.tell()
            while not call.ended.wait(_LOOK_SECONDS):  # on Windows no interrupt is heard in a wait
                pass
        finally:
            timer.cancel()
            if cancel is not None:
                cancel.tell = lambda: None
            with self._lock:
                self._calls.pop(id, None)
        if call.error is not None:
            raise call.error
        return call.reply

    def close(self) -> None:
        """Let the process end; it is made to if it does not."""
        self._is_closed = True
        threading.Thread(target=self._close_pipe, daemon=True).start()  # it may be full, and nobody reads it
        for force in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(_END_SECONDS)
                break
            except subprocess.TimeoutExpired:
                force()
        self._listener.join(_END_SECONDS)

    def lose_patience(self) -> None:
        """End a process that does not answer; whoever waits for it hears that."""
        self._broken = ProcessEnded(
            say(
                f"The model's process did not stop within {PATIENCE_SECONDS} s and was ended.",
                f"模型进程在 {PATIENCE_SECONDS} 秒内没有停止，已被结束。",
            ),
            _load_again(),
        )
        self._kill()

    def _kill(self) -> None:
        """End the process whatever it does."""
        self.process.terminate()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _add(self, call: _Call) -> int:
        with self._lock:
            if self.ended_by is not None:
                raise self.ended_by
            self._next_id += 1
            self._calls[self._next_id] = call
            return self._next_id

    def _cancel(self, id: int, timer: threading.Timer) -> None:
        with contextlib.suppress(RuntimeError):  # it runs already
            timer.start()
        self._send(wire.encode(id, wire.CANCEL))

    def _send(self, line: bytes) -> None:
        """That nobody reads is found out by the listener."""
        with self._sending, contextlib.suppress(OSError, ValueError):
            _stream(self.process.stdin).write(line)
            _stream(self.process.stdin).flush()

    def _close_pipe(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            _stream(self.process.stdin).close()

    def _listen(self) -> None:
        try:
            for line in wire.lines(_stream(self.process.stdout)):
                self._hear(wire.decode(line))
        except BqError as error:
            self._broken = self._broken or error
        except Exception as error:  # whoever waits must hear of it
            self._broken = self._broken or wire.WireError(f"{type(error).__name__}: {error}")
        self._end()

    def _hear(self, envelope: wire.Envelope) -> None:
        reply = wire.open_envelope(envelope, wire.REPLIES)
        with self._lock:
            call = self._calls.get(envelope.id)
        if call is None:
            return
        if isinstance(reply, wire.MEANWHILE):
            call.hear(reply)
        elif isinstance(reply, wire.Failed):
            self.trace = reply.trace or self.trace
            call.end(error=reply.error())
        else:
            call.end(reply)

    def _end(self) -> None:
        """The pipe has ended: see to it that the process has, and tell everyone."""
        try:
            self.process.wait(0 if self._broken else _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        self._keeper.join(1)  # a child of the process may hold its stderr open
        error = self._broken or ended(self.process.wait())
        with self._lock:
            self.ended_by = error
            calls = list(self._calls.values())
        if not self._is_closed:
            self._on_end(self, error, any(call.is_job for call in calls))
        for call in calls:
            call.end(error=error)
        self._close_pipe()

    def _keep_last_words(self) -> None:
        stream = _stream(self.process.stderr)
        with contextlib.suppress(OSError, ValueError):
            while data := stream.read1(_LAST_WORDS):  # type: ignore[attr-defined]
                self._last_words += data
                del self._last_words[:-_LAST_WORDS]


@dataclass(frozen=True)
class RemoteModel:
    """A model that a process has loaded; what it is, and what keeping a session needs of it."""

    remote: Remote
    path: Path
    info: ModelInfo
    warnings: tuple[str, ...]

    def save_session(self, path: Path, messages: Sequence[Message], with_cache: bool = True) -> int:
        """As Model.save_session; the process writes the file."""
        saved: wire.Saved = self.remote.call(wire.Save(path.absolute(), tuple(messages), with_cache))
        return saved.tokens

    def restore_session(self, session: SessionFile) -> wire.Restored:
        """As Model.restore_session; the process reads the file, and checks it again."""
        restored: wire.Restored = self.remote.call(wire.Restore(session.path.absolute()))
        return restored


def _stream(stream: Any) -> BinaryIO:
    """One of the process's streams, each of which is a pipe."""
    found: BinaryIO = stream
    return found


def ended(status: int) -> ProcessEnded:
    """What the exit status of a process says that ended unasked."""
    return ProcessEnded(
        say("The model's process ended: ", "模型进程已结束：") + _why(status) + say(".", "。"),
        _load_again(),
    )


def _load_again() -> str:
    return say("Ctrl+R loads it again; your conversation is kept.", "Ctrl+R 重新加载；对话已保留。")


def _why(status: int) -> str:
    if status == -signal.SIGABRT or (os.name == "nt" and status == 3):  # what abort() of Windows' C library gives
        number = signal.SIGABRT.value
        return say(f"llama.cpp aborted (signal {number})", f"llama.cpp 中止（信号 {number}）")
    if status == -9:
        return say(
            "it was killed (signal 9), as the system does where memory runs out",
            "它被强行终止（信号 9），系统在内存耗尽时会这样做",
        )
    if status < 0:
        return say(f"it crashed or was stopped (signal {-status})", f"崩溃或被终止（信号 {-status}）")
    return say(f"exit status {status}", f"退出状态 {status}")
