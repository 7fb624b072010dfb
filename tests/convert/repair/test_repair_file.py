"""What a repair keeps, refuses and leaves behind: unknown keys as bytes, one line for what cannot be, nothing half written."""

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.convert.repair import check as repair_check
from bq.convert.repair.gguf_rewrite import Rewrite, raw_keys
from bq.convert.repair.repair import RepairOptions, plan_repair, repair
from bq.runtime.gguf_file import read_gguf
from tests.support.broken_gguf import broken
from tests.support.gguf_writer import ARRAY, F64, SCALARS, STRING, U32, Key, Parts, array, encoded, take_apart
from tests.support.old_converters import as_old
from tests.support.refusals import advised_refusal, only_refuses, refusal

from .common import OUTPUT, SPACE, Convert, number, scaled_output, text, uneven, without


def test_what_bq_does_not_know_is_copied_as_it_is(changed: Callable[..., Path]) -> None:
    """Scalars and arrays of every kind, strings that are no UTF-8, and a file of version 2."""
    strange = [Key(f"mine.{kind}", kind, struct.pack("<" + code, 1)) for kind, code in SCALARS.items()]
    strange += [Key(f"mine.list.{kind}", ARRAY, array(kind, [0, 1, 1])) for kind in SCALARS]
    strange += [
        Key("mine.strings", ARRAY, array(STRING, [b"\xff\xfe", "", "é" * 70000])),
        Key("mine.text", STRING, encoded(STRING, b"\xff\x00raw")),
        Key("mine.empty", ARRAY, array(F64, [])),
    ]
    path = changed(
        "b2-7b",
        without(SPACE),
        lambda parts: replace(parts, keys=(*parts.keys[:3], *strange, *parts.keys[3:]), version=2),
    )
    done = repair(plan_repair(path), path.with_name("new.gguf"), threads=1)
    found = take_apart(done.path)
    assert found.version == 3
    assert [key for key in found.keys if key.name.startswith("mine.")] == strange


def test_an_alignment_of_its_own_is_kept(changed: Callable[..., Path]) -> None:
    path = changed(
        "b2-7b",
        number("general.alignment", 1024),
        scaled_output(uneven),
        lambda parts: replace(parts, alignment=1024),
    )
    done = repair(plan_repair(path, RepairOptions(output_type="Q4_0")), path.with_name("new.gguf"), threads=1)
    file = read_gguf(done.path)
    assert all(one.start % 1024 == 0 for one in file.tensors.values())
    old = read_gguf(path)
    for name, one in file.tensors.items():
        if name != OUTPUT:
            before = old.tensors[name]
            assert (
                file.bytes[one.start :][: one.size_bytes].tobytes()
                == old.bytes[before.start :][: before.size_bytes].tobytes()
            )


_values = st.one_of(
    *(
        st.tuples(
            st.just(kind), st.integers(0, 100).map(lambda one, kind=kind: encoded(kind, one % 2 if kind == 7 else one))
        )
        for kind in SCALARS
    ),
    st.binary(max_size=40).map(lambda one: (STRING, encoded(STRING, one))),
    st.lists(st.binary(max_size=9), max_size=5).map(lambda one: (ARRAY, array(STRING, one))),
    st.lists(st.integers(0, 200), max_size=5).map(lambda one: (ARRAY, array(U32, one))),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abc.é\udcff", min_size=1, max_size=9), _values, max_size=8))
def test_a_header_written_again_is_the_same(tmp_path: Path, keys: dict[str, tuple[int, bytes]]) -> None:
    path = tmp_path / "any.gguf"
    whole = Parts(tuple(Key(name, *value) for name, value in keys.items()), ()).to_bytes()
    path.write_bytes(whole)
    assert Rewrite(read_gguf(path), raw_keys(read_gguf(path))).header() == whole


def test_a_broken_file_is_refused_in_a_line(tmp_path: Path, converted: Convert) -> None:
    """Or is none the worse for it: a flipped bit in a name harms nothing."""
    source = converted("b2-7b", "Q8_0", hidden=32, heads=2, ffn=32)
    path = tmp_path / "old.gguf"
    corpus = list(broken(as_old(take_apart(source)), flips=60))
    for _, make in corpus[::80]:
        path.write_bytes(make())
        only_refuses(plan_repair, path)
    assert "beyond its end" in refusal(plan_repair, cut(source, path, 5000))
    assert "There is no file" in refusal(plan_repair, tmp_path / "none.gguf")
    assert refusal(plan_repair, tmp_path)


def cut(source: Path, path: Path, size: int) -> Path:
    path.write_bytes(source.read_bytes()[:size])
    return path


def test_what_llama_cpp_could_not_run_is_refused(changed: Callable[..., Path]) -> None:
    assert "block_count is 31" in refusal(plan_repair, changed("b2-7b", number("baichuan.block_count", 31)))
    assert "is missing" in refusal(plan_repair, changed("b2-7b", lambda one: one.with_tensor(0)))
    assert "llama model" in refusal(plan_repair, changed("b2-7b", text("general.architecture", "llama")))
    bare = changed("b2-7b", text("general.architecture", "llama"), lambda one: replace(one, tensors=()))
    assert "vocabulary of a llama model" in refusal(plan_repair, bare)


def test_the_old_file_and_an_existing_one_are_not_touched(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", without(SPACE))
    before, plan, other = path.read_bytes(), plan_repair(path), path.with_name("other.gguf")
    os.link(path, other)
    for out in (path, other):
        assert "never changed" in advised_refusal(repair, plan, out, 2, force=True)
    there = path.with_name("there.gguf")
    there.write_bytes(b"mine")
    assert "--force" in advised_refusal(repair, plan, there, 2)
    assert there.read_bytes() == b"mine"
    assert "no folder" in advised_refusal(repair, plan, path.parent / "none" / "new.gguf", 2)
    assert repair(plan, there, 2, force=True).size_bytes == there.stat().st_size == plan.rewrite.size_bytes
    assert path.read_bytes() == before


def test_a_file_named_as_an_unfinished_one_is_not_written_over(changed: Callable[..., Path]) -> None:
    """Writing `x.gguf` goes through `x.gguf.part`, which here is the file to repair, as some browsers leave it."""
    old = changed("b2-7b", without(SPACE))
    path = old.rename(old.with_name("x.gguf.part"))
    before = path.read_bytes()
    assert "x.gguf.part is the file to repair" in advised_refusal(repair, plan_repair(path), old.with_name("x.gguf"), 2)
    assert path.read_bytes() == before


def test_what_a_killed_run_left_counts_as_free(changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed("b2-7b", without(SPACE))
    plan, out = plan_repair(path), path.with_name("new.gguf")
    out.with_name("new.gguf.part").write_bytes(bytes(plan.rewrite.size_bytes))
    full = shutil.disk_usage(path.parent)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert repair(plan, out, 2).path == out
    assert sorted(os.listdir(path.parent)) == ["new.gguf", "old.gguf"]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_file_that_changes_meanwhile_makes_none(changed: Callable[..., Path], is_replaced: bool) -> None:
    """A download that is not done, or another model under the same name: its header was another's."""
    path = changed("b2-7b", without(SPACE))
    plan, data = plan_repair(path), path.read_bytes()
    if is_replaced:
        path.unlink()
        path.write_bytes(data)
    else:
        path.write_bytes(data[:-100])
    assert "changed while it was being repaired" in advised_refusal(repair, plan, path.with_name("new.gguf"), 2)
    assert os.listdir(path.parent) == ["old.gguf"]


def test_the_disk_is_asked_first(changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed("b2-7b", without(SPACE))
    plan = plan_repair(path)
    full = shutil.disk_usage(path.parent)._replace(free=plan.rewrite.size_bytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert "GB free" in advised_refusal(repair, plan, path.with_name("new.gguf"), 2)
    assert os.listdir(path.parent) == ["old.gguf"]


def test_an_interrupt_leaves_nothing(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", scaled_output(uneven))
    there = path.with_name("there.gguf")
    there.write_bytes(b"mine")

    def interrupt(_: object) -> None:
        assert there.with_name("there.gguf.part").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair(plan_repair(path), there, 2, True, interrupt)
    assert sorted(os.listdir(path.parent)) == ["old.gguf", "there.gguf"]
    assert there.read_bytes() == b"mine"


def test_what_the_disk_gives_back_otherwise_is_not_kept(
    changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed("b2-7b", without(SPACE))
    right = repair_check.checksum_of

    def spoil(part: Path) -> int:
        data = bytearray(part.read_bytes())
        data[-100] ^= 1
        part.write_bytes(data)
        return right(part)

    monkeypatch.setattr(repair_check, "checksum_of", spoil)
    assert "other bytes than were written" in advised_refusal(repair, plan_repair(path), path.with_name("new.gguf"), 2)
    assert os.listdir(path.parent) == ["old.gguf"]


def test_damage_elsewhere_is_told_and_not_passed_on(changed: Callable[..., Path]) -> None:
    def spoil(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index("blk.3.ffn_up.weight")
        one = parts.tensors[index]
        return parts.with_tensor(index, replace(one, data=b"\0\x7e" + one.data[2:]))

    path = changed("b2-7b", without(SPACE), spoil)
    message = advised_refusal(repair, plan_repair(path), path.with_name("new.gguf"), 2)
    assert "cannot be repaired" in message
    assert "blk.3.ffn_up.weight" in message
    assert os.listdir(path.parent) == ["old.gguf"]
