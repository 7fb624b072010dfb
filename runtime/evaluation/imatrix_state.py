"""What a long gathering of an importance matrix has so far, kept beside its output so that a killed one can go on.

The sums are kept as they are, in float64: a resumed gathering ends with the very numbers of an uninterrupted one. What belongs
to another model, text or context is never taken for this one's: the file carries a digest of all three.

    magic, digest of the work [32], chunks as u32, the sums of every matrix as float64 in the order of `columns`,
    SHA-256 of all that [32]
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.session_file import Fingerprint

SUFFIX = ".unfinished"
_MAGIC = b"bq-imatrix-sums1"
_CHUNKS = struct.Struct("<I")
_DIGEST_BYTES = 32

Sums64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What is gathered: `columns` of each matrix by name, over chunks of `chunk_size` of the `ids`."""

    model: Fingerprint
    columns: Mapping[str, int]
    ids: npt.NDArray[np.int32]
    chunk_size: int

    def digest(self, chunks: int) -> bytes:
        """Of what has been gathered after so many chunks; the text behind them does not count."""
        about = json.dumps([dict(self.model), dict(self.columns), self.chunk_size])
        return sha256(about.encode() + b"\n" + self.ids[: chunks * self.chunk_size].tobytes()).digest()


@dataclass(frozen=True)
class State:
    """The sums of squares after so many whole chunks."""

    sums: Mapping[str, Sums64]
    chunks: int = 0

    @classmethod
    def empty(cls, columns: Mapping[str, int]) -> "State":
        return cls({name: np.zeros(count) for name, count in columns.items()})

    def plus(self, squares: Mapping[str, Sums64]) -> "State":
        """With one more chunk. A new one: an interrupt leaves no chunk half added."""
        return State({name: sums + squares[name] for name, sums in self.sums.items()}, self.chunks + 1)


@dataclass(frozen=True)
class Kept:
    """The file of the state of a work beside its output. `force` discards what is another work's."""

    out: Path
    work: Work
    force: bool = False

    @property
    def path(self) -> Path:
        return self.out.with_name(self.out.name + SUFFIX)

    def load(self) -> State:
        """The state that was kept, or an empty one. Raises BqError if there is another work's, or one of more chunks."""
        if not self.path.exists():
            return State.empty(self.work.columns)
        state = self._parsed(self._read())
        if state is not None:
            return state
        if self.force:
            return State.empty(self.work.columns)
        raise BqError(
            say(
                f"{self.path} is what another gathering had so far: of another model, text or --ctx, of more --chunks, or it is damaged.",
                f"{self.path} 是另一次收集的中间结果：模型、文本或 --ctx 不同，--chunks 更大，或文件已损坏。",
            ),
            say("Use --force to begin anew, or another -o.", "用 --force 重新开始，或用 -o 指定其他位置。"),
        )

    def save(self, state: State) -> None:
        """Keep the state; what was kept before is replaced only by a whole file. Raises BqError if the disk refuses."""
        sums = b"".join(one.astype("<f8").tobytes() for one in state.sums.values())
        data = _MAGIC + self.work.digest(state.chunks) + _CHUNKS.pack(state.chunks) + sums
        try:
            with replacing(self.path) as part, part.open("r+b") as file:
                file.write(data + sha256(data).digest())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BqError(
                say(f"{self.path} cannot be written: {error.strerror}.", f"无法写入 {self.path}：{error.strerror}。"),
                say("Free some space, or give another -o.", "请腾出空间，或用 -o 指定其他位置。"),
            ) from None

    def remove(self) -> None:
        """The work is done."""
        with suppress(FileNotFoundError):
            self.path.unlink()

    def _read(self) -> bytes:
        """The file, but no more of it than a state can have."""
        with self.path.open("rb") as file:
            return file.read(_size(self.work.columns.values()) + 1)

    def _parsed(self, data: bytes) -> State | None:
        head = len(_MAGIC) + _DIGEST_BYTES
        body = data[:-_DIGEST_BYTES]
        if len(data) != _size(self.work.columns.values()) or sha256(body).digest() != data[-_DIGEST_BYTES:]:
            return None
        chunks = int(_CHUNKS.unpack_from(data, head)[0])
        if body[:head] != _MAGIC + self.work.digest(chunks):
            return None
        values = np.frombuffer(body[head + _CHUNKS.size :], "<f8").astype(np.float64)
        ends = np.cumsum(list(self.work.columns.values()))
        return State(dict(zip(self.work.columns, np.split(values, ends[:-1]), strict=True)), chunks)


def _size(columns: Iterable[int]) -> int:
    return len(_MAGIC) + _DIGEST_BYTES + _CHUNKS.size + 8 * sum(columns) + _DIGEST_BYTES
