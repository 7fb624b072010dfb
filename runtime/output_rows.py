"""The norms of the rows of a file's output.weight, by which one sees whether NormHead was folded into it."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bq.runtime import ggml
from bq.runtime.gguf_file import GgufFile, TensorEntry

# Rows of output.weight that are looked at: runs of neighbours, so that a disk is read in few places.
_RUNS, _ROWS_OF_A_RUN = 16, 16
# How far quantization moves the norm of a row of norm 1: at most 0.012 for 4 bits and more, 0.1 for those listed
# (measured over normal and heavy-tailed rows, tests/runtime/test_known.py). Coarser types say nothing.
NOISE, _COARSE_NOISE = 0.03, 0.11
_COARSE = (ggml.GgmlType.Q2_K, ggml.GgmlType.Q3_K, ggml.GgmlType.IQ3_S)


def noise_of(output: TensorEntry) -> float | None:
    """How far from 1 the norm of a normalised row may be after quantization; None where that says nothing."""
    if output.kind in _COARSE:
        return _COARSE_NOISE
    weights, size = ggml.block_size(output.kind)
    return NOISE if 8 * size >= 4 * weights else None


def row_norms(file: GgufFile) -> npt.NDArray[np.float64]:
    """L2 norms of rows spread over output.weight; rows of zeros, which padding has, are left out."""
    output = file.tensors.get("output.weight")
    if output is None or len(output.shape) != 2:
        return np.empty(0)
    rows, columns = output.shape
    row_bytes = output.size_bytes // rows
    starts = sorted(set(np.linspace(0, max(0, rows - _ROWS_OF_A_RUN), _RUNS, dtype=int).tolist()))
    found: list[npt.NDArray[np.float64]] = []
    with file.path.open("rb") as source:
        for start, after in pairwise((*starts, rows)):
            source.seek(output.start + start * row_bytes)
            data = source.read(min(_ROWS_OF_A_RUN, after - start) * row_bytes)
            packed = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)
            found.append(np.linalg.norm(ggml.dequantize(output.kind, packed, columns).astype(np.float64), axis=1))
    norms: npt.NDArray[np.float64] = np.concatenate(found)
    return norms[np.flatnonzero(norms)]
