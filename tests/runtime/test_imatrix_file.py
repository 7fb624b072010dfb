"""Importance matrices go both ways between bq and llama.cpp's tools; what is none is refused in a line."""

import ctypes
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.runtime import ggml
from bq.runtime.errors import BqError
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, Sums, read_imatrix, write_imatrix
from bq.runtime.ggml import GgmlType, open_library
from bq.runtime.llama import library
from tests.support import gguf_writer as writer
from tests.support.gguf_writer import Parts, Tensor, array, encoded, take_apart, text
from tests.support.refusals import advised_refusal, only_refuses

Convert = Callable[..., Path]
Q4_K_M = 15  # llama.cpp's file type


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


MATRIX = ImportanceMatrix(
    {
        "blk.1.attn_q.weight": Sums(f32(0.25, 8, 0), 1024),
        "blk.0.ffn_down.weight": Sums(f32(*range(40)), 1024),
        "blk.10.ffn_up.weight": Sums(f32(3), 0),
    },
    ("a.txt", "文本.txt"),
    2,
    512,
)


def same(found: ImportanceMatrix, expected: ImportanceMatrix) -> bool:
    """Whether all values are equal, the sums to the bit."""
    about = [(one.datasets, one.chunks, one.chunk_size, set(one.entries)) for one in (found, expected)]
    return about[0] == about[1] and all(
        found.entries[name].count == sums.count and found.entries[name].squares.tobytes() == sums.squares.tobytes()
        for name, sums in expected.entries.items()
    )


def written_by_llama(path: Path, matrix: ImportanceMatrix) -> bytes:
    """The file as llama-imatrix makes it: the calls of its save_imatrix, to llama.cpp's own library."""
    base, pointer, string = open_library("ggml-base"), ctypes.c_void_p, ctypes.c_char_p

    class InitParams(ctypes.Structure):
        _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", pointer), ("no_alloc", ctypes.c_bool)]

    def call(name: str, *arguments: object, gives: type | None = None) -> int:
        function = getattr(base, name)
        function.restype = gives
        return int(function(*arguments) or 0)

    context = pointer(call("ggml_init", InitParams(1 << 20, None, False), gives=pointer))
    file = pointer(call("gguf_init_empty", gives=pointer))
    datasets = [one.encode() for one in matrix.datasets]
    call("gguf_set_val_str", file, b"general.type", b"imatrix")
    call(
        "gguf_set_arr_str",
        file,
        b"imatrix.datasets",
        (string * len(datasets))(*datasets),
        ctypes.c_size_t(len(datasets)),
    )
    call("gguf_set_val_u32", file, b"imatrix.chunk_count", ctypes.c_uint32(matrix.chunks))
    call("gguf_set_val_u32", file, b"imatrix.chunk_size", ctypes.c_uint32(matrix.chunk_size))
    for name, sums in sorted(matrix.entries.items()):
        for end, values in ((".in_sum2", sums.squares), (".counts", f32(sums.count))):
            shape = (ctypes.c_int64(len(values)), ctypes.c_int64(1))
            tensor = pointer(call("ggml_new_tensor_2d", context, ctypes.c_int(0), *shape, gives=pointer))
            call("ggml_set_name", tensor, (name + end).encode(), gives=pointer)
            ctypes.memmove(call("ggml_get_data", tensor, gives=pointer), values.ctypes.data, values.nbytes)
            call("gguf_add_tensor", file, tensor)
    assert call("gguf_write_to_file", file, str(path).encode(), ctypes.c_bool(False), gives=ctypes.c_bool)
    call("gguf_free", file)
    call("ggml_free", context)
    return path.read_bytes()


def test_the_file_is_the_one_that_llama_imatrix_writes_to_the_byte(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "ours", MATRIX)
    assert (tmp_path / "ours").read_bytes() == written_by_llama(tmp_path / "theirs", MATRIX)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"]


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "x", MATRIX)
    reader = GGUFReader(tmp_path / "x")
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields == {
        "general.type": "imatrix",
        "imatrix.datasets": ["a.txt", "文本.txt"],
        "imatrix.chunk_count": 2,
        "imatrix.chunk_size": 512,
    }
    tensors = {one.name: one.data.reshape(-1).tolist() for one in reader.tensors}
    assert tensors["blk.1.attn_q.weight.in_sum2"] == [0.25, 8, 0]
    assert tensors["blk.1.attn_q.weight.counts"] == [1024]
    assert list(tensors)[:2] == ["blk.0.ffn_down.weight.in_sum2", "blk.0.ffn_down.weight.counts"]
    assert len(tensors) == 6


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "x", MATRIX)
    assert same(read_imatrix(tmp_path / "x"), MATRIX)


def test_a_file_of_another_writer_is_read(tmp_path: Path) -> None:
    """Two dimensions, another order, tensors that llama.cpp passes over, a count that it rounds."""
    made = GGUFWriter(tmp_path / "x", "")
    made.add_type("imatrix")
    made.add_array("imatrix.datasets", ["t"])
    made.add_uint32("imatrix.chunk_count", 3)
    made.add_uint32("imatrix.chunk_size", 128)
    made.add_tensor("blk.0.attn_q.weight.counts", np.full((1, 1), 383.6, np.float32))
    made.add_tensor("something.else", np.zeros((2, 2), np.float32))
    made.add_tensor("blk.0.attn_q.weight.in_sum2", f32(1, 2)[None])
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    expected = ImportanceMatrix({"blk.0.attn_q.weight": Sums(f32(1, 2), 384)}, ("t",), 3, 128)
    assert same(read_imatrix(tmp_path / "x"), expected)


def dat(entries: Mapping[str, tuple[int, list[float]]], end: bytes = b"") -> bytes:
    """The older form: name, calls, values of each entry."""
    found = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        found += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        found += struct.pack(f"<{len(values)}f", *values)
    return found + end


@pytest.mark.parametrize("end", [b"", struct.pack("<ii", 7, 5) + b"a.txt"], ids=["no dataset", "dataset"])
def test_the_older_form_weighs_as_llama_quantize_takes_it(tmp_path: Path, end: bytes) -> None:
    """Its values are means times the calls; where there were none, the values themselves."""
    (tmp_path / "x.dat").write_bytes(dat({"a": (4, [8, 2]), "b": (0, [8, 2])}, end))
    matrix = read_imatrix(tmp_path / "x.dat")
    weights = {name: matrix.importance(name) for name in "abc"}
    assert {name: one if one is None else one.tolist() for name, one in weights.items()} == {
        "a": [2, 0.5],
        "b": [8, 2],
        "c": None,
    }
    assert (matrix.datasets, matrix.chunks, matrix.chunk_size) == ((("a.txt",), 7, 0) if end else ((), 0, 0))


def test_a_matrix_that_nothing_was_added_to_weighs_the_same_everywhere() -> None:
    found = MATRIX.importance("blk.10.ffn_up.weight")
    assert found is not None
    assert found.tolist() == [1]


def cut_to(parts: Parts, blocks: int) -> Parts:
    """The file of the first blocks alone, which is enough for a quantizer."""
    last = tuple(f"blk.{number}." for number in range(blocks, 32))
    kept = tuple(one for one in parts.tensors if not one.name.startswith(last))
    return replace(parts, tensors=kept).with_key("baichuan.block_count", writer.U32, encoded(writer.U32, blocks))


def quantized(source: Path, out: Path, weights: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Each tensor of what llama_model_quantize makes, with these importances."""
    lib = library()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = Q4_K_M, 2
    data = (lib.llama_model_imatrix_data * (len(weights) + 1))()  # the last, empty, ends the list
    for one, (name, values) in zip(data, weights.items(), strict=False):
        one.name, one.size = name.encode(), len(values)
        one.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = data
    assert lib.llama_model_quantize(str(source).encode(), str(out).encode(), params) == 0
    return {one.name: one.data.tobytes() for one in GGUFReader(out).tensors}


def test_llamas_own_quantizer_takes_it_and_makes_of_it_what_ours_makes(tmp_path: Path, converted: Convert) -> None:
    """With the weights its bytes are those of ggml's function for a row, and others than without."""
    source = tmp_path / "two-blocks.gguf"
    source.write_bytes(cut_to(take_apart(converted("b2-7b", "F32", hidden=256, heads=2, ffn=256)), 2).to_bytes())
    tensors = {one.name: one.data.astype(np.float32) for one in GGUFReader(source).tensors}
    random = np.random.default_rng(3)
    entries = {
        name: Sums(random.exponential(size=one.shape[-1]).astype(np.float32) ** 2, 512)
        for name, one in tensors.items()
        if name.startswith("blk.") and one.ndim == 2
    }
    write_imatrix(tmp_path / "x", ImportanceMatrix(entries, (), 1, 512))
    matrix = read_imatrix(tmp_path / "x")
    weights = {name: one for name in entries if (one := matrix.importance(name)) is not None}

    theirs = quantized(source, tmp_path / "with.gguf", weights)

    for name in ("blk.0.attn_q.weight", "blk.1.ffn_gate.weight"):
        ours = ggml.quantize(GgmlType.Q4_K, tensors[name], matrix.importance(name)).tobytes()
        assert theirs[name] == ours
        assert theirs[name] != ggml.quantize(GgmlType.Q4_K, tensors[name]).tobytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("imatrix") / "x"
    write_imatrix(path, MATRIX)
    return take_apart(path)


def tensor(name: str, *values: float, kind: int = 0, dims: tuple[int, ...] = ()) -> Tensor:
    return Tensor(name, dims or (len(values),), kind, f32(*values).tobytes())


HOSTILE: dict[str, Callable[[Parts], Parts]] = {
    "a model": lambda one: one.with_key("general.type", writer.STRING, text("model")),
    "an architecture": lambda one: one.with_key("general.architecture", writer.STRING, text("llama")),
    "no datasets": lambda one: one.without_key("imatrix.datasets"),
    "no chunk count": lambda one: one.without_key("imatrix.chunk_count"),
    "no chunk size": lambda one: one.without_key("imatrix.chunk_size"),
    "datasets as numbers": lambda one: one.with_key("imatrix.datasets", writer.ARRAY, array(writer.U32, [1])),
    "chunks as text": lambda one: one.with_key("imatrix.chunk_count", writer.STRING, text("2")),
    "chunk size as float": lambda one: one.with_key("imatrix.chunk_size", writer.F32, encoded(writer.F32, 2)),
    "no tensors": lambda one: Parts(one.keys, ()),
    "tensors of other names": lambda one: Parts(one.keys, (tensor("a", 1),)),
    "sums without a count": lambda one: Parts(one.keys, one.tensors[:1]),
    "a count without sums": lambda one: Parts(one.keys, one.tensors[1:2]),
    "counts that sums do not divide by": lambda one: one.with_tensor(1, tensor(one.tensors[1].name, *range(1, 8))),
    "a negative count": lambda one: one.with_tensor(1, tensor(one.tensors[1].name, -1)),
    "a count of infinity": lambda one: one.with_tensor(1, tensor(one.tensors[1].name, np.inf)),
    "a count of NaN": lambda one: one.with_tensor(1, tensor(one.tensors[1].name, np.nan)),
    "a negative sum": lambda one: one.with_tensor(0, tensor(one.tensors[0].name, 1, -1)),
    "a sum of NaN": lambda one: one.with_tensor(0, tensor(one.tensors[0].name, np.nan)),
    "a sum of infinity": lambda one: one.with_tensor(0, tensor(one.tensors[0].name, np.inf)),
    "sums in half precision": lambda one: one.with_tensor(0, tensor(one.tensors[0].name, 1, kind=1, dims=(2,))),
    "a count in half precision": lambda one: one.with_tensor(1, tensor(one.tensors[1].name, 1, kind=1, dims=(2,))),
}


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_gguf_is_refused_in_a_line(tmp_path: Path, sound: Parts, edit: Callable[[Parts], Parts]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(sound.to_bytes())
    assert same(read_imatrix(path), MATRIX)
    path.write_bytes(edit(sound).to_bytes())
    assert advised_refusal(read_imatrix, path).startswith("x.gguf is no importance matrix: ")


GOOD_DAT = {"blk.0.attn_q.weight": (1, [1.0])}
HOSTILE_DAT = {
    "empty": b"",
    "no entries": dat({}),
    "more entries than there are": struct.pack("<i", 2) + dat(GOOD_DAT)[4:],
    "2^31 - 1 entries": struct.pack("<i", (1 << 31) - 1) + dat(GOOD_DAT)[4:],
    "a name of nothing": dat({"": (1, [1.0])}),
    "a name of -1": struct.pack("<ii", 1, -1) + b"abcdefgh",
    "a name of 2 GiB": struct.pack("<ii", 1, (1 << 31) - 1) + b"abcdefgh",
    "no values": dat({"a": (1, [])}),
    "-1 values": struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, -1),
    "2^31 - 1 values": struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, (1 << 31) - 1) + b"abcd",
    "a value of NaN": dat({"a": (1, [float("nan")])}),
    "a negative value": dat({"a": (1, [-1.0])}),
    "a dataset beyond the end": dat(GOOD_DAT, struct.pack("<ii", 7, 500) + b"abc"),
    "chunks of -1": dat(GOOD_DAT, struct.pack("<i", -1)),
    "text": b"What is this file?\n" * 9,
}


@pytest.mark.parametrize("data", HOSTILE_DAT.values(), ids=HOSTILE_DAT.keys())
def test_a_hostile_dat_is_refused_in_a_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.dat").write_bytes(dat(GOOD_DAT))
    assert list(read_imatrix(tmp_path / "x.dat").entries) == list(GOOD_DAT)
    (tmp_path / "x.dat").write_bytes(data)
    assert advised_refusal(read_imatrix, tmp_path / "x.dat").startswith("x.dat is no importance matrix: ")


def test_what_is_not_there_or_no_file_is_called_so(tmp_path: Path) -> None:
    assert advised_refusal(read_imatrix, tmp_path / "none").startswith(f"There is no file {tmp_path / 'none'}.")
    assert advised_refusal(read_imatrix, tmp_path).startswith(f"{tmp_path} cannot be read: ")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 900), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_mutations_give_no_other_error(tmp_path: Path, sound: Parts, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(sound.to_bytes())
    for place, bad in changes:
        data[place : place + len(bad)] = bad
    (tmp_path / "x").write_bytes(data)
    only_refuses(read_imatrix, tmp_path / "x")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.integers(0, 3), data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_any_dat_gives_no_other_error(tmp_path: Path, head: int, data: bytes, cut: int) -> None:
    good = dat({"a": (1, [1.0] * 4), "b": (2, [1.0])}, struct.pack("<ii", 7, 5) + b"a.txt")
    (tmp_path / "x").write_bytes(struct.pack("<i", head) + data if head else good[:cut] + data)
    only_refuses(read_imatrix, tmp_path / "x")


def test_a_file_that_cannot_be_written_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(BqError, match="cannot be written"):
        write_imatrix(tmp_path / "none" / "x", MATRIX)
    assert not list(tmp_path.iterdir())
