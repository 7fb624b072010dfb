"""The pickle machine builds data, calls nothing, and ends with one of its own two exceptions on everything else."""

import contextlib
import pickle
import pickletools
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.convert.pickle_machine import BadPickle, ForbiddenGlobal, Machine, Storage, TensorRecord

FIXTURES = Path(__file__).parents[1] / "fixtures" / "torch"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def pickle_of(name: str) -> bytes:
    with zipfile.ZipFile(FIXTURES / f"{name}.bin") as archive:
        return archive.read(f"{name}/data.pkl")


def tensor(shape: bytes, strides: bytes, offset: bytes = b"K\x00", storage: bytes = STORAGE) -> bytes:
    """A pickle of one rebuilt tensor."""
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02" + REBUILD + b"(" + storage + offset + shape + strides + hooks + b"tR."


def ends_well(data: bytes) -> None:
    with contextlib.suppress(BadPickle, ForbiddenGlobal):
        Machine().run(data)


@pytest.mark.parametrize("name", ["dtypes", "tied", "views", "strided", "parameters", "module", "nested"])
def test_what_torch_writes_is_read(name: str) -> None:
    state = Machine().run(pickle_of(name))
    state = state.get("state_dict", state)
    assert all(isinstance(value, TensorRecord) for value in state.values())


def test_a_tensor_is_described_in_elements_of_its_storage() -> None:
    found = Machine().run(tensor(b"K\x02K\x03\x86", b"K\x01K\x02\x86", b"K\x00"))
    assert found == TensorRecord(Storage("0", "f32", 6), 0, (2, 3), (1, 2))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_executed_in_any_protocol(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> object:
            return marker.write_text, ("x",)

    data = pickle.dumps({"weight": Bomb()}, protocol)
    with pytest.raises((ForbiddenGlobal, BadPickle)):
        Machine().run(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins eval",
        "posix system",
        "torch._utils os.system",
        "collections OrderedDict.x",
        "torch load",
        "torch.storage _load_from_bytes",
        "numpy.core.multiarray _reconstruct",
    ],
)
def test_a_global_outside_the_list_is_refused_by_its_name(name: str) -> None:
    module, attribute = name.split(" ")
    with pytest.raises(ForbiddenGlobal) as caught:
        Machine().run(f"c{module}\n{attribute}\n.".encode())
    assert caught.value.name == f"{module}.{attribute}"
    pushed = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute))
    with pytest.raises(ForbiddenGlobal):
        Machine().run(b"\x80\x04" + pushed + b"\x93.")


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a string is called", b"X\x01\x00\x00\x00a)R."),
        ("a storage class is called", b"ctorch\nFloatStorage\n)R."),
        ("arguments are no tuple", REBUILD + b"]R."),
        ("too few arguments", REBUILD + b")R."),
        ("no storage", tensor(b"K\x02\x85", b"K\x01\x85", storage=b"K\x06")),
        ("negative size", tensor(b"J\xff\xff\xff\xff\x85", b"K\x01\x85")),
        ("negative stride", tensor(b"K\x02\x85", b"J\xff\xff\xff\xff\x85")),
        ("negative offset", tensor(b"K\x02\x85", b"K\x01\x85", b"J\xff\xff\xff\xff")),
        ("a float as size", tensor(b"G" + struct.pack(">d", 2.0) + b"\x85", b"K\x01\x85")),
        ("a bool as size", tensor(b"\x88\x85", b"K\x01\x85")),
        ("a list as shape", tensor(b"]K\x02a", b"K\x01\x85")),
        ("fifty dimensions", tensor(b"(" + b"K\x01" * 50 + b"t", b"(" + b"K\x01" * 50 + b"t")),
        ("negative storage", tensor(b")", b")", storage=STORAGE.replace(b"K\x06", b"J\xff\xff\xff\xff"))),
        ("storage of another tag", tensor(b")", b")", storage=STORAGE.replace(b"storage", b"module "))),
        ("a number as key", tensor(b")", b")", storage=STORAGE.replace(b"X\x01\x00\x00\x000", b"K\x00"))),
        ("duplicate key", b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u."),
        ("duplicate key one by one", b"}X\x01\x00\x00\x00aK\x01sX\x01\x00\x00\x00aK\x02s."),
        ("a tuple as key", b"})K\x01s."),
        ("an odd number of items", b"}(X\x01\x00\x00\x00au."),
        ("items of a tuple", b")(K\x01K\x02u."),
        ("append to a dict", b"}K\x01a."),
        ("OrderedDict with items", b"ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R."),
        ("no mark", b"u."),
        ("a mark as a value", b"}(s."),
        ("an empty stack", b"."),
        ("an unknown memo", b"h\x05."),
        ("no end", b"}"),
        ("opcodes of other uses", b"(lp0\n."),
        ("INST", b"(ios\nsystem\n."),
        ("OBJ", b"(cos\nsystem\no."),
        ("EXT1", b"\x82\x01."),
        ("NEWOBJ", b"ccollections\nOrderedDict\n)\x81."),
        ("nothing", b""),
    ],
)
def test_what_torch_does_not_write_is_a_bad_pickle(what: str, data: bytes) -> None:
    with pytest.raises((BadPickle, ForbiddenGlobal)):
        Machine().run(data)


@pytest.mark.parametrize("name", ["module", "repack_4bit", "parameters"])
def test_a_pickle_cut_anywhere_is_bad(name: str) -> None:
    data = pickle_of(name)
    for end in range(0, len(data), 7):
        with pytest.raises((BadPickle, ForbiddenGlobal)):
            Machine().run(data[:end])


def amplifiers() -> dict[str, bytes]:
    """Short pickles that make much out of little where a reader copies what it is shown again and again."""
    count = 20_000
    numbers = b"(" + b"K\x01" * count
    return {
        "shapes": b"\x80\x02"
        + REBUILD
        + b"q\x00"
        + STORAGE
        + b"q\x01"
        + numbers
        + b"tq\x02"
        + b"(h\x00(h\x01K\x00h\x02h\x02tRl" * count,
        "ordered dicts": b"\x80\x02ccollections\nOrderedDict\nq\x00]("
        + numbers
        + b"teq\x01"
        + b"h\x00h\x01\x85R" * count,
        "doubling tuples": b"K\x01" + b"2\x86" * 60,
        "doubling memo": b")q\x00" + b"0h\x00h\x00\x86q\x00" * 5000 + b".",
        "many dicts": b"}" * 200_000,
    }


@pytest.mark.parametrize("name", amplifiers())
def test_a_short_pickle_needs_little_memory(name: str) -> None:
    data = amplifiers()[name]
    tracemalloc.start()
    try:
        ends_well(data)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_random_bytes_end_in_its_own_exceptions(data: bytes) -> None:
    ends_well(data)


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


@given(st.lists(st.sampled_from([*OPCODES, STORAGE, REBUILD, b"K\x02", b"\x00", b"ccollections\nOrderedDict\n"])))
@settings(max_examples=300, deadline=None)
def test_random_opcodes_end_in_its_own_exceptions(parts: list[bytes]) -> None:
    ends_well(b"".join(parts) + b".")


@given(st.sampled_from(["module", "repack_4bit", "nested", "tied"]), st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_pickle_of_torch_ends_in_its_own_exceptions(name: str, data: st.DataObject) -> None:
    original = bytearray(pickle_of(name))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    ends_well(bytes(original))
