"""A process that has imported everything once, and forks others that work: they start at once, and can be killed like any.

Starting Python with numpy, llama.cpp and huggingface_hub takes a second of CPU; a fork takes milliseconds. POSIX only.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NURSERY = """
import json, os, sys, traceback
import httpx2, llama_cpp
from huggingface_hub import HfApi
from huggingface_hub.utils import WeakFileLock, get_session
import bq.convert.convert, bq.convert.verify.against, bq.convert.verify.file_checks, bq.library.sources.open
import bq.runtime.devices, bq.tui.main, bq.tui.commands.chat, bq.tui.commands.pull, bq.tui.pull_ready

def opened(task):
    paths = [task["terminal"]] * 3 if task["terminal"] else [os.devnull, task["out"], task["err"]]
    return [os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOCTTY, 0o600) for path in paths]

def work(task, handles):
    os.environ.clear()
    os.environ.update(task["environment"])
    for number, handle in enumerate(handles):
        os.dup2(handle, number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, 1, "utf-8", closefd=False) for n, mode in enumerate("rww"))
    if task["terminal"]:
        os.setsid()
    if task["limit"]:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], task["limit"]))
    sys.argv = ["", *task["arguments"]]
    try:
        exec(task["code"], {})
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1

for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
        continue
    handles = opened(task)  # before it is told that there is a process: a terminal that nobody has open is at its end
    number = os.fork()
    if number == 0:
        status = work(task, handles)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    for handle in handles:
        os.close(handle)
    print(number, flush=True)
"""


class Nursery:
    """Starts processes; `folder` is where their output goes."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process, self._folder, self._count = process, folder, 0

    def start(self, code: str, *arguments: object, limit: int = 0, terminal: str = "") -> "Child":
        """A new process with this one's environment; `limit` bytes are the most that a file of it may have, as on a full disk.

        `terminal` is one of its own, instead of the files that its output goes to else.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        task = {"code": code, "arguments": [*map(str, arguments)], "environment": dict(os.environ), "limit": limit}
        streams = {"out": str(out), "err": str(err), "terminal": terminal}
        return Child(self, self.tell({**task, **streams}), out, err)

    def tell(self, task: dict[str, object]) -> int:
        """The number that it answers."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@dataclass
class Child:
    """A process that was started."""

    nursery: Nursery
    number: int
    _out: Path
    _err: Path
    _status: int | None = None

    def wait(self) -> int:
        """Its exit status, negative for a signal."""
        if self._status is None:
            self._status = self.nursery.tell({"wait": self.number})
        return self._status

    def kill(self, number: int = signal.SIGKILL if os.name != "nt" else signal.SIGTERM) -> None:
        """Send it a signal; until it was waited for, its number is no other process's."""
        if self._status is None:
            os.kill(self.number, number)

    @property
    def out(self) -> str:
        """What it wrote until now."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """The same on stderr."""
        return self._err.read_text(encoding="utf-8")


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """For the length of the block; knows nothing of the user's own hubs and caches."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MODELSCOPE_"))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", _NURSERY]
    with subprocess.Popen(command, env={**own, "BQ_LANG": "en"}, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield Nursery(process, folder)
        process.stdin.close()
