"""Importance matrices in llama.cpp's own files, so that llama-imatrix, llama-quantize and bq can use each other's.

Reads the GGUF form and the older `.dat` form, every claim of the file checked before it is used; writes the GGUF form, byte
for byte as llama-imatrix does (its source: tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp of llama.cpp).
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry, read_gguf
from bq.runtime.gguf_header import DEFAULT_ALIGNMENT, MAGIC, MAX_NAME
from bq.runtime.language import say
from bq.runtime.unreadable import unreadable

_SQUARES, _COUNT = ".in_sum2", ".counts"
_DATASETS, _CHUNKS, _CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_VERSION, _U32, _STRING, _ARRAY = 3, 4, 8, 9  # of GGUF, and numbers of its value types
_MOST_COUNT = 1 << 53  # up to here a double counts in ones
# Of a .dat file: a 13B has 281 matrices, the widest of 13,696 columns.
_MOST_ENTRIES, _MOST_COLUMNS, _MOST_DATASET = 1 << 16, 1 << 24, 1 << 16

Squares = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sums:
    """Of one matrix: the sum of squares of each column's inputs, and how many rows of input were added.

    Of the matrices of experts, which lie in one tensor, `squares` has the columns of each, one expert after the other, and
    `expert_counts` the rows that each was given; `count` is their sum.
    """

    squares: Squares
    count: float
    expert_counts: tuple[float, ...] = ()


@dataclass(frozen=True)
class ImportanceMatrix:
    """The sums of each matrix by its GGUF name, "blk.0.attn_q.weight", and the texts that they come from.

    `chunk_size` is in tokens; 0 where the file does not tell, as a `.dat` file does not.
    """

    entries: Mapping[str, Sums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int

    def importance(self, name: str) -> Squares | None:
        """What the errors of each column weigh, as llama-quantize takes it; None for a matrix without an entry.

        [columns], one expert after the other where there are some. A matrix that nothing was added to has the same weight
        everywhere.
        """
        sums = self.entries.get(name)
        if sums is None:
            return None
        counts = np.array(sums.expert_counts or (sums.count,), np.float32)[:, np.newaxis]
        squares = sums.squares.reshape(len(counts), -1)
        weights: Squares = np.where(counts > 0, squares / np.maximum(counts, 1), np.float32(1)).reshape(-1)
        return weights


class _Bad(Exception):
    """A claim of the file does not hold; the text says which."""


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read and check either form. Raises BqError naming what is wrong."""
    try:
        if _begins_as_gguf(path):
            return _read_gguf(read_gguf(path))
        with path.open("rb") as file:
            return _Dat(file, path.stat().st_size).read()
    except FileNotFoundError:
        raise UsageError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say("`bq imatrix` makes one.", "可用 `bq imatrix` 生成。"),
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None
    except _Bad as error:
        raise BqError(
            say(f"{path.name} is no importance matrix: {error}.", f"{path.name} 不是重要性矩阵：{error}。"),
            say("Make it again with `bq imatrix`.", "请用 `bq imatrix` 重新生成。"),
        ) from None


def _begins_as_gguf(path: Path) -> bool:
    if not path.is_file() and path.exists():  # a named pipe would wait for a writer
        raise OSError(None, say("it is no file", "不是文件"))
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _read_gguf(file: GgufFile) -> ImportanceMatrix:
    if file.text("general.type", "imatrix") != "imatrix" or "general.architecture" in file.metadata:
        raise _Bad(say("it is a GGUF file of another kind, as a model is", "它是其他类型的 GGUF 文件（如模型）"))
    missing = [key for key in (_DATASETS, _CHUNKS, _CHUNK_SIZE) if key not in file.metadata]
    if missing or file.kinds[_DATASETS] != "[str]" or {file.kinds[_CHUNKS], file.kinds[_CHUNK_SIZE]} != {"u32"}:
        raise _Bad(
            say(
                f"{_DATASETS}, {_CHUNKS} or {_CHUNK_SIZE} is not there", f"缺少 {_DATASETS}、{_CHUNKS} 或 {_CHUNK_SIZE}"
            )
        )
    ends = (_SQUARES, _COUNT)
    names = sorted({name.removesuffix(end) for name in file.tensors for end in ends if name.endswith(end)})
    return ImportanceMatrix(
        _some({name: _sums_of(file, name) for name in names}),
        tuple(file.metadata[_DATASETS]),
        file.count(_CHUNKS),
        file.count(_CHUNK_SIZE),
    )


def _sums_of(file: GgufFile, name: str) -> Sums:
    squares, count = file.tensors.get(name + _SQUARES), file.tensors.get(name + _COUNT)
    if squares is None or count is None:
        raise _Bad(say(f"{_shown(name)} has no sums or no count", f"{_shown(name)} 缺少平方和或计数"))
    counts = tuple(np.rint(_floats(file, count)).astype(float).tolist())  # rounded as llama.cpp does
    if math.prod(squares.shape) % len(counts):
        raise _Bad(
            say(
                f"{_shown(name)} has {len(counts)} counts for {math.prod(squares.shape)} sums",
                f"{_shown(name)} 有 {len(counts)} 个计数，而平方和有 {math.prod(squares.shape)} 个",
            )
        )
    return _sound(name, _floats(file, squares), counts)


def _floats(file: GgufFile, entry: TensorEntry) -> Squares:
    if entry.kind is not GgmlType.F32:
        raise _Bad(
            say(
                f"{_shown(entry.name)} is {entry.kind.name}, not F32",
                f"{_shown(entry.name)} 是 {entry.kind.name} 而非 F32",
            )
        )
    return file.bytes[entry.start : entry.start + entry.size_bytes].view("<f4").astype(np.float32)


def _sound(name: str, squares: Squares, counts: tuple[float, ...]) -> Sums:
    if not np.isfinite(squares).all() or (squares < 0).any():
        raise _Bad(say(f"{_shown(name)} has sums that no squares have", f"{_shown(name)} 的平方和无效"))
    for count in counts:
        if not 0 <= count < _MOST_COUNT:
            raise _Bad(say(f"{_shown(name)} has the count {count:g}", f"{_shown(name)} 的计数为 {count:g}"))
    return Sums(squares, sum(counts), counts if len(counts) > 1 else ())


def _some(entries: dict[str, Sums]) -> dict[str, Sums]:
    if not entries:
        raise _Bad(say("it has no sums", "它不含平方和"))
    return entries


def _shown(name: str) -> str:
    return repr(name[:MAX_NAME])


class _Dat:
    """The older form: entries of name, calls, columns and values, where a value is the mean square times the calls."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self) -> ImportanceMatrix:
        """All of it; chunks and dataset at the end may be missing."""
        entries = dict(self._entry() for _ in range(self._number(1, _MOST_ENTRIES)))
        chunks = self._number(0, (1 << 31) - 1) if self._left else 0
        dataset = self._text(self._number(0, _MOST_DATASET)) if self._left else ""
        return ImportanceMatrix(_some(entries), (dataset,) if dataset else (), chunks, 0)

    def _entry(self) -> tuple[str, Sums]:
        name = self._text(self._number(1, MAX_NAME - 1))
        calls = self._number(-(1 << 31), (1 << 31) - 1)
        values = np.frombuffer(self._take(4 * self._number(1, _MOST_COLUMNS)), "<f4").astype(np.float32)
        # Without calls the values themselves are the mean squares.
        return name, _sound(name, values, (float(max(1, calls)),))

    def _number(self, least: int, most: int) -> int:
        number = int(struct.unpack("<i", self._take(4))[0])
        if not least <= number <= most:
            raise _Bad(
                say(f"it has {number} where {least} to {most} can be", f"其中有 {number}，应在 {least} 到 {most} 之间")
            )
        return number

    def _text(self, length: int) -> str:
        return self._take(length).decode("utf-8", "replace")

    def _take(self, count: int) -> bytes:
        if count > self._left:
            raise _Bad(say("it is neither GGUF nor a whole .dat file", "它既不是 GGUF 也不是完整的 .dat 文件"))
        self._left -= count
        return self._file.read(count)


def write_imatrix(path: Path, matrix: ImportanceMatrix) -> None:
    """Write the GGUF form, on the disk and whole before it has its name. Raises BqError if it cannot be written."""
    try:
        with replacing(path) as part, part.open("r+b") as file:
            for data in _file_parts(matrix):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BqError(
            say(
                f"Writing {path.name} failed: {error.strerror or error}.",
                f"写入 {path.name} 失败：{error.strerror or error}。",
            ),
            say("Free some space, or give another -o.", "请腾出空间，或用 -o 指定其他位置。"),
        ) from None


def _file_parts(matrix: ImportanceMatrix) -> Iterator[bytes]:
    tensors = list(_tensors(matrix))
    keys = (
        _text("general.type") + struct.pack("<I", _STRING) + _text("imatrix"),
        _text(_DATASETS) + struct.pack("<IIQ", _ARRAY, _STRING, len(matrix.datasets)),
        *map(_text, matrix.datasets),
        _text(_CHUNKS) + struct.pack("<II", _U32, matrix.chunks),
        _text(_CHUNK_SIZE) + struct.pack("<II", _U32, matrix.chunk_size),
    )
    at, directory = 0, []
    for name, values in tensors:
        dims = values.shape[::-1]
        directory.append(_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, GgmlType.F32, at))
        at += _padded(values.nbytes)
    head = b"".join((MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), 4), *keys, *directory))
    yield head.ljust(_padded(len(head)), b"\0")
    for _, values in tensors:
        yield values.tobytes().ljust(_padded(values.nbytes), b"\0")


def _tensors(matrix: ImportanceMatrix) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """[columns] and [1]; of experts [experts, columns] and [experts, 1]."""
    for name, sums in sorted(matrix.entries.items()):
        experts = len(sums.expert_counts)
        squares, counts = sums.squares.astype("<f4"), np.array(sums.expert_counts or [sums.count], "<f4")
        yield name + _SQUARES, squares.reshape(experts, -1) if experts else squares
        yield name + _COUNT, counts.reshape(experts, 1) if experts else counts


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
