"""The limits of verification lie above what quantization does to rows of every kind, and below what a wrong tensor is off by."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from bq.convert.verify.limits import bits_per_weight, block_error, norm_noise, row_error
from bq.runtime import ggml
from bq.runtime.ggml import GgmlType

Rows = npt.NDArray[np.float32]
ALONE = [
    kind for kind in GgmlType if not kind.name.startswith(("IQ1", "IQ2", "IQ3", "TQ"))
]  # quick, and without a matrix


def samples(seed: int, rows: int = 12, columns: int = 256) -> Iterator[Rows]:
    """Even, normal and heavy-tailed rows, with a column of outliers, with columns of different size; as bfloat16."""
    rng = np.random.default_rng(seed)
    shape = (rows, columns)
    outlier = rng.standard_normal(shape)
    outlier[:, 7] *= 30
    for wide in (
        rng.uniform(-1, 1, shape),
        rng.standard_normal(shape),
        rng.standard_t(3, shape),
        rng.standard_t(2, shape),
        outlier,
        rng.standard_normal(shape) * np.exp(rng.standard_normal(columns)),
    ):
        bits = np.ascontiguousarray(wide * 0.02, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        yield bits.view(np.float32)


def relative(error: Rows, rows: Rows) -> Rows:
    return np.asarray(np.linalg.norm(error, axis=-1) / np.linalg.norm(rows, axis=-1))


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_no_row_and_no_block_of_a_right_file_is_beyond_them(kind: GgmlType, is_weighted: bool) -> None:
    rng = np.random.default_rng(kind)
    width = max(32, ggml.block_size(kind)[0])
    for rows in samples(kind):
        importance = np.exp(rng.standard_normal(rows.shape[1])).astype(np.float32) if is_weighted else None
        error = ggml.dequantize(kind, ggml.quantize(kind, rows, importance), rows.shape[1]) - rows
        assert relative(error, rows).max() < row_error(kind)
        limit = block_error(kind)
        if limit is not None:
            blocks = relative(error.reshape(-1, width), rows.reshape(-1, width))
            assert blocks.max() < limit


@pytest.mark.parametrize("kind", GgmlType)
def test_a_row_of_another_tensor_is_beyond_them(kind: GgmlType) -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.standard_normal((2, 50, 512))
    assert relative(np.asarray(others - rows, np.float32), np.asarray(rows, np.float32)).min() > row_error(kind)
    assert row_error(kind) < 1  # a row of zeros is 1 away


@pytest.mark.parametrize("kind", [kind for kind in ALONE if norm_noise(kind) is not None])
def test_normalised_rows_keep_their_norms(kind: GgmlType) -> None:
    noise = norm_noise(kind)
    assert noise is not None
    for rows in samples(kind, columns=512):
        unit = np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
        norms = np.linalg.norm(ggml.dequantize(kind, ggml.quantize(kind, unit), rows.shape[1]), axis=1)
        low, high = np.quantile(norms, (0.05, 0.95))
        assert 1 - noise < low <= high < 1 + noise


def test_bits_are_those_of_the_formats() -> None:
    assert [bits_per_weight(kind) for kind in (GgmlType.F32, GgmlType.Q8_0, GgmlType.Q4_K)] == [32, 8.5, 4.5]
