"""Looks at whatever has to do with a model: a GGUF file, a checkpoint's folder, an adapter, an importance matrix, a plan of types.

Only headers are read, and a few rows; what is broken is shown as far as it goes.
"""

from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from bq.convert.convert import find_source
from bq.convert.inspect.adapter import TYPE as ADAPTER
from bq.convert.inspect.adapter import AdapterReport, describe_adapter
from bq.convert.inspect.checkpoint import CheckpointReport, inspect_checkpoint
from bq.convert.inspect.gguf_remains import Remains, read_remains
from bq.convert.inspect.model import ModelReport, describe_model
from bq.convert.type_plan import FORMAT, TypePlan, read_type_plan
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, read_imatrix
from bq.runtime.gguf_header import MAGIC
from bq.runtime.language import say
from bq.runtime.releases import find_release, how_to_get

_HEAD_BYTES = 4096  # a plan of types names its format there
_MOST_NAMED = 8
_MATRIX = "imatrix"  # general.type of an importance matrix


@dataclass(frozen=True)
class MatrixEntry:
    """The importance of one matrix's columns: the mean square of their inputs over `count` rows of input.

    `spread` is the greatest importance over the mean: 1 where all columns matter alike.
    """

    name: str
    columns: int
    count: float
    least: float
    mean: float
    greatest: float
    unused: int  # columns whose inputs were always zero

    @property
    def spread(self) -> float:
        return self.greatest / self.mean if self.mean else 0.0


@dataclass(frozen=True)
class MatrixReport:
    """An importance matrix; `chunk_size` is in tokens, 0 where the file does not tell."""

    path: Path
    size_bytes: int
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int
    entries: tuple[MatrixEntry, ...]
    problems: tuple[BqError, ...] = ()


@dataclass(frozen=True)
class TypesReport:
    """A plan of types, as `bq search` writes it."""

    path: Path
    plan: TypePlan
    problems: tuple[BqError, ...] = ()


Report = ModelReport | CheckpointReport | AdapterReport | MatrixReport | TypesReport


def inspect(source: str) -> Report:
    """Look at a file or folder, or at the bundled checkpoint (`demo`). Raises BqError for what holds nothing to show."""
    path = Path(source).expanduser()
    if path.is_file():
        return _inspect_file(path)
    folder, name = find_source(source)
    if folder.is_dir():
        return _inspect_folder(folder, name)
    if (release := find_release(source)) is not None:
        raise UsageError(
            say(f"There is no file or folder {source}.", f"没有文件或文件夹 {source}。"),
            how_to_get(release),
        )
    return describe_model(read_remains(path))  # says that there is nothing


def _inspect_file(path: Path) -> Report:
    head = _head(path)
    if head.startswith(MAGIC):
        return _inspect_gguf(read_remains(path))
    if head.lstrip().startswith(b"{") and f'"{FORMAT}"'.encode() in head:
        return TypesReport(path, read_type_plan(path))
    if path.suffix == ".dat":  # the older form of an importance matrix has no mark of its own
        return _matrix_report(path, read_imatrix(path))
    if (path.parent / "config.json").is_file():
        return _inspect_folder(*find_source(str(path)))
    return describe_model(read_remains(path))  # says what it is instead


def _inspect_folder(folder: Path, name: str | None) -> CheckpointReport:
    if not any((folder / one).exists() for one in ("config.json", "tokenizer.model")):
        raise _no_checkpoint(folder)
    return inspect_checkpoint(folder, name)


def _no_checkpoint(folder: Path) -> UsageError:
    """The error for a folder without one, naming what is near: GGUF files, or folders below that have one."""
    files = (str(path) for path in sorted(folder.glob("*.gguf")))
    below = (str(path.parent) for path in sorted(folder.glob("*/config.json")))
    cached = (str(path.parent) for path in sorted(folder.glob("snapshots/*/config.json")))  # Hugging Face's cache
    near = list(islice(chain(files, below, cached), _MOST_NAMED))
    return UsageError(
        say(f"{folder} holds no checkpoint: config.json is missing.", f"{folder} 中没有检查点：缺少 config.json。"),
        say("Name one of these: ", "请指定其中之一：") + ", ".join(near)
        if near
        else say(
            "Give a GGUF file, the folder of a whole checkpoint, or `demo`.",
            "请给出 GGUF 文件、完整检查点的文件夹，或 `demo`。",
        ),
    )


def _inspect_gguf(remains: Remains) -> Report:
    if remains.file.text("general.type") == _MATRIX:
        return _matrix_report(remains.file.path, read_imatrix(remains.file.path))
    if remains.file.text("general.type") == ADAPTER:
        return describe_adapter(remains)
    return describe_model(remains)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:  # its reader says so
        return b""


def _matrix_report(path: Path, matrix: ImportanceMatrix) -> MatrixReport:
    entries = tuple(_matrix_entry(matrix, name) for name in matrix.entries)
    return MatrixReport(path, path.stat().st_size, matrix.datasets, matrix.chunks, matrix.chunk_size, entries)


def _matrix_entry(matrix: ImportanceMatrix, name: str) -> MatrixEntry:
    sums = matrix.entries[name]
    counts = np.array(sums.expert_counts or [sums.count])[:, np.newaxis]
    squares = sums.squares.astype(np.float64).reshape(len(counts), -1)
    importance = np.where(counts > 0, squares / np.maximum(counts, 1), 0.0).reshape(-1)
    return MatrixEntry(
        name,
        len(importance),
        sums.count,
        float(importance.min()),
        float(importance.mean()),
        float(importance.max()),
        int(np.count_nonzero(importance == 0)),
    )
