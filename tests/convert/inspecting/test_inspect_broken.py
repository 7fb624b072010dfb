"""What is broken is told as far as it goes, within bounds."""

import math
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bq.convert.inspect.gguf_remains import read_remains
from bq.convert.inspect.model import ModelReport, inspect_model
from bq.runtime import gguf_header
from tests.support.broken_gguf import broken
from tests.support.gguf_writer import ARRAY, I32, STRING, U32, Parts, encoded, take_apart, text
from tests.support.refusals import only_refuses


def test_a_download_that_broke_off_shows_its_header_and_how_much_is_there(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) * 3 // 4])
    whole, cut = inspect_model(path), inspect_model(tmp_path / "cut.gguf")
    assert (cut.metadata, cut.tensors) == (whole.metadata, whole.tensors)
    assert cut.has_whole_header
    assert "should lie at bytes" in cut.problems[0].cause
    assert "75% of it is there" in cut.problems[1].cause


def test_a_header_that_breaks_off_keeps_what_stands_before(path: Path, tmp_path: Path) -> None:
    data, whole = path.read_bytes(), inspect_model(path)
    end = whole.tensors[0].start
    for length in random.Random(0).sample(range(24, end), 30):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        cut = inspect_model(tmp_path / "cut.gguf")
        assert cut.metadata == whole.metadata[: len(cut.metadata)]
        assert [(one.name, one.kind, one.shape) for one in cut.tensors] == [
            (one.name, one.kind, one.shape) for one in whole.tensors[: len(cut.tensors)]
        ]
        assert len(cut.problems) == 1  # how much is missing cannot be told
        assert cut.warnings == ()  # what is not there may have been cut off


def test_types_that_bq_does_not_run_are_named(edited: Callable[..., ModelReport]) -> None:
    def retyped(kind: int) -> Callable[[Parts], Parts]:
        return lambda parts: parts.with_tensor(3, replace(parts.tensors[3], kind=kind))

    report = edited(retyped(39))
    assert (report.tensors[3].kind, report.tensors[3].size_bytes) == (
        "MXFP4",
        math.prod(report.tensors[3].shape) // 32 * 17,
    )
    assert "type 39" in str(report.problems[0])
    report = edited(retyped(77))
    assert (report.tensors[3].kind, report.tensors[3].size_bytes) == ("type 77", None)
    assert report.bits_per_weight is not None


def test_every_kind_of_broken_file_gives_a_report_or_a_line(path: Path, tmp_path: Path) -> None:
    """Some of the corpus that bq.runtime.gguf_header is held against."""
    parts = take_apart(path)
    corpus = list(broken(parts, flips=100))
    file = tmp_path / "broken.gguf"
    shown = 0
    for _, make in random.Random(1).sample(corpus, 60):
        file.write_bytes(make())
        shown += only_refuses(inspect_model, file) is not None
    assert shown > 30


@pytest.mark.parametrize(
    "tail",
    [
        text("k") + encoded(U32, ARRAY) + encoded(U32, I32) + b"\xff" * 8,
        text("k") + encoded(U32, ARRAY) + encoded(U32, STRING) + b"\xff" * 7 + b"\0",
        text("k") + encoded(U32, STRING) + b"\xff" * 8,
        b"\xff" * 8,
        text("k") + encoded(U32, 99),
    ],
    ids=["array", "strings", "string", "key", "type"],
)
def test_what_a_broken_header_claims_takes_no_memory(tail: bytes, tmp_path: Path) -> None:
    head = Parts((), (), counts=(3, 1 << 40)).header()
    (tmp_path / "x.gguf").write_bytes(head + tail + bytes(1000))
    tracemalloc.start()
    try:
        remains = read_remains(tmp_path / "x.gguf")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert (dict(remains.file.metadata), remains.tensors) == ({}, ())
    assert remains.fault is not None
    assert not remains.has_whole_header


@pytest.mark.parametrize("bound", ["MAX_STRING", "MAX_ARRAY"])
def test_text_and_arrays_are_bounded_as_for_a_sound_file(
    bound: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(path.read_bytes()[:-1])
    before = read_remains(file).file.metadata
    monkeypatch.setattr(gguf_header, bound, 1000)
    after = read_remains(file)
    assert "tokenizer.ggml.token_type" not in after.file.metadata
    assert list(after.file.metadata) == list(before)[: len(after.file.metadata)]
    assert not after.has_whole_header


def test_weights_are_not_read(path: Path, tmp_path: Path) -> None:
    """A tensor of 4 GiB that is a hole in the file."""
    parts = take_apart(path)
    big = replace(parts.tensors[0], name="big", dims=(1 << 10, 1 << 20), kind=0, data=b"")
    file = tmp_path / "x.gguf"
    header = Parts(parts.keys, (big,)).header()
    with file.open("wb") as out:
        out.write(header)
        out.truncate(-(-len(header) // 32) * 32 + (4 << 30))
    tracemalloc.start()
    try:
        report = inspect_model(file)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert report.tensors[0].size_bytes == 4 << 30
