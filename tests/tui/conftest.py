"""`bq` as a person runs it, with streams of its own."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.in_process import run_here

Bq = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def bq(bq_process: Bq) -> Bq:
    """`bq("run", "-m", path, "hi", stdin=b"...", env={...}, cwd=...)`: without stdin it reads /dev/null.

    It runs in the process of the tests (tests.support.in_process), unless it is to have what only a process of its own can: more
    keywords of subprocess.run, or an environment that is Python's own.
    """

    def run(*arguments: object, stdin: bytes | None = None, **keywords: Any) -> Any:
        environment: dict[str, str] = keywords.get("env") or {}
        if keywords.keys() - {"env", "cwd"} or any(name.startswith("PYTHON") for name in environment):
            return bq_process(*arguments, stdin=stdin, **keywords)
        return run_here([*map(str, arguments)], stdin, environment, keywords.get("cwd"))

    return run


@pytest.fixture
def bq_process(bq_command: Path) -> Bq:
    """The same as a process, with the keywords of subprocess.run."""

    def run(*arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None, **keywords: Any) -> Any:
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        command = [str(bq_command), *map(str, arguments)]
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
        return subprocess.run(command, **source, env={**os.environ, **(env or {})}, timeout=180, **keywords)

    return run


@pytest.fixture
def start_bq(bq_command: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """The same, left running; as a shell's foreground job it minds Ctrl+C."""

    def start(*arguments: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(bq_command), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # what a buffer read ahead would be lost to communicate()
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )

    return start
