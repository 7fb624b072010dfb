"""One file from the web to the disk: resumed where it stopped, checked, and only then given its name.

The bytes go to a part file that stays when the work is stopped or killed, so it always holds a beginning of the file. Nothing else is
trusted: whether it is the right beginning, the hash of the whole tells. A file that comes out wrong is thrown away and
fetched once more from its first byte.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bq.library.sources.hashes import holds, is_right, remember
from bq.library.sources.patience import Passing, Patience, persist
from bq.library.sources.source import RemoteFile, Watcher
from bq.library.sources.space import writing_to
from bq.library.sources.web import RangeRefused, answering
from bq.runtime.errors import BqError
from bq.runtime.language import say

if TYPE_CHECKING:
    import httpx2

_FETCHES = 2  # the second in case the first was spoilt on the way
_WAIT_SECONDS = 0.25


@dataclass(frozen=True)
class Target:
    """A file to fetch: from where, its final path, the part file beside it, and the lock that other programs heed too."""

    source: str
    file: RemoteFile
    url: str
    path: Path
    part: Path
    lock: Path
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def download(target: Target, patience: Patience, watcher: Watcher) -> None:
    """Have the file at its path, checked. Raises BqError, or Cancelled; what came stays in the part file."""
    with writing_to(target.part):
        if not is_right(target.path, target.file, watcher):  # one that is needs neither a lock nor a right to write
            for path in (target.path, target.part, target.lock):
                path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target.lock, watcher):
                if not is_right(target.path, target.file, watcher):
                    target.path.unlink(missing_ok=True)
                    _download(target, patience, watcher)
    watcher.report(target.file.path, target.file.size, target.file.size)


def lacking(path: Path, part: Path, file: RemoteFile) -> int:
    """Bytes of a file that are still to come, by sizes alone."""
    if path.is_file() and path.stat().st_size == file.size:
        return 0
    return file.size - min(part.stat().st_size if part.is_file() else 0, file.size)


def _download(target: Target, patience: Patience, watcher: Watcher) -> None:
    for _ in range(_FETCHES):
        _fill(target, patience, watcher)
        if holds(target.part, target.file, watcher):
            os.replace(target.part, target.path)
            remember(target.path, target.file)
            return
        target.part.unlink()
    raise BqError(
        say(
            f"{target.file.path} arrived with other bytes than its hash {target.file.digest} names, twice.",
            f"{target.file.path} 两次收到的内容都与其哈希 {target.file.digest} 不符。",
        ),
        say(
            "It was thrown away. The source or something on the way changes it: try another source or network.",
            "文件已丢弃。来源或线路篡改了它：请换一个来源或网络。",
        ),
    )


def _fill(target: Target, patience: Patience, watcher: Watcher) -> None:
    farthest = _Farthest(target.part.stat().st_size if target.part.exists() else 0)
    persist(lambda: _go_on(target, farthest, watcher), patience, watcher, target.source, lambda: farthest.size > 0)


@dataclass
class _Farthest:
    """The most bytes that were here. No more than that is no progress: a server that cuts and refuses ranges would go on forever."""

    size: int

    def is_passed_by(self, size: int) -> bool:
        is_passed, self.size = size > self.size, max(size, self.size)
        return is_passed


def _go_on(target: Target, farthest: _Farthest, watcher: Watcher) -> None:
    """Fetch what the part file lacks. Raises Passing if not all of it came."""
    file = target.file
    with target.part.open("ab") as part:
        if part.tell() > file.size:
            part.truncate(0)
        have = part.seek(0, os.SEEK_END)
        watcher.report(file.path, have, file.size)
        if have == file.size:
            return
        headers = {**target.headers, **({"Range": f"bytes={have}-"} if have else {})}
        try:
            with answering(target.url, headers, file.path) as answer:
                have = _receive(answer, part, have, file, watcher)
        except RangeRefused:
            part.truncate(0)
            raise
        except Passing as failure:
            failure.progressed = farthest.is_passed_by(part.seek(0, os.SEEK_END))
            failure.is_doubtful = False  # its host was there for the listing
            raise
        if have < file.size:
            is_more = farthest.is_passed_by(have)
            raise Passing(say(f"{file.path} was cut off", f"{file.path} 传输中断"), progressed=is_more)
        part.flush()
        os.fsync(part.fileno())


def _receive(answer: "httpx2.Response", part: BinaryIO, have: int, file: RemoteFile, watcher: Watcher) -> int:
    """Append the body to the part file, up to the file's size; how many bytes it has then."""
    skip = have - _first_byte(answer, have)
    for chunk in answer.iter_bytes():
        watcher.stop_if_cancelled()
        fresh = chunk[skip:][: file.size - have]
        skip = max(skip - len(chunk), 0)
        part.write(fresh)
        have += len(fresh)
        watcher.report(file.path, have, file.size)
        if have == file.size:
            break
    part.flush()
    return have


def _first_byte(answer: "httpx2.Response", have: int) -> int:
    """Where in the file the body begins. A server may ignore a range and send everything; another range is none of ours."""
    if answer.status_code != 206:
        return 0
    unit, _, span = answer.headers.get("content-range", "").partition(" ")
    first = span.partition("-")[0]
    if unit == "bytes" and first.isdigit() and int(first) <= have:
        return int(first)
    raise RangeRefused(say(f"{answer.url.host} sends another range", f"{answer.url.host} 返回了其他范围"))


@contextmanager
def _locked(path: Path, watcher: Watcher) -> Iterator[None]:
    """Alone with the file, among all programs that take this lock; waits for them, until cancelled."""
    from huggingface_hub.utils import WeakFileLock

    is_noted = False
    while True:
        watcher.stop_if_cancelled()
        lock = WeakFileLock(path, timeout=_WAIT_SECONDS)
        try:
            lock.__enter__()
        except TimeoutError:
            if not is_noted:
                watcher.note(say("Another program is downloading it; waiting.", "另一个程序正在下载它，等待中。"))
            is_noted = True
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)
