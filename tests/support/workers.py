"""Workers on loopback, each a process with a port of its own as `bq worker` starts it, and processes that use them."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bq.runtime.llama import library

PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Worker:
    """A running worker."""

    endpoint: str


def needs_rpc() -> None:
    """Skip the test where llama.cpp has no RPC."""
    if not library().llama_supports_rpc():
        pytest.skip("llama.cpp was built without RPC; `make RPC=1` builds it with")


@contextmanager
def running(bq_command: Path, count: int) -> Iterator[list[Worker]]:
    """So many workers that lend the processor; afterwards each has ended as Ctrl+C ends it."""
    ports = [free_port() for _ in range(count)]
    command = [str(bq_command), "worker", "--threads", "1", "--device", "cpu", "--port"]
    started = [subprocess.Popen([*command, str(port)], stderr=subprocess.DEVNULL) for port in ports]
    try:
        for port in ports:
            wait_for(port)
        yield [Worker(f"127.0.0.1:{port}") for port in ports]
    finally:
        for one in started:
            one.send_signal(signal.SIGINT)
        for one in started:
            assert one.wait(PATIENCE_SECONDS) == 130, "Ctrl+C ends a worker"


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"no worker came up at {port}")


def run_apart(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A process of its own: the workers' devices stay with the one that named them."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS)
