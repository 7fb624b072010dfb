"""A GGUF header is read right, or refused in one line: never another error, never memory or time without bounds."""

import os
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.gguf_header import MAX_ARRAY, MAX_KEYS, MAX_STRING, MAX_TENSORS
from tests.support.refusals import advised_refusal

U8, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 6, 7, 8, 9, 10
Convert = Callable[..., Path]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + u32(kind) + value


def tensor(name: str, sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, dims: int | None = None) -> bytes:
    return text(name) + u32(len(sizes) if dims is None else dims) + b"".join(map(u64, sizes)) + u32(kind) + u64(offset)


def header(
    keys: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 4096,
    align: int = 32,
) -> bytes:
    tensor_count, key_count = counts or (len(tensors), len(keys))
    head = magic + u32(version) + u64(tensor_count) + u64(key_count) + b"".join((*keys, *tensors))
    return head + b"\0" * (-len(head) % align + data)


NAME = key("general.name", STRING, text("x"))
HOSTILE = {
    "empty": b"",
    "short": b"GGUF\3\0\0\0",
    "another magic": header(magic=b"GGML"),
    "swapped bytes": header(magic=b"FUGG"),
    "version 0": header(version=0),
    "version 1": header(version=1),
    "version 4": header(version=4),
    "big-endian version": header(version=3 << 24),
    "too many keys": header(counts=(0, MAX_KEYS + 1)),
    "too many tensors": header(counts=(MAX_TENSORS + 1, 0)),
    "counts of 2^64": header(counts=((1 << 64) - 1, (1 << 64) - 1)),
    "fewer keys than counted": header((NAME,), counts=(0, 4000), data=0),
    "fewer tensors than counted": header((), (tensor("a"),), counts=(9, 0), data=0),
    "a key of 2^63 bytes": header((u64(1 << 63) + b"a" + u32(U32) + u32(1),), data=0),
    "a string beyond the end": header((key("a", STRING, u64(5000) + b"abc"),), data=8),
    "a string over the limit": header((key("a", STRING, u64(MAX_STRING + 1) + b"abc"),)),
    "a string of 2^64 - 1": header((key("a", STRING, u64((1 << 64) - 1) + b"abc"),)),
    "value type 13": header((key("a", 13, u32(1)),)),
    "value type 2^32 - 1": header((key("a", (1 << 32) - 1, u32(1)),)),
    "an array beyond the end": header((key("a", ARRAY, u32(U8) + u64(99999)),), data=8),
    "an array over the limit": header((key("a", ARRAY, u32(U8) + u64(MAX_ARRAY + 1)),)),
    "an array of 2^64 - 1": header((key("a", ARRAY, u32(U64) + u64((1 << 64) - 1)),)),
    "an array of arrays": header((key("a", ARRAY, u32(ARRAY) + u64(1) + u32(U8) + u64(1) + b"a"),)),
    "an array of an unknown type": header((key("a", ARRAY, u32(77) + u64(1) + b"a"),)),
    "strings that end early": header((key("a", ARRAY, u32(STRING) + u64(1000) + text("a")),), data=8),
    "a key twice": header((NAME, NAME)),
    "a key without a name": header((key("", U32, u32(1)),)),
    "a key with a NUL": header((key("general.name\0", STRING, text("x")),)),
    "a key of 70,000 bytes twice": header((key("a" * 70000, U32, u32(1)),) * 2),
    "a text over the limit in many strings": header(
        (key("a", ARRAY, u32(STRING) + u64(3) + text(b"a" * (1 << 25)) * 3),)
    ),
    "alignment 0": header((key("general.alignment", U32, u32(0)),)),
    "alignment 16, less than llama.cpp maps": header((key("general.alignment", U32, u32(16)),), align=16),
    "alignment as a longer number": header((key("general.alignment", U64, u64(32)),)),
    "alignment as a long text": header((key("general.alignment", STRING, text("a" * 70000)),)),
    "alignment 33": header((key("general.alignment", U32, u32(33)),)),
    "alignment 2^31": header((key("general.alignment", U32, u32(1 << 31)),)),
    "alignment as text": header((key("general.alignment", STRING, text("32")),)),
    "alignment as truth": header((key("general.alignment", BOOL, b"\1"),)),
    "alignment as float": header((key("general.alignment", F32, struct.pack("<f", 32)),)),
    "a tensor twice": header((), (tensor("a"), tensor("a", offset=128))),
    "no dimension": header((), (tensor("a", ()),)),
    "five dimensions": header((), (tensor("a", (1, 1, 1, 1, 32)),)),
    "2^32 - 1 dimensions": header((), (tensor("a", (32,), dims=(1 << 32) - 1),)),
    "a dimension of 0": header((), (tensor("a", (32, 0)),)),
    "a dimension of 2^63": header((), (tensor("a", (1 << 63,)),)),
    "a product over 2^64": header((), (tensor("a", (1 << 33, 1 << 33)),)),
    "bytes that wrap around 2^64": header((), (tensor("a", (1 << 39, 1 << 20, 4)),)),
    "a name of 64 bytes": header((), (tensor("a" * 64),)),
    "a name of 64 bytes in 32 characters": header((), (tensor("é" * 32),)),
    "a name of nothing": header((), (tensor(""),)),
    "a name with a NUL": header((), (tensor("a\0b"),)),
    "tensor type 31": header((), (tensor("a", kind=31),)),
    "a removed tensor type": header((), (tensor("a", kind=4),)),
    "tensor type 2^32 - 1": header((), (tensor("a", kind=(1 << 32) - 1),)),
    "half a block": header((), (tensor("a", (48,), kind=2),)),
    "beyond the end": header((), (tensor("a", offset=4096),)),
    "an offset of 2^64 - 32": header((), (tensor("a", offset=(1 << 64) - 32),)),
    "an offset off the alignment": header((), (tensor("a", offset=16),)),
    "one over another": header((), (tensor("a", (64,)), tensor("b", (64,), offset=128))),
    "one inside another": header((), (tensor("a", (256,)), tensor("b", (8,), offset=32))),
    "a gap between two": header((), (tensor("a"), tensor("b", offset=256))),
    "the second first": header((), (tensor("b", offset=128), tensor("a"))),
    "no data": header((), (tensor("a", (1024,)),), data=0),
}


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_header_is_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BqError, match=r"^x\.gguf is no whole GGUF file: .+\. Convert it again") as caught:
        read_gguf(_write(tmp_path, data))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (struct.pack("<Q", 900) + b'{"__metadata__":{}}', "it is a safetensors file"),
        (b"PK\3\4\x14\0\0\0\0\0archive/data.pkl", "it is a zip archive"),
        (b"\x80\2}q\0X\x1a", "it is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "it is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"<html>", "it is a web page"),
        (b'{"error":"gated"}', "it is JSON"),
        (b"tjgg\3\0\0\0", "it is a model of llama.cpp from before GGUF"),
        (b"\x1f\x8b\x08", "it is a gzip archive"),
        (b"\0" * 4096, "it is only zeros at its beginning"),
        (b"GGUF\0\0\0\3" + b"\0" * 99, "it was made for big-endian machines"),
        (b"GGUF\3\0\0\0", "it has only 8 bytes"),
        (b"", "it is empty"),
        (b"Entry not found", "it does not begin with GGUF"),
    ],
)
def test_what_is_no_gguf_is_called_by_its_name(tmp_path: Path, head: bytes, words: str) -> None:
    with pytest.raises(BqError, match=rf"^x\.gguf is no whole GGUF file: {re.escape(words)}"):
        read_gguf(_write(tmp_path, head))


def test_pieces_that_are_no_utf8_stay_different(tmp_path: Path) -> None:
    pieces = key("a", ARRAY, u32(STRING) + u64(3) + text(b"\xff") + text(b"\xfe") + text("é"))
    file = read_gguf(_write(tmp_path, header((pieces, key("name", STRING, text(b"\xff"))))))
    assert file.metadata == {"a": ["\udcff", "\udcfe", "é"], "name": "�"}
    assert file.kinds == {"a": "[str]", "name": "str"}


def test_the_same_header_without_the_fault_is_read(tmp_path: Path) -> None:
    """What the hostile ones above differ from is good: they are refused for their fault alone."""
    keys = (NAME, key("a", ARRAY, u32(BOOL) + u64(2) + b"\0\1"), key("general.alignment", U32, u32(64)))
    tensors = (tensor("a", (32, 2)), tensor("b", (64,), offset=256), tensor("c" * 63, (32,), kind=2, offset=512))
    file = read_gguf(_write(tmp_path, header(keys, tensors, align=64)))
    assert file.metadata == {"general.name": "x", "a": [False, True], "general.alignment": 64}
    assert {one.name: (one.shape, one.size_bytes) for one in file.tensors.values()} == {
        "a": ((2, 32), 256),
        "b": ((64,), 256),
        "c" * 63: ((32,), 18),
    }
    assert file.tensors["a"].start % 64 == 0


@pytest.mark.parametrize("kind", [2, 3], ids=["version 2", "version 3"])
def test_both_versions_are_read(tmp_path: Path, kind: int) -> None:
    assert read_gguf(_write(tmp_path, header((NAME,), version=kind))).text("general.name") == "x"


@pytest.fixture(scope="session")
def small(converted: Convert) -> bytes:
    return converted("b2-7b", "Q8_0", hidden=32, heads=2, ffn=32).read_bytes()


def test_values_agree_with_gguf_py(converted: Convert) -> None:
    path = converted("b1-13b", "Q4_K_M", hidden=192, ffn=256)
    ours, theirs = read_gguf(path), GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert {name: ours.metadata[name] for name in fields} == fields
    assert set(ours.metadata) == set(fields)
    names = {"STRING": "str", "UINT32": "u32", "INT32": "i32", "FLOAT32": "f32", "BOOL": "bool"}
    for name in fields:
        types = [names.get(kind.name, "arr") for kind in theirs.fields[name].types]
        assert ours.kinds[name] == (f"[{types[1]}]" if types[0] == "arr" else types[0])
    assert set(ours.tensors) == {one.name for one in theirs.tensors}
    for one in theirs.tensors:
        entry = ours.tensors[one.name]
        assert (entry.kind, entry.shape) == (one.tensor_type, tuple(reversed(one.shape.tolist())))
        assert (entry.start, entry.size_bytes) == (one.data_offset, one.n_bytes)
        assert np.array_equal(ours.bytes[entry.start : entry.start + entry.size_bytes], one.data.reshape(-1).view("u1"))


def _refused_or_read(path: Path) -> Any:
    try:
        return read_gguf(path)
    except BqError:
        return None


def test_a_file_cut_anywhere_is_refused(tmp_path: Path, small: bytes) -> None:
    data_start = min(entry.start for entry in read_gguf(_write(tmp_path, small)).tensors.values())
    places = {*range(0, 3000), *range(0, len(small), 997), *range(data_start - 200, data_start + 50), len(small) - 1}
    path = _write(tmp_path, small)
    for length in sorted(places, reverse=True):
        os.truncate(path, length)
        assert _refused_or_read(path) is None, length


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 24000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_mutations_give_no_other_error(tmp_path: Path, small: bytes, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(small)
    for place, bad in changes:
        data[place : place + len(bad)] = bad
    _refused_or_read(_write(tmp_path, bytes(data)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_give_no_other_error(tmp_path: Path, data: bytes) -> None:
    _refused_or_read(_write(tmp_path, b"GGUF" + u32(3) + data))


@pytest.mark.parametrize(
    "data",
    [
        header((key("a", ARRAY, u32(U8) + u64(MAX_ARRAY)),), data=1000),
        header((key("a", STRING, u64(MAX_STRING)),), data=1000),
        header(tuple(key(f"k{i}", ARRAY, u32(U8) + u64(1 << 21) + b"\1" * (1 << 21)) for i in range(10))),
    ],
    ids=["claimed array", "claimed string", "many arrays"],
)
def test_memory_and_time_are_bounded(tmp_path: Path, data: bytes) -> None:
    path = _write(tmp_path, data)
    tracemalloc.start()
    begun = time.monotonic()
    _refused_or_read(path)
    assert time.monotonic() - begun < 5
    assert tracemalloc.get_traced_memory()[1] < 200 << 20
    tracemalloc.stop()


def test_all_arrays_together_are_bounded(tmp_path: Path) -> None:
    half = key("a", ARRAY, u32(U8) + u64(MAX_ARRAY // 2) + b"\1" * (MAX_ARRAY // 2))
    rest = key("b", ARRAY, u32(U8) + u64(MAX_ARRAY // 2 + 1) + b"\1" * (MAX_ARRAY // 2 + 1))
    with pytest.raises(BqError, match="claims an array"):
        read_gguf(_write(tmp_path, header((half, rest))))


def test_a_missing_file_a_folder_and_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(BqError, match=r"There is no file .*none\.gguf"):
        read_gguf(tmp_path / "none.gguf")
    assert "cannot be read" in advised_refusal(read_gguf, tmp_path)
    with pytest.raises(BqError):
        read_gguf(tmp_path / "\0")
    with pytest.raises(BqError):
        read_gguf(tmp_path / ("x" * 5000))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BqError, match="pipe"):
        read_gguf(tmp_path / "pipe")


def test_getters_give_the_default_for_another_type(tmp_path: Path) -> None:
    nan, inf = (key(name, F32, struct.pack("<f", float(name))) for name in ("nan", "inf"))
    file = read_gguf(_write(tmp_path, header((NAME, nan, inf, key("one", U32, u32(1)), key("yes", BOOL, b"\2")))))
    assert (file.text("general.name"), file.text("one", "d"), file.text("none")) == ("x", "d", "")
    assert (file.count("one"), file.count("yes", 5), file.count("nan", 5), file.count("inf", 5)) == (1, 5, 5, 5)
    assert (file.number("nan", 0.5), file.number("general.name", 0.5)) == (0.5, 0.5)
    assert (file.flag("yes", False), file.flag("one", False)) == (True, False)
