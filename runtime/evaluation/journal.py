"""What a long measurement has found so far, chunk by chunk, kept so that the same command goes on after an interruption.

A journal lies in bq's own folder under the digest of what it depends on (files, tokens, context). Its first line repeats
that; each further line is one chunk's record, with a checksum: what a kill left torn is dropped and measured again.

    bq-eval-1 CRC32 {"model": …, "tokens": …}
    CRC32 {"chunk": 0, …}
"""

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from bq.runtime.atomic_file import in_use
from bq.runtime.errors import BqError
from bq.runtime.language import say

_MAGIC = b"bq-eval-1 "
_SUFFIX = ".journal"
_PREFIX = 9  # a checksum and a space
_MOST_LINE_BYTES = 16 << 20
_KEPT_SECONDS = 30 * 86400  # a run that no one has gone on with for a month is given up


class Journal:
    """An open journal: the records of the chunks 0, 1, 2, … that are there. Without a file it keeps nothing."""

    def __init__(self, file: BinaryIO | None, path: Path, records: list[dict[str, Any]], ends: list[int]) -> None:
        self._file, self._path = file, path
        self.records = records
        self._ends = ends  # where each line of the file ends, the first included

    def keep(self, count: int) -> None:
        """Drop the records after the first `count`."""
        del self.records[count:]
        if self._file is not None and len(self._ends) > count + 1:
            del self._ends[count + 1 :]
            self._file.truncate(self._ends[-1])
            self._file.seek(self._ends[-1])

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep the next chunk's record, on the disk when this returns. Raises BqError if the disk refuses."""
        if self._file is not None:
            try:
                self._file.write(_line({"chunk": len(self.records), **record}))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._ends.append(self._file.tell())
            except OSError as error:
                raise _refused(self._path, error) from None
        self.records.append(dict(record))

    def forget(self) -> None:
        """All is done: the journal is not needed any more."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


@contextmanager
def open_journal(folder: Path | None, key: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of what `key` describes, new or to go on with, kept from other processes; None: one that keeps nothing.

    Raises BqError if another process has it, or the folder cannot be written.
    """
    if folder is None:
        yield Journal(None, Path(), [], [])
        return
    path = folder / (blake2b(_json(key), digest_size=16).hexdigest() + _SUFFIX)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from None
    with in_use(path), _opened(path) as file:
        _clear_old(folder, path)
        records, ends = _read(file, key)
        file.seek(ends[-1] if ends else 0)
        file.truncate()
        if not ends:
            file.write(_MAGIC + _line(key))
            ends = [file.tell()]
        journal = Journal(file, path, records, ends)
        try:
            yield journal
        finally:
            if not journal.records:  # refused before anything was measured: nothing is to go on with
                journal.forget()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.fdopen(os.open(path, flags, 0o600), "r+b")
    except OSError as error:
        raise _refused(path, error) from None
    with file:
        yield file


def _read(file: BinaryIO, key: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[int]]:
    """The records that are whole, and where each line ends; nothing if the journal is of something else."""
    first = file.readline(_MOST_LINE_BYTES)
    if not first.startswith(_MAGIC) or _payload(first[len(_MAGIC) :]) != json.loads(_json(key)):
        return [], []
    records: list[dict[str, Any]] = []
    ends = [len(first)]
    while line := file.readline(_MOST_LINE_BYTES):
        record = _payload(line)
        if not isinstance(record, dict) or record.pop("chunk", None) != len(records):
            break
        records.append(record)
        ends.append(ends[-1] + len(line))
    return records, ends


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True).encode()


def _line(data: Mapping[str, Any]) -> bytes:
    body = _json(data) + b"\n"
    return b"%08x " % zlib.crc32(body) + body


def _payload(line: bytes) -> Any:
    """The JSON value behind a checksum, None if they do not fit."""
    body = line[_PREFIX:]
    if not line.endswith(b"\n") or line[:_PREFIX] != b"%08x " % zlib.crc32(body):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _clear_old(folder: Path, ours: Path) -> None:
    """Remove journals that were given up."""
    for path in folder.glob("*" + _SUFFIX):
        with contextlib.suppress(OSError):
            if path != ours and path.stat().st_mtime < time.time() - _KEPT_SECONDS:
                path.unlink()


def _refused(path: Path, error: OSError) -> BqError:
    return BqError(
        say(f"{path} cannot be written: {error.strerror}.", f"无法写入 {path}：{error.strerror}。"),
        say(
            "Make room, or give another folder as BQ_HOME; then the same command goes on.",
            "请腾出空间，或用 BQ_HOME 指定其他文件夹；然后同样的命令会继续。",
        ),
    )
