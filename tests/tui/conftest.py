"""`bq` as a person runs it: another process, with its own streams."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bq = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def bq(bq_command: Path) -> Bq:
    """`bq("run", "-m", path, "hi", stdin=b"...", env={...})`: without stdin it reads /dev/null."""

    def run(*arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None, **keywords: Any) -> Any:
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        command = [str(bq_command), *map(str, arguments)]
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | keywords
        return subprocess.run(command, **source, env={**os.environ, **(env or {})}, timeout=60, **keywords)

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
