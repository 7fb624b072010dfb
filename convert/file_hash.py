"""Whether the files of a checkpoint still hold what their source listed, found out while they are converted.

A download is checked when it arrives, but the weights may be read a year later: from a disk that has lost a bit, from a cache
that something else wrote to. A thread hashes the files beside the conversion, whose pages it shares; no file gets its name
before that has come out right.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

SHA256_DIGITS, SHA1_DIGITS = 64, 40
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True)
class FileHash:
    """What a file has to hold: its size in bytes and `digest`, as `digest_of` gives it."""

    path: Path
    size: int
    digest: str


class ChangedFile(BqError):
    """A file no longer holds what it has to."""

    def __init__(self, file: FileHash) -> None:
        self.path = file.path
        super().__init__(
            say(
                f"{file.path} is not what was downloaded: its bytes do not have the hash {file.digest} any more.",
                f"{file.path} 与下载时不同：其内容的哈希已不是 {file.digest}。",
            ),
            say(
                "Nothing was written. The disk or another program changed it: remove it and download it again.",
                "没有写入任何文件。磁盘或其他程序改动了它：请删除后重新下载。",
            ),
        )


def digest_of(path: Path, size: int, digits: int, passed: Callable[[int], None] = lambda done: None) -> str:
    """A file's hash in so many hexadecimal digits: 64 for SHA-256, 40 for the SHA-1 that git gives a blob of `size` bytes.

    `passed` hears how many bytes were read. Raises OSError.
    """
    # Git hashes the header "blob SIZE\0" first (its book, "Git Internals - Git Objects").
    hasher = hashlib.sha256() if digits == SHA256_DIGITS else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    done = 0
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            hasher.update(chunk)
            done += len(chunk)
            passed(done)
    return hasher.hexdigest()


@contextmanager
def checked_meanwhile(files: Sequence[FileHash]) -> Iterator[Callable[[], None]]:
    """Hash the files in a thread during the block. What it gives waits for the end of that, and raises ChangedFile for a wrong one."""
    is_over = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as thread:
        work = thread.submit(_check, sorted(files, key=lambda one: one.size), is_over)
        try:
            yield work.result
        finally:
            is_over.set()


class _Over(Exception):
    """Nobody waits for the hashes any more."""


def _check(files: Sequence[FileHash], is_over: threading.Event) -> None:
    def stop_if_over(_: int) -> None:
        if is_over.is_set():
            raise _Over

    for one in files:
        if not _holds(one, stop_if_over):
            raise ChangedFile(one)


def _holds(file: FileHash, passed: Callable[[int], None]) -> bool:
    try:
        is_sized = file.path.stat().st_size == file.size
        return is_sized and digest_of(file.path, file.size, len(file.digest), passed) == file.digest
    except OSError as error:
        raise unreadable(file.path, error) from None
