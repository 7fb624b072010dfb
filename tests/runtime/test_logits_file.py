"""The file of log probabilities is llama-perplexity's, byte for byte; a damaged one ends in one line, never in figures."""

import contextlib
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError
from bq.runtime.evaluation import logits_file, score

F32 = npt.NDArray[np.float32]
CONTEXT, CHUNKS = 8, 2
ROWS = 3  # of a chunk of 8: the positions 4, 5 and 6; what follows position 7 is not known


def row_by_hand(logits: F32) -> bytes:
    """A row as log_softmax of tools/perplexity/perplexity.cpp defines it, one float32 operation after the other."""
    single = np.float32
    top, bottom = single(max(logits)), single(max(min(logits), max(logits) - single(16)))
    log_total = single(math.log(math.fsum(float(np.exp(logit - top)) for logit in logits)))
    scale, least = single((top - bottom) / single(65535)), single(bottom - top - log_total)
    inverse = single(1) / scale if scale else single(0)
    steps = [int(np.rint(inverse * (logit - bottom))) if scale and logit > bottom else 0 for logit in logits]
    padding = [0] * (len(logits) % 2)
    return struct.pack("<ff", scale, least) + struct.pack(f"<{len(steps) + len(padding)}H", *steps, *padding)


def some_logits(vocabulary: int, seed: int = 0, rows: int = ROWS * CHUNKS) -> F32:
    return (np.random.default_rng(seed).standard_normal((rows, vocabulary)) * 9).astype(np.float32)


def some_file(path: Path, vocabulary: int = 11) -> tuple[Path, F32]:
    """A file packed by hand of CHUNKS chunks, and the logits that it was made from."""
    logits = some_logits(vocabulary)
    tokens = [i % vocabulary for i in range(CHUNKS * CONTEXT)]
    head = b"_logits_" + struct.pack("<III", CONTEXT, vocabulary, CHUNKS) + struct.pack(f"<{len(tokens)}i", *tokens)
    path.write_bytes(head + b"".join(row_by_hand(row) for row in logits))
    return path, logits


@pytest.mark.parametrize("vocabulary", [10, 11])
def test_the_bytes_are_those_of_the_definition(tmp_path: Path, vocabulary: int) -> None:
    path, logits = some_file(tmp_path / "x.logits", vocabulary)
    chunks = np.arange(CHUNKS * CONTEXT, dtype=np.int32).reshape(CHUNKS, CONTEXT) % vocabulary
    written = logits_file.header(list(chunks), vocabulary) + logits_file.pack(logits).tobytes()
    assert written == path.read_bytes()


@given(st.integers(0, 2**32), st.sampled_from([0.0, 1e-3, 1.0, 40.0]))
def test_every_row_is_packed_as_by_hand(seed: int, spread: float) -> None:
    logits = (np.random.default_rng(seed).standard_normal((2, 33)) * spread).astype(np.float32)
    assert logits_file.pack(logits).tobytes() == b"".join(row_by_hand(row) for row in logits)


def test_what_was_packed_by_hand_is_read(tmp_path: Path) -> None:
    path, logits = some_file(tmp_path / "x.logits")
    assert logits_file.is_logits_file(path)
    with logits_file.open_logits(path) as found:
        assert (found.context, found.vocabulary, found.tokens.shape) == (CONTEXT, 11, (CHUNKS, CONTEXT))
        assert found.tokens.ravel().tolist() == [i % 11 for i in range(CHUNKS * CONTEXT)]
    rows = read_all(path)
    expected = score.log_softmax(logits)
    near = logits > logits.max(axis=1, keepdims=True) - 16
    assert 0 < near.sum() < near.size
    assert np.abs(rows - expected)[near].max() <= 16 / 65535 / 2 + 4e-6  # half a step, and float32's own rounding
    assert (rows[~near] <= -16).all()


def test_the_likelihood_of_a_token_is_its_place_in_the_row(tmp_path: Path) -> None:
    packed = logits_file.pack(some_logits(11))
    tokens = np.array([0, 10, 3, 5, 7, 2], np.int32)
    expected = -logits_file.unpack(packed, 11)[np.arange(6), tokens]
    assert logits_file.unpack_nll(packed, tokens).tolist() == expected.tolist()


def test_a_divergence_from_packed_rows_is_off_by_the_rounding_alone() -> None:
    logits = some_logits(500, rows=400)
    base = logits_file.unpack(logits_file.pack(logits), 500)
    found = score.divergence(base, logits)
    assert np.abs(found).max() < 1.3e-4
    assert abs(found.mean()) < 1e-5
    assert score.agreement(base, logits).all()


def edited(name: str) -> Callable[[bytes], bytes]:
    counts = {"context": 8, "vocabulary": 12, "chunks": 16}

    def put(at: int, value: bytes) -> Callable[[bytes], bytes]:
        return lambda data: data[:at] + value + data[at + len(value) :]

    rows = 20 + 4 * CHUNKS * CONTEXT
    return {
        "magic": put(0, b"_logitz_"),
        "no context": put(counts["context"], struct.pack("<I", 2)),
        "a huge context": put(counts["context"], struct.pack("<I", 1 << 31)),
        "no vocabulary": put(counts["vocabulary"], struct.pack("<I", 0)),
        "a huge vocabulary": put(counts["vocabulary"], struct.pack("<I", (1 << 32) - 1)),
        "another vocabulary": put(counts["vocabulary"], struct.pack("<I", 13)),
        "no chunks": put(counts["chunks"], struct.pack("<I", 0)),
        "many chunks": put(counts["chunks"], struct.pack("<I", (1 << 32) - 1)),
        "a token below": put(20, struct.pack("<i", -1)),
        "a token above": put(20, struct.pack("<i", 11)),
        "a scale that is no number": put(rows, struct.pack("<f", math.nan)),
        "a negative scale": put(rows, struct.pack("<f", -1e-4)),
        "a probability above 1": put(rows + 4, struct.pack("<f", 3.0)),
        "an infinite minimum": put(rows + 4, struct.pack("<f", -math.inf)),
        "one byte less": lambda data: data[:-1],
        "one byte more": lambda data: data + b"\0",
        "a chunk less": lambda data: data[: -ROWS * logits_file.row_bytes(11)],
        "nothing": lambda data: b"",
        "a header alone": lambda data: data[:20],
    }[name]


EDITS = """magic/no context/a huge context/no vocabulary/a huge vocabulary/another vocabulary/no chunks/many chunks/a token below
a token above/a scale that is no number/a negative scale/a probability above 1/an infinite minimum/one byte less/one byte more
a chunk less/nothing/a header alone"""


@pytest.mark.parametrize("edit", EDITS.replace("\n", "/").split("/"))
def test_a_damaged_file_is_refused_in_a_line(tmp_path: Path, edit: str) -> None:
    path, _ = some_file(tmp_path / "x.logits")
    path.write_bytes(edited(edit)(path.read_bytes()))
    with pytest.raises(BqError, match=r"^x\.logits is no whole file of log probabilities: [^\n]+$"):
        read_all(path)


@settings(max_examples=60)
@given(data=st.data())
def test_no_change_of_bytes_ends_in_anything_but_a_line_or_finite_rows(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path, _ = some_file(tmp_path_factory.getbasetemp() / "fuzzed.logits")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(BqError):
        assert np.isfinite(read_all(path)).all()


def read_all(path: Path) -> F32:
    """All rows of a file, [n, vocabulary]."""
    with logits_file.open_logits(path) as found:
        chunks = range(len(found.tokens))
        return np.concatenate([logits_file.unpack(found.rows(chunk), found.vocabulary) for chunk in chunks])


def test_a_missing_file_and_a_folder_are_refused_in_a_line(tmp_path: Path) -> None:
    assert not logits_file.is_logits_file(tmp_path / "none")
    assert not logits_file.is_logits_file(tmp_path)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BqError, match="cannot be read"):
            logits_file.open_logits(path)
