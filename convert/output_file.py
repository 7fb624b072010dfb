"""Where a conversion writes: checked before the work begins, named only when it is whole, on the disk as soon as it is written."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bq.runtime.atomic_file import part_path, replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.output_path import check_output, refuse_existing


def check_files(paths: Sequence[Path], force: bool, need_bytes: int = 0) -> None:
    """Raise UsageError or BqError if a path exists, its folder does not, or the disk has too little space for all files."""
    for out in paths:
        check_output(out, force)
    folder = paths[0].parent
    left_behind = sum(part.stat().st_size for part in map(part_path, paths) if part.exists())  # and cleared
    free = shutil.disk_usage(folder).free + left_behind
    if free < need_bytes:
        files = say("the files need" if len(paths) > 1 else "the file needs", "文件需要")
        raise BqError(
            say(
                f"{folder} has {free / 1e9:.2f} GB free, {files} {need_bytes / 1e9:.2f} GB.",
                f"{folder} 剩余 {free / 1e9:.2f} GB，而{files} {need_bytes / 1e9:.2f} GB。",
            ),
            say(
                "Free some space, use a smaller mixture (-q), or another disk (-o).",
                "请腾出空间、改用更小的量化（-q），或换一块磁盘（-o）。",
            ),
        )


@contextmanager
def writing(out: Path, force: bool = False) -> Iterator[Path]:
    """The path to write to; renamed to `out` when the block ends well, removed when it does not.

    Raises BqError if another process is writing the same file, or the disk refuses.
    """
    with replacing(out) as part:
        yield part
        if not force:  # it may have appeared since the work began
            refuse_existing(out)


_SYNC_BYTES = 64 << 20
_sync_data = getattr(os, "fdatasync", os.fsync)  # macOS and Windows have no fdatasync


class SteadyFile:
    """A file that goes to the disk while it is written: the system would keep it back until the final sync waits for all.

    Every error of the disk comes up in `write` or `finish`: it is told once, and only to the sync that meets it.
    """

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._file, self._thread = file, thread
        self._bytes = 0
        self._sync: Future[None] | None = None

    def write(self, data: memoryview | bytes) -> None:
        """Write all of `data`."""
        self._file.write(data)
        self._bytes += memoryview(data).nbytes
        if self._bytes >= _SYNC_BYTES and (self._sync is None or self._sync.done()):
            self._settle()
            self._bytes = 0
            self._sync = self._thread.submit(_sync_data, self._file.fileno())

    def finish(self) -> None:
        """Wait until everything is on the disk."""
        self._settle()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _settle(self) -> None:
        if self._sync is not None:
            self._sync.result()


@contextmanager
def steady(file: BinaryIO) -> Iterator[SteadyFile]:
    """`file` as one that goes to the disk all along; it is whole there when the block ends well."""
    with ThreadPoolExecutor(1, thread_name_prefix="sync") as thread:
        one = SteadyFile(file, thread)
        yield one
        one.finish()
