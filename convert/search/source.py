"""What a search works on: a GGUF file of high precision, or a checkpoint, of which only a header is written."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bq.convert.conversion import Conversion, refuse_unless_it_runs
from bq.convert.convert import find_source, prepare
from bq.convert.header import write_header
from bq.convert.importance import Importance
from bq.convert.plan import PlannedTensor
from bq.convert.rows import wide_rows
from bq.convert.search.measure import F32Array, Source, rows_of_file
from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.gguf_header import MAGIC
from bq.runtime.known import describe_file
from bq.runtime.language import say
from bq.runtime.session import ModelSource
from bq.runtime.structure import check_structure
from bq.runtime.tensor_parts import is_matrix

_FEWEST_BITS = 8  # per weight of a file that can stand for the model


@dataclass(frozen=True)
class Opened:
    """A source, its name as a part of file names, and what tells it from others; `folder` is the checkpoint's, None for a GGUF file."""

    source: Source
    name: str
    fingerprint: dict[str, str]
    folder: Path | None


@contextmanager
def open_source(given: str, importance: Importance | None) -> Iterator[Opened]:
    """The model that the user means. Raises BqError for whatever cannot be read or is too coarse already."""
    path = Path(given).expanduser()
    if _is_gguf(path):
        file = read_gguf(path)
        check_structure(file)
        _refuse_coarse(file)
        fingerprint = ModelSource.of(file, describe_file(file).name).fingerprint()
        yield Opened(Source(file, rows_of_file(file), importance), path.stem, dict(fingerprint), None)
        return
    folder, name = find_source(given)
    conversion = prepare(folder, "F16", name=name)
    refuse_unless_it_runs(conversion, "bq search")
    with TemporaryDirectory(prefix="bq-search-", ignore_cleanup_errors=True) as scratch:
        file = _header_of(conversion, Path(scratch) / "header.gguf")
        planned = {tensor.name: tensor for tensor in conversion.plan.tensors}

        def rows(tensor: str, first: int, after: int) -> F32Array:
            return _wide(planned[tensor], first, after)

        yield Opened(Source(file, rows, importance), conversion.identity.name, _fingerprint(conversion), folder)


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix == ".gguf" or file.read(len(MAGIC)) == MAGIC


def _refuse_coarse(file: GgufFile) -> None:
    matrices = [entry for entry in file.tensors.values() if is_matrix(entry)]
    bits = 8 * sum(one.size_bytes for one in matrices) / sum(prod(one.shape) for one in matrices)
    if bits < _FEWEST_BITS:
        raise UsageError(
            say(
                f"{file.path.name} has {bits:.1f} bits per weight: what is lost already cannot be measured.",
                f"{file.path.name} 每权重仅 {bits:.1f} 位：已丢失的精度无法测量。",
            ),
            say("Search on the checkpoint, or on a BF16 or Q8_0 file.", "请对检查点或 BF16、Q8_0 文件进行搜索。"),
        )


def _header_of(conversion: Conversion, path: Path) -> GgufFile:
    """The conversion's header, its weights a hole: nothing reads them from there."""
    with write_header(conversion, path) as out:
        out.truncate(out.tell() + conversion.plan.data_bytes)
    return read_gguf(path)


def _wide(tensor: PlannedTensor, first: int, after: int) -> F32Array:
    wide = np.empty((after - first, tensor.columns), np.float32)
    wide_rows(tensor, first, after, wide)
    return wide


def _fingerprint(conversion: Conversion) -> dict[str, str]:
    """The checkpoint's configuration, and name, size and time of its weight files: reading 15 GB for a digest takes a minute."""
    config = json.dumps(conversion.checkpoint.config, sort_keys=True, ensure_ascii=False)
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in conversion.checkpoint.files]
    digest = hashlib.sha256((config + repr(files)).encode("utf-8", "surrogateescape")).hexdigest()
    return {"name": conversion.identity.name, "checkpoint": digest}
