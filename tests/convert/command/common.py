"""`bq convert` in a folder of its own: how it is called, what a failure looks like, and a run that takes long enough to be stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.support.families import Shape
from tests.support.in_process import run_here

PATIENCE_SECONDS = 180
SMALL = Shape(hidden=64, heads=4, ffn=96)
SLOW = Shape(hidden=256, heads=4, ffn=1024, vocab=6000)  # some seconds in IQ3_S on one thread


class Bq:
    """The command in a folder of its own: in the process of the tests (tests.support.in_process), unless it is to have what only a
    process of its own can.
    """

    def __init__(self, command: Path, folder: Path) -> None:
        self.command, self.folder = command, folder
        self.environment = {**os.environ, "BQ_HOME": str(folder / "home"), "BQ_LANG": "en"}

    def __call__(self, *arguments: object, **named: Any) -> "subprocess.CompletedProcess[str]":
        environment = self.environment | named.pop("env", {})
        if named:
            command = [str(self.command), *map(str, arguments)]
            given = {"capture_output": True, "text": True, "timeout": PATIENCE_SECONDS, **named}
            return subprocess.run(command, cwd=self.folder, env=environment, **given)
        done = run_here([*map(str, arguments)], None, environment, self.folder)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: object, **named: Any) -> "subprocess.Popen[str]":
        """Left running; as a shell's foreground job it minds Ctrl+C."""
        command = [str(self.command), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **named}
        if os.name != "nt":
            pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "home")


def failed(done: "subprocess.CompletedProcess[str]", status: int, *says: str) -> None:
    """One line that begins with bq:, the last, no trace, nothing on stdout."""
    lines = done.stderr.splitlines()
    assert done.returncode == status, done.stderr
    assert [line for line in lines if line.startswith(("bq: ", "bq："))] == lines[-1:]
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    assert done.stdout == ""
    assert all(text in lines[-1] for text in says), lines[-1]


def wait_until_begun(process: "subprocess.Popen[str]", part: Path) -> None:
    """Wait until the process has written some of the data."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start_slow(bq: Bq, slow: Path, *more: object, **named: Any) -> "subprocess.Popen[str]":
    process = bq.start("convert", slow, "-q", "IQ3_S", "-o", "out.gguf", "--threads", 1, *more, **named)
    wait_until_begun(process, bq.folder / "out.gguf.part")
    return process
