"""Every rule of the safetensors format is kept, and a file that breaks one is refused in one line that says which."""

import json
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.safetensors_file import read_safetensors_file
from tests.support.refusals import only_refuses, refusal
from tests.support.safetensors_file import write_safetensors
from tests.support.stored import stored

F32_4 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def write(path: Path, header: object, data: bytes = bytes(16), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes: object) -> dict[str, object]:
    return {key: value for key, value in {**F32_4, **changes}.items() if value is not None}


def use(path: Path) -> None:
    for tensor in read_safetensors_file(path).values():
        if tensor.is_float and 0 not in tensor.shape:
            np.nan_to_num(tensor.view()).sum()


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_tensors_lie_where_the_header_says(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"b.weight": rng.integers(-9, 9, (3, 4)), "a": rng.integers(-9, 9, 5), "s": np.array(2)}
    write_safetensors(tmp_path / "x.safetensors", [stored(name, a, dtype) for name, a in arrays.items()])
    found = read_safetensors_file(tmp_path / "x.safetensors")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        view = found[name].view()
        wide = (view.astype(np.uint32) << 16).view(np.float32) if dtype == "bf16" else view
        assert np.array_equal(wide, array)


def test_an_odd_header_length_and_an_empty_tensor_are_allowed(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "e": entry(shape=[0, 3], data_offsets=[0, 0]), "w": F32_4}
    raw = json.dumps(header).encode()
    raw += b" " * (1 - len(raw) % 2)
    path = write(tmp_path / "x.safetensors", raw, np.arange(4, dtype="<f4").tobytes())
    assert len(raw) % 2 == 1
    assert read_safetensors_file(path)["w"].view().tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"w": F32_4, "v": F32_4}, "offsets of w"),
        ({"w": F32_4, "v": entry(data_offsets=[8, 24])}, "offsets of v"),
        ({"w": entry(data_offsets=[8, 24])}, "offsets of w"),
        ({"w": entry(data_offsets=[0, 8])}, "offsets of w"),
        ({"w": entry(data_offsets=[16, 0])}, "offsets of w"),
        ({"w": entry(shape=[2, 3])}, "offsets of w"),
        ({"w": entry(dtype="BF16")}, "offsets of w"),
        ({"w": entry(shape=[2])}, "offsets of w"),
        ({"w": entry(shape=[1, 1], data_offsets=[0, 4])}, "end at byte"),
        ({}, "end at byte"),
        ({"w": entry(shape=[4, 4], data_offsets=[0, 64])}, "end at byte"),
        ({"w": entry(dtype="F4")}, "unknown dtype F4"),
        ({"w": entry(dtype="f32")}, "unknown dtype f32"),
        ({"w": entry(shape=[-2, -2])}, "other than counts"),
        ({"w": entry(shape=[2.0, 2])}, "other than counts"),
        ({"w": entry(shape=[True, 4])}, "other than counts"),
        ({"w": entry(shape="22")}, "other than counts"),
        ({"w": entry(shape={"a": 1})}, "other than counts"),
        ({"w": entry(data_offsets=[0, "16"])}, "other than counts"),
        ({"w": entry(data_offsets=[0])}, "other than counts"),
        ({"w": entry(data_offsets=[0, 8, 16])}, "other than counts"),
        ({"w": entry(shape=[1 << 62] * 5000)}, "other than counts"),
        ({"w": entry(dtype=None)}, "not described by dtype, shape and data_offsets"),
        ({"w": entry(shape=None)}, "not described by dtype, shape and data_offsets"),
        ({"w": entry(extra=1)}, "not described by dtype, shape and data_offsets"),
        ({"w": [1, 2]}, "not described by dtype, shape and data_offsets"),
        ({"w": None}, "not described by dtype, shape and data_offsets"),
        ({"w": F32_4, "__metadata__": {"a": 1}}, "__metadata__"),
        ({"w": F32_4, "__metadata__": "pt"}, "__metadata__"),
        ([], "no object"),
        (b' {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}', "no object"),
        (b'{"w": 1, "w": 2}', "a name stands twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}', "a name stands twice"),
        (b'{"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, ' + b"9" * 5000 + b"]}}", ""),
        (b"[" * 100_000, ""),
        (b'{"a":' * 100_000, ""),
        (b'{"\xff\xfe": {}}', "utf-8"),
        (b"{", ""),
        (b"", ""),
    ],
)
def test_a_broken_rule_is_refused(header: object, says: str, tmp_path: Path) -> None:
    message = refusal(read_safetensors_file, write(tmp_path / "x.safetensors", header))
    assert "x.safetensors is no whole safetensors file" in message
    assert says in message
    assert len(message) < 600


@pytest.mark.parametrize("data", [b"", bytes(15), bytes(17)])
def test_data_too_short_or_too_long_is_refused(data: bytes, tmp_path: Path) -> None:
    assert "end at byte" in refusal(read_safetensors_file, write(tmp_path / "x.safetensors", {"w": F32_4}, data))


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 100_000_000, 10_000])
def test_a_header_length_beyond_file_or_bound_is_refused(length: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"w": F32_4}, length=length)
    assert f"header claims {length:,} bytes" in refusal(read_safetensors_file, path)


@pytest.mark.parametrize("size", range(1, 9))
def test_a_file_of_a_few_bytes_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x01" * size)
    refusal(read_safetensors_file, tmp_path / "x.safetensors")


def test_a_sparse_file_with_a_great_header_needs_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", b"{", length=99_000_000)
    with path.open("r+b") as file:
        file.truncate(200_000_000)
    tracemalloc.start()
    try:
        refusal(read_safetensors_file, path)
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


def test_a_long_shape_does_not_take_long(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"w": entry(shape=[(1 << 62) + 1] * 200_000)})
    begun = time.monotonic()
    refusal(read_safetensors_file, path)
    assert time.monotonic() - begun < 5


def sound() -> bytes:
    header = {"__metadata__": {"format": "pt"}, "a": F32_4, "b": entry(shape=[3], data_offsets=[16, 28])}
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(28)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_changed_file_gives_tensors_inside_it_or_a_refusal(data: st.DataObject) -> None:
    original = bytearray(sound())
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try_bytes(bytes(original[: data.draw(st.integers(0, len(original)))]))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_JSON, st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_json_as_header_gives_tensors_or_a_refusal(header: object, data: bytes) -> None:
    raw = json.dumps(header).encode()
    try_bytes(struct.pack("<Q", len(raw)) + raw + data)


def try_bytes(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(data or b"\0")
        only_refuses(use, path)
