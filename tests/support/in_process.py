"""`bq` in the process of the tests, as a shell would start it: streams of its own down to their descriptors, so that what a
library writes to them is seen too, and an environment, a folder, a language and signal handlers that end with it.

A process of its own costs most of a second each time. What only a process has stays with one: limits, signals, a closed or full
stream, a terminal.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock


def run_here(
    arguments: Sequence[str], stdin: bytes | None, environment: Mapping[str, str], folder: Path | str | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """What `bq ARGUMENTS` printed and its status; without stdin it reads the null device."""
    from bq.tui.main import main

    with _around(environment, folder), _streams(stdin) as (out, errors), _handlers():
        with mock.patch.object(sys, "argv", ["bq", *arguments]):
            status = _status(main)
        return subprocess.CompletedProcess(["bq", *arguments], status, _all_of(out), _all_of(errors))


def _status(main: Any) -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _all_of(file: BinaryIO) -> bytes:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    file.seek(0)
    return file.read()


@contextlib.contextmanager
def _around(environment: Mapping[str, str], folder: Path | str | None) -> Iterator[None]:
    from bq.runtime import language, llama

    before = Path.cwd()
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(language, "_current", None),
        mock.patch.object(llama, "_echo", False),
    ):
        os.chdir(folder or before)
        try:
            yield
        finally:
            os.chdir(before)


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    kept = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in zip(numbers, kept, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _streams(stdin: bytes | None) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Python's own streams on the process's three descriptors, which are files meanwhile."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in range(3)]
    with _input(stdin) as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        files = (given, out, errors)
        try:
            for number, file in enumerate(files):
                os.dup2(file.fileno(), number)
            with mock.patch.multiple(sys, **_wrappers()):
                yield out, errors
        finally:
            for number, descriptor in enumerate(kept):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _input(stdin: bytes | None) -> BinaryIO:
    if stdin is None:
        return Path(os.devnull).open("rb")
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115, the caller closes it
    file.write(stdin)
    file.seek(0)
    return file  # type: ignore[no-any-return]


def _wrappers() -> dict[str, io.TextIOWrapper]:
    """As Python opens them where they are no terminals."""
    given = io.BufferedReader(io.FileIO(0, closefd=False))
    out, errors = (io.BufferedWriter(io.FileIO(number, "w", closefd=False)) for number in (1, 2))
    return {
        "stdin": io.TextIOWrapper(given, encoding="utf-8"),
        "stdout": io.TextIOWrapper(out, encoding="utf-8"),
        "stderr": io.TextIOWrapper(errors, encoding="utf-8", errors="backslashreplace", line_buffering=True),
    }
