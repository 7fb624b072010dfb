"""`pytorch_model.bin` as torch writes it is read where it lies, and everything else is refused in one clear line."""

import io
import json
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.source import SourceTensor
from bq.convert.torch_file import read_torch_file
from bq.runtime import ggml
from tests.support.refusals import only_refuses, refusal
from tests.support.stored import Stored, storage_of, stored
from tests.support.torchzip import write_torch_zip

FIXTURES = Path(__file__).parents[1] / "fixtures" / "torch"


def values(tensor: SourceTensor) -> np.ndarray:
    """A tensor's values in float32."""
    view = tensor.view()
    wide = np.empty(view.shape, np.float32)
    ggml.widen(np.require(view, requirements="CA"), wide)
    return wide


def listed(name: str) -> dict[str, dict]:
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))["tensors"]


def sound_members(tmp_path: Path, name: str = "m") -> dict[str, bytes]:
    """The members of a small sound file: two tensors with a storage each."""
    path = tmp_path / f"{name}.bin"
    write_torch_zip(path, [stored("a.weight", np.arange(6.0).reshape(2, 3)), stored("b.weight", np.ones(40), "bf16")])
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_members(path: Path, members: dict[str, bytes], compress: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if compress and compress in name else zipfile.ZIP_STORED)
    return path


def use(path: Path) -> None:
    """Read a file and touch every byte that its tensors claim."""
    for tensor in read_torch_file(path).values():
        if tensor.is_float and 0 not in tensor.shape and np.prod(tensor.shape, dtype=float) < 1e6:
            np.nan_to_num(tensor.view()).sum()


@pytest.mark.parametrize("name", ["dtypes", "tied", "views", "strided", "parameters", "module", "nested"])
def test_values_equal_those_that_torch_loads(name: str) -> None:
    found = read_torch_file(FIXTURES / f"{name}.bin")
    expected = {key.removeprefix("state_dict/"): entry for key, entry in listed(name).items()}
    assert list(found) == list(expected)
    for key, entry in expected.items():
        tensor = found[key]
        assert tensor.dtype == {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}[entry["dtype"]]
        assert (list(tensor.shape), list(tensor.strides)) == (entry["shape"], entry["stride"])
        assert np.array_equal(values(tensor).ravel(), np.array(entry["values"], np.float32)), key


def test_tied_tensors_lie_at_the_same_place() -> None:
    found = read_torch_file(FIXTURES / "tied.bin")
    assert len({tensor.start for tensor in found.values()}) == 1


def test_slices_of_one_storage_lie_at_their_offsets() -> None:
    found, entries = read_torch_file(FIXTURES / "views.bin"), listed("views")
    first = found["first"].start
    assert [t.start - first for t in found.values()] == [2 * entries[name]["offset"] for name in found]


def test_other_element_types_are_named_not_read() -> None:
    found = read_torch_file(FIXTURES / "other_dtypes.bin")
    assert {name: t.dtype for name, t in found.items()} == {
        "mask": "bool",
        "ids": "i64",
        "bytes": "u8",
        "double": "f64",
        "weight": "f16",
    }
    assert [name for name, t in found.items() if t.is_float] == ["weight"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("forbidden.bin", ["posix.system", "not executed", "official release"]),
        ("old_form.bin", ["before torch 1.6", "torch.save"]),
        ("legacy.tar", ["before torch 1.6", "torch.save"]),
        ("with_entry.bin", ["'global_step' is int", "state_dict()"]),
        ("repack_4bit.bin", ["4-bit repack", "bf16 release"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_name_reason_and_remedy(name: str, says: list[str]) -> None:
    message = refusal(read_torch_file, FIXTURES / name)
    assert all(text in message for text in [name, *says]), message


def test_a_file_cut_anywhere_is_refused_as_cut(tmp_path: Path) -> None:
    data, path = (FIXTURES / "module.bin").read_bytes(), tmp_path / "module.bin"
    for end in [1, 4, 30, *range(64, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:end])
        assert "module.bin is damaged or cut short" in refusal(read_torch_file, path), end


@pytest.mark.parametrize("member", ["data.pkl", "data/1", "byteorder"])
def test_a_compressed_member_is_refused(member: str, tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.bin", sound_members(tmp_path), compress=member)
    assert "compressed" in refusal(read_torch_file, path)


def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    members = sound_members(tmp_path) | {"m/byteorder": bytes(300_000_000)}
    path = write_members(tmp_path / "x.bin", members, compress="byteorder")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "byteorder is compressed or too large" in refusal(read_torch_file, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_storage_shorter_than_its_claim_is_refused(tmp_path: Path) -> None:
    members = sound_members(tmp_path)
    path = write_members(tmp_path / "x.bin", members | {"m/data/1": members["m/data/1"][:-2]})
    assert "storage 1 needs 80 bytes and has 78" in refusal(read_torch_file, path)


def test_a_missing_storage_is_refused(tmp_path: Path) -> None:
    members = sound_members(tmp_path)
    del members["m/data/0"]
    assert "storage 0 is missing" in refusal(read_torch_file, write_members(tmp_path / "x.bin", members))


def test_a_directory_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.bin", sound_members(tmp_path) | {"m/data/1": b"", "m/pad": bytes(10)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"m/data/1") - 46
    struct.pack_into("<2I", data, entry + 20, 1 << 30, 1 << 30)
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("m/data/1").file_size == 1 << 30
    only_refuses(use, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["m/data/0", "m/data.pkl", "other/data.pkl"])
def test_a_second_member_of_a_name_is_refused(name: str, tmp_path: Path) -> None:
    path, members = tmp_path / "x.bin", sound_members(tmp_path)
    write_members(path, members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, members["m/" + name.split("/", 1)[1]])
    assert "x.bin is damaged" in refusal(read_torch_file, path)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.bin", sound_members(tmp_path) | {"m/byteorder": b"big"})
    assert "big-endian" in refusal(read_torch_file, path)


@pytest.mark.parametrize(
    ("shape", "offset", "strides"),
    [((3, 4), 0, (4, 1)), ((2, 2), 8, (2, 1)), ((2, 2), 0, (9, 1)), ((1,), 10, (1,)), ((1 << 40, 2), 0, (0, 10))],
)
def test_a_tensor_beyond_its_storage_is_refused(
    shape: tuple[int, ...], offset: int, strides: tuple[int, ...], tmp_path: Path
) -> None:
    storages = [Stored("w", shape, storage_of(np.arange(10.0)), offset, strides), stored("after", np.ones(999))]
    write_torch_zip(tmp_path / "x.bin", storages)
    message = refusal(read_torch_file, tmp_path / "x.bin")
    assert f"w {list(shape)} reaches beyond its storage of 10 elements" in message


def test_sizes_and_strides_of_different_number_are_refused(tmp_path: Path) -> None:
    write_torch_zip(tmp_path / "x.bin", [Stored("w", (2, 2), storage_of(np.arange(10.0)), 0, (1,))])
    assert "2 sizes and 1 strides" in refusal(read_torch_file, tmp_path / "x.bin")


@pytest.mark.parametrize("head", [b"", b"PK\x05\x06" + bytes(18), b"<html>not found</html>", b"\x7fELF" + bytes(600)])
def test_what_is_no_zip_is_refused(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(head)
    assert "no zip archive" in refusal(read_torch_file, tmp_path / "x.bin")


def test_a_list_where_a_state_dict_should_be_is_refused(tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.bin", sound_members(tmp_path) | {"m/data.pkl": b"]."})
    assert "no state dict" in refusal(read_torch_file, path)


def test_a_pickle_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = write_members(tmp_path / "x.bin", sound_members(tmp_path) | {"m/data.pkl": b"}" * (3 << 20)})
    assert "too large" in refusal(read_torch_file, path)


@given(st.sampled_from(["module", "views", "nested", "repack_4bit"]), st.data())
@settings(max_examples=400, deadline=None)
def test_a_changed_file_gives_tensors_inside_it_or_a_refusal(name: str, data: st.DataObject) -> None:
    original = bytearray((FIXTURES / f"{name}.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try_bytes(bytes(original[: data.draw(st.integers(len(original) // 2, len(original)))]))


@given(st.binary(max_size=400), st.booleans())
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(data: bytes, with_magic: bool) -> None:
    try_bytes(b"PK\x03\x04" * with_magic + data)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_zip_with_random_members_is_refused(pickled: bytes) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/data/0", pickled)
    try_bytes(buffer.getvalue())


def try_bytes(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.bin"
        path.write_bytes(data)
        only_refuses(use, path)
