"""What a repair keeps, refuses and leaves behind: unknown keys as bytes, one line for what cannot be, nothing half written."""

import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.convert.named_release import name_file
from bq.convert.repair import check as repair_check
from bq.convert.repair.gguf_rewrite import Rewrite, raw_keys
from bq.convert.repair.head import judge_head
from bq.convert.repair.repair import RepairOptions, plan_repair, repair
from bq.runtime.ggml import GgmlType, quantize
from bq.runtime.gguf_file import GgufFile, TensorEntry, read_gguf
from tests.support.broken_gguf import broken
from tests.support.families import Family
from tests.support.gguf_writer import ARRAY, BOOL, F64, SCALARS, STRING, U32, Key, Parts, array, encoded, take_apart
from tests.support.old_converters import as_old, retyped
from tests.support.refusals import advised_refusal, only_refuses, refusal

Convert = Callable[..., Path]
Edit = Callable[[Parts], Parts]
SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
OUTPUT, NAME = "output.weight", "general.name"
SPACE, BEGIN, END, STOP = (
    f"tokenizer.ggml.{name}" for name in ("add_space_prefix", "add_bos_token", "add_eos_token", "eot_token_id")
)
TEMPLATE = "tokenizer.chat_template"


parts_of = cache(take_apart)


@pytest.fixture
def changed(tmp_path: Path, converted: Convert) -> Callable[..., Path]:
    """`changed("b2-7b", edit)`: a file of ours, changed."""

    def make(family: Family, *edits: Edit, **shape: Any) -> Path:
        parts = parts_of(converted(family, "Q8_0", **(SMALL | shape)))
        for edit in edits:
            parts = edit(parts)
        path = tmp_path / "old.gguf"
        path.write_bytes(parts.to_bytes())
        return path

    return make


def text(key: str, value: str) -> Edit:
    return lambda parts: parts.with_key(key, STRING, encoded(STRING, value))


def without(*keys: str) -> Edit:
    return lambda parts: parts.without_key(*keys)


def flag(key: str, value: bool) -> Edit:
    return lambda parts: parts.with_key(key, BOOL, encoded(BOOL, value))


def number(key: str, value: int) -> Edit:
    return lambda parts: parts.with_key(key, U32, encoded(U32, value))


def kinds(change: Callable[[int, int], int]) -> Edit:
    return lambda parts: retyped(parts, change)


def scaled_output(change: Callable[[Any], Any]) -> Edit:
    """Q8_0 blocks, their scales changed; `change` has them as [rows, blocks]."""

    def edit(parts: Parts) -> Parts:
        index = [one.name for one in parts.tensors].index(OUTPUT)
        one = parts.tensors[index]
        blocks = np.frombuffer(one.data, np.uint8).reshape(one.dims[1], -1, 34).copy()
        scales = blocks[:, :, :2].copy().view("<f2")[:, :, 0].astype(np.float32)
        blocks[:, :, :2] = change(scales).astype("<f2")[:, :, np.newaxis].view(np.uint8)
        return parts.with_tensor(index, replace(one, data=blocks.tobytes()))

    return edit


def _uneven(scales: Any) -> Any:
    return scales * np.random.default_rng(0).uniform(0.5, 3, (len(scales), 1))


def _one_stray(scales: Any) -> Any:
    scales[333] *= 2
    return scales


FAULTS: dict[str, tuple[Family, Edit, list[str]]] = {
    "ordinary pieces": ("b2-7b", kinds(lambda i, kind: 1 if kind == 4 else kind), ["token-types"]),
    "ordinary bytes": ("b1-7b", kinds(lambda i, kind: 1 if kind == 6 else kind), ["token-types"]),
    "ordinary end": ("b2-7b", kinds(lambda i, kind: 1 if i == 2 else kind), ["token-types"]),
    "ordinary padding": ("b2-7b", kinds(lambda i, kind: 1 if kind == 5 else kind), ["token-types"]),
    "ordinary roles": ("b2-7b", kinds(lambda i, kind: 1 if i in (195, 196) else kind), ["role-pieces"]),
    "one role": ("b1-13b", kinds(lambda i, kind: 4 if i == 196 else kind), ["role-pieces"]),
    "no word on spaces": ("b2-7b", without(SPACE), ["add-space-prefix"]),
    "spaces": ("b1-7b", flag(SPACE, True), ["add-space-prefix"]),
    "no word on <s>": ("b2-7b", without(BEGIN), ["add-bos-token"]),
    "an end after prompts": ("b2-7b", flag(END, True), ["add-eos-token"]),
    "another end": ("b2-7b", number("tokenizer.ggml.eos_token_id", 0), ["eos-token"]),
    "no stop": ("b2-7b", without(STOP), ["stop"]),
    "another stop": ("b2-7b", number(STOP, 2), ["stop"]),
    "no template": ("b2-7b", without(TEMPLATE), ["chat-template"]),
    "another template": ("b1-7b", text(TEMPLATE, "<reserved_102>{{ x }}<reserved_103>"), ["chat-template"]),
    "another generation": ("b2-7b", number("bq.generation", 1), ["generation"]),
    "a dummy prefix": ("b2-7b", flag("bq.tokenizer.add_dummy_prefix", True), ["tokenizer-add-dummy-prefix"]),
    "a false claim": ("b1-7b", text("bq.norm_head", "folded"), ["norm-head"]),
    "no fold": ("b2-7b", scaled_output(_uneven), ["norm-head"]),
    "a false claim beside rows that show nothing": (
        "b1-7b",
        lambda parts: text("bq.norm_head", "folded")(replace(parts, tensors=())),
        ["norm-head"],
    ),
    "a Base's template": (
        "b2-7b",
        lambda parts: text(TEMPLATE, "{{ x }}")(text("bq.variant", "base")(parts)),
        ["chat-template"],
    ),
    "a row that was forgotten": ("b2-7b", scaled_output(_one_stray), ["norm-head"]),
}


@pytest.mark.parametrize(("family", "edit", "names"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_found_and_mended(
    changed: Callable[..., Path], family: Family, edit: Edit, names: list[str]
) -> None:
    """`repair` itself looks again at what it wrote, and has it verified."""
    path = changed(family, edit)
    before = path.read_bytes()
    plan = plan_repair(path)
    assert [one.name for one in plan.findings if one.verdict == "fault"] == names
    done = repair(plan, path.with_name("new.gguf"), threads=1)
    assert "nothing is left to repair" in done.checked
    assert path.read_bytes() == before


def test_a_forgotten_stop_is_no_fault_of_a_base(changed: Callable[..., Path]) -> None:
    assert not plan_repair(changed("b2-7b", without(STOP, TEMPLATE), text("bq.variant", "base"))).is_needed


@pytest.mark.parametrize(
    ("family", "edit", "words"),
    [
        ("b1-7b", scaled_output(lambda one: one / np.linalg.norm(one) * 0), None),
        ("b2-7b", scaled_output(lambda one: one * np.nan), "no number"),
    ],
)
def test_zeros_need_nothing_and_what_is_no_number_is_beyond_repair(
    changed: Callable[..., Path], family: Family, edit: Edit, words: str | None
) -> None:
    path = changed(family, edit)
    plan = plan_repair(path)
    assert plan.is_needed == bool(words)
    if words:
        message = advised_refusal(repair, plan, path.with_name("new.gguf"), 2)
        assert words in message
        assert "Convert the release again" in message
        assert os.listdir(path.parent) == ["old.gguf"]


def test_a_normalised_baichuan_1_is_beyond_repair(tmp_path: Path, converted: Convert) -> None:
    path = tmp_path / "old.gguf"
    source = converted("b1-7b", "Q8_0", **SMALL, normalized_head=True)
    path.write_bytes(as_old(take_apart(source)).to_bytes())
    message = advised_refusal(repair, plan_repair(path), tmp_path / "new.gguf", 2)
    assert "only Baichuan 2 needs" in message
    assert "Convert the release again with `bq convert`" in message


@pytest.mark.parametrize(
    ("kind", "spread", "verdict"),
    [(GgmlType.Q8_0, 0.01, "lost"), (GgmlType.Q8_0, 0.08, "sound"), (GgmlType.Q2_K, 0.01, "unknown")],
)
def test_norms_near_1_say_nothing_of_a_baichuan_1_in_a_coarse_type(
    tmp_path: Path, kind: GgmlType, spread: float, verdict: str
) -> None:
    """Raw rows of a release may have such norms by accident; only types that keep norms to 3 % show that they were divided."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((64, 256))
    rows *= rng.uniform(1 - spread, 1 + spread, (64, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    packed = quantize(kind, rows.astype(np.float32))
    path = tmp_path / "rows"
    path.write_bytes(packed.tobytes())
    entry = TensorEntry(OUTPUT, kind, rows.shape, 0, packed.nbytes)
    assert judge_head(GgufFile(path, {}, {OUTPUT: entry}, packed.nbytes), 1, 1).verdict == verdict


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
        scaled_output(_uneven),
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
    path = changed("b2-7b", scaled_output(_uneven))
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


def release_sized(family: Family, name: str) -> GgufFile:
    """The header of a release of Baichuan 1 under another name, in a file that is called as one of the 13B chat model."""
    hidden, blocks, ffn = {"b1-7b": (4096, 32, 11008), "b1-13b": (5120, 40, 13696)}[family]
    sizes = {"embedding_length": hidden, "block_count": blocks, "feed_forward_length": ffn}
    keys = {f"baichuan.{key}": value for key, value in sizes.items()}
    return GgufFile(
        Path("baichuan-13b-chat.Q4_K_M.gguf"), {**keys, NAME: name, "tokenizer.ggml.tokens": [""] * 64000}, {}, 0
    )


def test_a_release_is_known_by_name_and_shape() -> None:
    def named(family: Family, name: str, wanted: str | None = None) -> tuple[str, str] | None:
        found = name_file(release_sized(family, name), 1, wanted)
        return (found.release.name, str(found.by)) if found else None

    assert named("b1-13b", "models") == ("baichuan-13b-chat", "the file's name")
    assert named("b1-13b", "Baichuan-13B-Base") == ("baichuan-13b-base", "general.name")
    assert named("b1-7b", "Baichuan-7B") == ("baichuan-7b", "general.name")  # the file's name is another's
    assert named("b1-7b", "mine") is None
    assert named("b1-13b", "x", "baichuan-13b-base") == ("baichuan-13b-base", "--release")
    assert name_file(release_sized("b1-13b", "models"), 2, None) is None
    assert "32 blocks, 4096 × 11008" in advised_refusal(named, "b1-7b", "x", "baichuan-13b-chat")
    endless = replace(release_sized("b1-7b", "x"), path=Path("-q1" + "_q1" * 80 + "!.gguf"))
    assert name_file(endless, 1) is None  # a backtracking match of its endings would never end
    assert "no release baichuan-99b" in advised_refusal(named, "b1-7b", "x", "baichuan-99b")


def test_the_users_word_decides_the_variant(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", as_old, text(NAME, "tuned-base"))
    assert plan_repair(path).identity.variant == "base"
    done = repair(plan_repair(path, RepairOptions(variant="instruct")), path.with_name("new.gguf"), 2)
    file = read_gguf(done.path)
    assert (file.text("bq.variant"), file.count(STOP), bool(file.text(TEMPLATE))) == ("instruct", 195, True)
    assert file.text(NAME) == "tuned-base"


def test_an_output_type_without_need_or_fit_is_refused(changed: Callable[..., Path]) -> None:
    path = changed("b2-7b", without(SPACE))
    assert "no effect" in advised_refusal(plan_repair, path, RepairOptions(output_type="Q6_K"))
    path = changed("b2-7b", scaled_output(_uneven))
    assert "do not divide" in advised_refusal(plan_repair, path, RepairOptions(output_type="Q6_K"))
