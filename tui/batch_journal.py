"""What a batch has answered so far, kept so that a killed run goes on where it stopped.

The journal lies beside the output as NAME.journal. Its first line names what the run depends on: model, input, options.
Each further line is one finished answer, with a checksum: what a kill or a power cut left torn is recognised and dropped,
that line is answered again. Only when all answers are there, the output is written in input order under a temporary name,
synced and renamed, and the journal removed.

    bq-batch-1 CRC32 {"model": …, "input": …, "options": {…}, "seed": …}
    CRC32 {"line": 3, "output": …}
"""

import io
import json
import os
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from bq.runtime.atomic_file import in_use, replacing
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

MAGIC = b"bq-batch-1 "
MAX_RECORD_BYTES = 256 << 20  # an id of 16 MiB may grow on the way through JSON, by separators and written-out numbers
_PREFIX = 9  # a checksum and a space
_SYNC_SECONDS = 1.0


class NoJournal(ValueError):
    """The file is something else, or its first line is damaged."""


@dataclass
class Contents:
    """What a journal file holds: its header, and where the answer of each line lies (offset, size)."""

    header: dict[str, Any]
    answers: dict[int, tuple[int, int]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)  # lines whose answer is an error
    end: int = 0  # behind the last whole line


def journal_path(out: Path) -> Path:
    """Where the answers are kept until all are there."""
    return out.with_name(out.name + ".journal")


def read_journal(file: BinaryIO, numbers: Collection[int]) -> Contents | None:
    """What is whole in a journal; None if it was killed before its first line. Raises NoJournal for any other file.

    Only answers to lines of `numbers` count, the first of each.
    """
    first = file.readline(MAX_RECORD_BYTES)
    if not first.endswith(b"\n"):
        begun = first.rstrip(b"\0")  # a power cut may leave zeros where nothing reached the disk
        if begun.startswith(MAGIC[: len(begun)]):
            return None
        raise NoJournal
    header = _payload(first.removeprefix(MAGIC)) if first.startswith(MAGIC) else None
    if not isinstance(header, dict):
        raise NoJournal
    contents = Contents(header, end=len(first))
    wanted = frozenset(numbers)
    for offset, data in _whole_lines(file, len(first)):
        contents.end = offset + len(data)
        answer = _payload(data)
        line = _line_of(answer)
        if line in wanted and line not in contents.answers:
            contents.answers[line] = (offset + _PREFIX, len(data) - _PREFIX)
            contents.failed |= {line} if answer.get("stop") == "error" else set()
    return contents


def _whole_lines(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes]]:
    while (data := file.readline(MAX_RECORD_BYTES)).endswith(b"\n"):
        yield offset, data
        offset += len(data)


def _line_of(answer: Any) -> int | None:
    """The line that a record answers, None for a record that is damaged."""
    if not isinstance(answer, dict) or not isinstance(answer.get("output"), str):
        return None
    line = answer.get("line")
    return line if type(line) is int else None


def _payload(data: bytes) -> Any:
    """The JSON value behind a checksum, None if they do not fit."""
    body = data[_PREFIX:]
    if data[:_PREFIX] != _checksum(body):
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _checksum(data: bytes) -> bytes:
    return b"%08x " % zlib.crc32(data)


class Journal:
    """An open journal of one run. `header` may carry more than was asked for: what the run drew when it began."""

    def __init__(self, file: io.FileIO, path: Path, contents: Contents) -> None:
        self._file, self._path = file, path
        self._end, self._answers = contents.end, contents.answers
        self._synced = time.monotonic()
        self._is_synced = True
        self.header = contents.header
        self.failed = contents.failed

    @property
    def done(self) -> Collection[int]:
        """The numbers of the lines that are answered."""
        return self._answers.keys()

    def add(self, answer: Mapping[str, Any]) -> None:
        """Keep one answer. Raises BqError if the disk is full; the journal then is as it was."""
        data = encode(answer)
        self._append(_checksum(data) + data)
        self._answers[answer["line"]] = (self._end - len(data), len(data))
        if answer["stop"] == "error":
            self.failed.add(answer["line"])
        self.tick()

    def tick(self) -> None:
        """Bring what was added to the disk, at most once in a second."""
        if not self._is_synced and time.monotonic() - self._synced >= _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Bring what was added to the disk. Raises BqError if the disk refuses."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _disk_refuses(self._path, error) from None
        self._synced, self._is_synced = time.monotonic(), True

    def finish(self, out: Path, numbers: Sequence[int], force: bool) -> None:
        """Write the output in the order of `numbers`, and remove the journal.

        Raises BqError if the disk refuses, UsageError if the output has appeared meanwhile; the journal then stays.
        """
        try:
            with replacing(out) as part:
                with part.open("wb") as file:
                    file.writelines(self._in_order(numbers))
                    file.flush()
                    os.fsync(file.fileno())
                if not force:
                    refuse_existing(out)
        except OSError as error:
            raise _disk_refuses(out, error) from None
        self.remove()

    def is_written_to(self, out: Path, numbers: Sequence[int]) -> bool:
        """Whether the output is there already, whole: the run was killed before it could remove the journal."""
        if self._answers.keys() != set(numbers):
            return False
        with out.open("rb") as file:
            return all(file.read(len(data)) == data for data in self._in_order(numbers)) and not file.read(1)

    def remove(self) -> None:
        """The journal is not needed any more."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        try:
            self._file.seek(self._end)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self._end)
            raise _disk_refuses(self._path, error) from None
        self._end += len(data)
        self._is_synced = False

    def _in_order(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for number in numbers:
            offset, size = self._answers[number]
            self._file.seek(offset)
            yield self._file.read(size)


def encode(answer: Mapping[str, Any]) -> bytes:
    """An answer as a line of JSON."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


@contextmanager
def open_journal(
    out: Path, header: Mapping[str, Any], drawn: Mapping[str, Any], numbers: Collection[int], restart: bool
) -> Iterator[Journal]:
    """The journal of `out`, new or to go on with, kept from other processes.

    `header` is what the run depends on; `drawn` is added to a new journal's header and not compared. Raises BqError if
    another process has it, or if it belongs to another run and `restart` does not say to begin anew.
    """
    path = journal_path(out)
    with in_use(out):
        contents = _read(path, numbers)
        if contents is not None and not restart:
            _check_same(contents.header, header, path)
        with _open(path) as file:
            if contents is None or restart:
                journal = _begin(file, path, {**header, **drawn})
            else:
                file.truncate(contents.end)
                journal = Journal(file, path, contents)
            try:
                yield journal
            finally:
                if not file.closed:
                    journal.sync()


def _read(path: Path, numbers: Collection[int]) -> Contents | None:
    try:
        with path.open("rb") as file:
            return read_journal(file, numbers)
    except FileNotFoundError:
        return None
    except NoJournal:
        raise BqError(
            say(f"{path} is not the journal of a batch, or is damaged.", f"{path} 不是批处理的日志，或已损坏。"),
            say("Move it away, or give another -o.", "请将其移走，或用 -o 指定其他名称。"),
        ) from None


def _open(path: Path) -> io.FileIO:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        return io.FileIO(os.open(path, flags, 0o666), "r+")
    except OSError as error:
        raise _disk_refuses(path, error) from None


def _begin(file: io.FileIO, path: Path, header: Mapping[str, Any]) -> Journal:
    file.truncate(0)
    journal = Journal(file, path, Contents(dict(header)))
    data = encode(header)
    journal._append(MAGIC + _checksum(data) + data)
    journal.sync()
    return journal


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Raise BqError if a journal belongs to another run, naming the first difference."""
    difference = _difference(found, wanted)
    if difference is not None:
        raise BqError(
            say(f"{path} was begun with {difference}.", f"{path} 开始时使用的是{difference}。"),
            say(
                "Call bq as then to go on, or with --restart to begin anew.",
                "请用当时的参数继续，或加上 --restart 重新开始。",
            ),
        )


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    if found.get("model") != wanted["model"]:
        return say("another model", "另一个模型")
    if found.get("input") != wanted["input"]:
        return say("another input", "另一个输入")
    options = found.get("options")
    if not isinstance(options, dict):
        options = {}
    for name, value in wanted["options"].items():
        if options.get(name) != value:
            return say(f"another {name}", f"另一个 {name}")
    return None


def refuse_existing(out: Path) -> None:
    """Raise UsageError if the output exists."""
    if out.exists():
        raise UsageError(
            say(f"{out} exists already.", f"{out} 已存在。"),
            say("Use --force to replace it, or -o for another name.", "用 --force 覆盖，或用 -o 指定其他名称。"),
        )


def _disk_refuses(path: Path, error: OSError) -> BqError:
    return BqError(
        say(f"{path} cannot be written: {error.strerror}.", f"无法写入 {path}：{error.strerror}。"),
        say(
            "Nothing that was answered is lost: make room, then call bq the same way to go on.",
            "已得到的回答没有丢失：请腾出空间，然后用同样的命令继续。",
        ),
    )
