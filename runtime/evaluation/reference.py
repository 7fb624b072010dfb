"""The log probabilities of a reference, streamed to the disk once and read again for each file that is compared with it.

They are kept under the name that the user gives, and then an interrupted run goes on with them, or in a file without a
name that the system removes when the run ends, however it ends.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import numpy as np

from bq.runtime.atomic_file import in_use, part_path
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.journal import Journal, open_journal
from bq.runtime.evaluation.logits_file import LogitsFile, chunk_bytes, header, open_logits
from bq.runtime.evaluation.perplexity import Rows, from_record, to_record, write_rows
from bq.runtime.evaluation.score import Ids, Scores
from bq.runtime.language import say

_MARGIN_BYTES = 64 << 20  # of a disk, for what else is written meanwhile


@dataclass(frozen=True)
class Reference:
    """What files are compared with. `open` makes its rows, when they are needed; `pieces` are None where unknown."""

    name: str
    fingerprint: Mapping[str, Any]
    vocabulary: int
    open: Callable[[], AbstractContextManager[Rows]]
    pieces: Sequence[str] | None = None


@dataclass(frozen=True)
class Asked:
    """The reference's rows that are wanted. `on_chunk` hears (chunks done, the scores of the newest)."""

    reference: Reference
    chunks: Sequence[Ids]
    on_chunk: Callable[[int, Scores], None]

    @property
    def chunk_bytes(self) -> int:
        """Bytes that the rows of a chunk take."""
        return chunk_bytes(len(self.chunks[0]), self.reference.vocabulary)


@contextmanager
def temporary_base(asked: Asked, start: int, folder: Path) -> Iterator[LogitsFile]:
    """The rows of the chunks from `start` on in a file of this folder that has no name. Raises BqError without room."""
    need = (len(asked.chunks) - start) * asked.chunk_bytes
    _check_space(folder, need)
    with tempfile.TemporaryFile(dir=folder) as file:
        likelihoods = {start + i: scores.nll for i, (scores, _) in enumerate(_written(asked, file, start))}
        file.flush()
        tokens, vocabulary = np.stack(asked.chunks), asked.reference.vocabulary
        base = LogitsFile(file, folder / asked.reference.name, tokens, vocabulary, rows_start=0, skipped=start)
        base.likelihoods.update(likelihoods)
        yield base


@contextmanager
def saved_base(asked: Asked, out: Path, journals: Path | None) -> Iterator[LogitsFile]:
    """All rows in the file `out`; what an interrupted run left in its part is gone on with.

    Raises UsageError if there is such a file already that is not this run's own, BqError if it cannot be written.
    """
    head = header(asked.chunks, asked.reference.vocabulary)
    key = {"logits": str(out.absolute()), "reference": dict(asked.reference.fingerprint), "header": crc32(head)}
    with in_use(out), open_journal(journals, key) as journal:
        if out.exists():
            if _whole_chunks(out, head, asked, journal) < len(asked.chunks):
                raise _exists(out)
        else:
            _write(asked, out, head, journal)
        with open_logits(out) as base:
            base.likelihoods.update({i: np.array(one["nll"]) for i, one in enumerate(journal.records)})
            yield base
        journal.forget()


def _write(asked: Asked, out: Path, head: bytes, journal: Journal) -> None:
    part = part_path(out)
    done = _whole_chunks(part, head, asked, journal)
    journal.keep(done)
    _check_space(out.absolute().parent, (len(asked.chunks) - done) * asked.chunk_bytes)
    try:
        with part.open("r+b" if done else "w+b") as file:
            file.truncate(len(head) + done * asked.chunk_bytes)
            file.write(head)
            file.seek(0, os.SEEK_END)
            for scores, checksum in _written(asked, file, done):
                file.flush()
                os.fsync(file.fileno())
                journal.add({"crc32": checksum, **to_record(scores)})
        os.replace(part, out)
    except OSError as error:
        raise BqError(
            say(f"{out} cannot be written: {error.strerror}.", f"无法写入 {out}：{error.strerror}。"),
            say("Check the folder and the disk.", "请检查文件夹与磁盘。"),
        ) from None


def _written(asked: Asked, file: BinaryIO, start: int) -> Iterator[tuple[Scores, int]]:
    """Write the rows of the chunks from `start` on; gives the scores and the checksum of each."""
    with asked.reference.open() as rows:
        for number, written in enumerate(write_rows(rows, asked.chunks, file, start), start + 1):
            yield written
            asked.on_chunk(number, written[0])


def _whole_chunks(path: Path, head: bytes, asked: Asked, journal: Journal) -> int:
    """How many chunks of a file are as the journal says they were written."""
    try:
        with path.open("rb") as file:
            if not journal.records or file.read(len(head)) != head:
                return 0
            for number, record in enumerate(journal.records[: len(asked.chunks)]):
                is_sound = from_record(record, len(asked.chunks[0]), has_base=False) is not None
                if not is_sound or crc32(file.read(asked.chunk_bytes)) != record.get("crc32"):
                    return number
    except FileNotFoundError:
        return 0
    return min(len(journal.records), len(asked.chunks))


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need + _MARGIN_BYTES:
        raise BqError(
            say(
                f"{folder} has {free / 1e9:.2f} GB free; the reference's log probabilities take {need / 1e9:.2f} GB.",
                f"{folder} 剩余 {free / 1e9:.2f} GB，而参考的对数概率需要 {need / 1e9:.2f} GB。",
            ),
            say(
                "Use fewer --chunks, or another disk: BQ_HOME names the folder of temporary files.",
                "请减少 --chunks，或换一块磁盘：BQ_HOME 指定临时文件所在的文件夹。",
            ),
        )


def _exists(out: Path) -> UsageError:
    return UsageError(
        say(f"{out} exists already.", f"{out} 已存在。"),
        say(
            f"Use it with --against {out}, or give another name.",
            f"可用 --against {out} 直接使用它，或换一个名称。",
        ),
    )
