"""An importance matrix is what a plain numpy pass sees at each matrix; interrupted, it ends with the same numbers."""

import ctypes
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.runtime import loading
from bq.runtime.atomic_file import in_use
from bq.runtime.errors import Cancelled
from bq.runtime.evaluation import graph_node, imatrix
from bq.runtime.evaluation.imatrix import Watch, gather
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix, read_imatrix
from bq.runtime.evaluation.imatrix_state import Kept, State, Work
from bq.runtime.evaluation.request import Text
from bq.runtime.fit import Plan
from bq.runtime.gguf_file import read_gguf
from bq.runtime.tokenizer import load_tokenizer
from tests.support import reference
from tests.support.families import Checkpoint, Family, Shape
from tests.support.llama import F32_TYPE, FLASH_ATTENTION_OFF
from tests.support.reference import F32, linear, rms_norm, silu
from tests.support.refusals import advised_refusal

Convert = Callable[..., Path]
Fields = list[tuple[str, Any]]
CTX = 64
SMALL: dict[str, Any] = {"hidden": 32, "heads": 2, "ffn": 32}
WORDS = Text("words", "the model reads this text 你好 and adds up squares, over and over. " * 40)


class Squares(dict[str, np.ndarray]):
    """What the numpy pass adds up, by the GGUF names of the matrices."""

    def add(self, name: str, x: F32) -> None:
        self[name] = self.get(name, 0) + np.square(x.astype(np.float64)).sum(axis=0)


def numpy_sums(model: Checkpoint, ids: Sequence[int], chunk_size: int) -> Squares:
    """The forward pass of tests.support.reference with the inputs of each matrix written down."""
    found, tensors, arch = Squares(), dict(model), model.architecture
    for start in range(0, len(ids) - chunk_size + 1, chunk_size):
        x = tensors["model.embed_tokens.weight"][np.asarray(ids[start : start + chunk_size])]
        for number in range(arch.blocks):
            theirs, ours = f"model.layers.{number}.", f"blk.{number}."
            normed = rms_norm(x, tensors[theirs + "input_layernorm.weight"], arch.eps)
            mixed = reference.attention(linear(normed, tensors[theirs + "self_attn.W_pack.weight"]), arch)
            x = x + linear(mixed, tensors[theirs + "self_attn.o_proj.weight"])
            middle = rms_norm(x, tensors[theirs + "post_attention_layernorm.weight"], arch.eps)
            gate, up, down = (tensors[f"{theirs}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
            inner = silu(linear(middle, gate)) * linear(middle, up)
            x = x + linear(inner, down)
            inputs = {"attn_q": normed, "attn_k": normed, "attn_v": normed, "attn_output": mixed}
            for name, value in {**inputs, "ffn_gate": middle, "ffn_up": middle, "ffn_down": inner}.items():
                found.add(f"{ours}{name}.weight", value)
        found.add("output.weight", rms_norm(x, tensors["model.norm.weight"], arch.eps))
    return found


def relative_errors(found: ImportanceMatrix, expected: Squares) -> dict[str, float]:
    """Of each matrix the largest of all columns."""
    assert set(found.entries) == set(expected)
    return {name: float(np.abs(one.squares / expected[name] - 1).max()) for name, one in found.entries.items()}


def ids_of(path: Path, text: Text) -> list[int]:
    with load_tokenizer(path) as tokenizer:
        return tokenizer.encode(text.content)


@pytest.fixture
def in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values in float32 and no flash attention, which both round to float16; as tests.support.llama has it."""

    def params(plan: Plan, on_node: Any) -> Any:
        found = as_it_is(plan, on_node)
        found.type_k = found.type_v = F32_TYPE
        found.flash_attn_type = FLASH_ATTENTION_OFF
        return found

    as_it_is = loading.context_parameters
    monkeypatch.setattr(loading, "context_parameters", params)


def small(converted: Convert, family: Family) -> tuple[Path, Checkpoint]:
    path = converted(family, **SMALL)
    return path, Checkpoint(path.parent / "checkpoint", Shape(family, **SMALL))


@pytest.mark.usefixtures("in_full_precision")
@pytest.mark.parametrize(("family", "batch"), [("b2-7b", 512), ("b1-13b", 24)])
def test_the_sums_are_those_of_a_plain_numpy_pass(
    converted: Convert, monkeypatch: pytest.MonkeyPatch, family: Family, batch: int
) -> None:
    """Over two whole chunks, the rest of the text dropped; read at once, and in batches of which the last is shorter.

    Both sides differ by the order of their float32 sums alone, 6e-6 after 40 blocks. One row more or less of the 128 would
    be 1e-2, and no positions 1e-1.
    """
    path, checkpoint = small(converted, family)
    monkeypatch.setattr(imatrix, "BATCH", batch)
    text = Text("t", WORDS.content[:280])
    ids = ids_of(path, text)
    assert 2 * CTX < len(ids) < 3 * CTX

    found = gather(path, [text], ctx=CTX, with_output=True)

    errors = relative_errors(found, numpy_sums(checkpoint, ids, CTX))
    print(f"{family}: relative error {max(errors.values()):.1e}")
    assert max(errors.values()) < 3e-5
    assert {one.count for one in found.entries.values()} == {2 * CTX}
    assert (found.chunks, found.chunk_size, found.datasets) == (2, CTX, ("t",))


def test_as_a_user_runs_it_the_sums_differ_by_the_rounding_of_keys_and_values(converted: Convert) -> None:
    """The first block's q, k and v see inputs before any attention, exact to float32's 2^-24 in both; behind it float16's 2^-11
    comes in and grows to a few thousandths over the blocks. Two texts are one after the other; output.weight is left out."""
    path, checkpoint = small(converted, "b2-7b")
    texts = [Text("a", WORDS.content[:150]), Text("b", WORDS.content[150:280])]
    ids = [token for text in texts for token in ids_of(path, text)]

    found = gather(path, texts, ctx=CTX)

    expected = numpy_sums(checkpoint, ids, CTX)
    expected.pop("output.weight")
    errors = relative_errors(found, expected)
    assert max(errors[f"blk.0.attn_{name}.weight"] for name in "qkv") < 1e-6
    assert max(errors.values()) < 2e-2
    assert found.datasets == ("a", "b")


def test_inputs_on_another_device_are_fetched(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = small(converted, "b2-7b")
    here = gather(path, [WORDS], ctx=CTX, chunks=1)
    monkeypatch.setattr(graph_node._base(), "ggml_backend_buffer_is_host", lambda _: False)
    assert same_sums(gather(path, [WORDS], ctx=CTX, chunks=1), here)


def test_a_copy_of_a_matrix_on_another_device_counts_as_the_matrix() -> None:
    assert graph_node._plain("CUDA0#blk.0.attn_k.weight#0") == "blk.0.attn_k.weight"
    assert graph_node._plain("blk.0.attn_k.weight") == "blk.0.attn_k.weight"


def _swapped(fields: Fields, one: str, other: str) -> Fields:
    order = {one: other, other: one}
    kinds = dict(fields)
    return [(order.get(name, name), kinds[order.get(name, name)]) for name, _ in fields]


def _with_before(fields: Fields, place: str, new: tuple[str, Any]) -> Fields:
    index = [name for name, _ in fields].index(place)
    return [*fields[:index], new, *fields[index:]]


_FIELDS: Fields = graph_node._Tensor._fields_
OTHER_LAYOUTS = {
    "a pointer more before ne": _with_before(_FIELDS, "ne", ("more", ctypes.c_void_p)),
    "a pointer more before op": _with_before(_FIELDS, "op", ("more", ctypes.c_void_p)),
    "a pointer more before src": _with_before(_FIELDS, "src", ("more", ctypes.c_void_p)),
    "a pointer more before data": _with_before(_FIELDS, "data", ("more", ctypes.c_void_p)),
    "a pointer more before the name": _with_before(_FIELDS, "name", ("more", ctypes.c_void_p)),
    "five dimensions": [(name, ctypes.c_int64 * 5 if name == "ne" else kind) for name, kind in _FIELDS],
    "ne and nb swapped": _swapped(_FIELDS, "ne", "nb"),
    "type and op swapped": _swapped(_FIELDS, "type", "op"),
    "flags and op swapped": _swapped(_FIELDS, "flags", "op"),
    "buffer and data swapped": _swapped(_FIELDS, "buffer", "data"),
    "src and view_src swapped": _swapped(_FIELDS, "src", "view_src"),
}


@pytest.mark.parametrize("fields", OTHER_LAYOUTS.values(), ids=OTHER_LAYOUTS.keys())
def test_another_layout_of_tensors_is_refused(monkeypatch: pytest.MonkeyPatch, fields: Fields) -> None:
    graph_node.check_layout()
    other = type("_Other", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(graph_node, "_Tensor", other)
    graph_node._product_number.cache_clear()
    try:
        assert "does not show what it computes" in advised_refusal(graph_node.check_layout)
    finally:
        graph_node._product_number.cache_clear()


def same_sums(found: ImportanceMatrix, expected: ImportanceMatrix) -> bool:
    """To the bit."""
    assert set(found.entries) == set(expected.entries)
    assert {one.count for one in found.entries.values()} == {one.count for one in expected.entries.values()}
    return all(one.squares.tobytes() == expected.entries[name].squares.tobytes() for name, one in found.entries.items())


KILLED = """
import os, signal, sys
from pathlib import Path
from bq.runtime.evaluation import imatrix
from tests.runtime.test_imatrix import CTX, WORDS

def die_at_four(done, of):
    if done == 4:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

imatrix._SAVE_SECONDS = -1
imatrix.gather(Path(sys.argv[1]), [WORDS], Path(sys.argv[2]), CTX, 6, watch=imatrix.Watch(on_chunk=die_at_four))
"""


def test_a_killed_gathering_goes_on_and_ends_with_the_same_numbers(tmp_path: Path, converted: Convert) -> None:
    """The fourth chunk was computed but not yet kept when the process was killed."""
    path, _ = small(converted, "b2-7b")
    out, heard = tmp_path / "x.imatrix", list[tuple[int, int]]()
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(out)], cwd=root, timeout=60)
    assert killed.returncode
    assert not out.exists()

    found = gather(path, [WORDS], out, CTX, 6, watch=Watch(on_chunk=lambda *done: heard.append(done)))

    assert heard == [(3, 6), (4, 6), (5, 6), (6, 6)]
    assert same_sums(found, gather(path, [WORDS], None, CTX, 6))
    assert same_sums(read_imatrix(out), found)
    assert [one.name for one in tmp_path.iterdir()] == ["x.imatrix"]


def test_a_stopped_gathering_keeps_what_it_has_and_may_go_further_than_it_was_to(
    tmp_path: Path, converted: Convert
) -> None:
    path, _ = small(converted, "b2-7b")
    out, cancel, heard = tmp_path / "x.imatrix", threading.Event(), list[int]()

    def stop_at_two(done: int, of: int) -> None:
        if done == 2:
            cancel.set()

    with pytest.raises(Cancelled, match=r"after 2 of 3 chunks\. The same command goes on there"):
        gather(path, [WORDS], out, CTX, 3, watch=Watch(on_chunk=stop_at_two, cancel=cancel))
    assert [one.name for one in tmp_path.iterdir()] == ["x.imatrix.unfinished"]

    found = gather(path, [WORDS], out, CTX, 4, watch=Watch(on_chunk=lambda done, of: heard.append(done)))
    assert heard == [2, 3, 4]
    assert same_sums(found, gather(path, [WORDS], None, CTX, 4))


def work(**changes: Any) -> Work:
    given = {
        "model": {"bytes": "1"},
        "columns": {"a": 2, "b": 1},
        "ids": np.arange(40, dtype=np.int32),
        "chunk_size": 10,
    }
    return Work(**(given | changes))


KEPT = State({"a": np.array([0.1, 1 / 3]), "b": np.array([2.0**-60])}, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"bytes": "2"}},
        {"columns": {"a": 1, "b": 2}},
        {"columns": {"a": 2, "c": 1}},
        {"ids": np.arange(40, dtype=np.int32) * 2},
        {"chunk_size": 13},
        {"ids": np.arange(20, dtype=np.int32)},
    ],
    ids=["model", "columns", "matrices", "text", "ctx", "fewer chunks than are kept"],
)
def test_what_another_work_kept_is_neither_used_nor_lost(tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "x"
    Kept(out, work()).save(KEPT)
    again = Kept(out, work()).load()
    assert (again.chunks, [one.tobytes() for one in again.sums.values()]) == (
        3,
        [one.tobytes() for one in KEPT.sums.values()],
    )
    other = work(**changes)
    message = advised_refusal(Kept(out, other).load)
    assert "x.unfinished is what another gathering had so far" in message
    assert Kept(out, other, force=True).load().chunks == 0
    assert Kept(out, work()).load().chunks == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of file sizes")
def test_a_disk_that_refuses_is_named_and_what_was_kept_stays(tmp_path: Path) -> None:
    import resource

    kept = Kept(tmp_path / "x", work())
    kept.save(KEPT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        message = advised_refusal(kept.save, State(KEPT.sums, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "x.unfinished cannot be written: " in message
    assert kept.load().chunks == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.unfinished"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), bad=st.binary(max_size=5), cut=st.booleans())
def test_a_damaged_state_is_never_used(tmp_path: Path, place: int, bad: bytes, cut: bool) -> None:
    kept = Kept(tmp_path / "x", work())
    kept.save(KEPT)
    good = kept.path.read_bytes()
    place %= len(good)
    data = good[:place] + bad + (b"" if cut else good[place + len(bad) :])
    kept.path.write_bytes(data)
    if data != good:
        advised_refusal(kept.load)


def test_what_is_there_is_not_replaced_unasked_and_the_model_never(tmp_path: Path, converted: Convert) -> None:
    path, _ = small(converted, "b2-7b")
    out, before = tmp_path / "x", path.read_bytes()
    out.write_bytes(b"precious")
    assert "exists already" in advised_refusal(gather, path, [WORDS], out, CTX, 1)
    assert out.read_bytes() == b"precious"
    for force in (False, True):
        assert "is the model itself" in advised_refusal(gather, path, [WORDS], path, CTX, 1, force=force)
    assert path.read_bytes() == before
    assert "There is no folder" in advised_refusal(gather, path, [WORDS], tmp_path / "none" / "x", CTX, 1)
    assert "is a folder" in advised_refusal(gather, path, [WORDS], tmp_path, CTX, 1, force=True)
    gather(path, [WORDS], out, CTX, 1, force=True)
    assert read_imatrix(out).chunks == 1


def test_two_cannot_gather_into_one_file(tmp_path: Path, converted: Convert) -> None:
    path, _ = small(converted, "b2-7b")
    with in_use(tmp_path / "x"):
        assert "Another bq is using x" in advised_refusal(gather, path, [WORDS], tmp_path / "x", CTX, 1)


def test_a_text_without_a_whole_chunk_and_a_chunk_beyond_the_context_are_refused(converted: Convert) -> None:
    path, _ = small(converted, "b2-7b")
    assert "and a chunk takes 512" in advised_refusal(gather, path, [Text("t", "short")])
    long = Text("t", "你好" * 5000)
    assert "longer than the model's context, 4096" in advised_refusal(gather, path, [long], ctx=4200)


def test_a_model_that_computes_no_numbers_is_named_with_the_matrix(tmp_path: Path, converted: Convert) -> None:
    path, _ = small(converted, "b2-7b")
    data, norm = bytearray(path.read_bytes()), read_gguf(path).tensors["blk.3.ffn_norm.weight"]
    data[norm.start : norm.start + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "nan.gguf").write_bytes(data)
    message = advised_refusal(gather, tmp_path / "nan.gguf", [WORDS], tmp_path / "x", CTX, 1)
    assert re.match(r"What blk\.3\.ffn_(gate|up)\.weight is multiplied with are no finite numbers", message)
    assert [one.name for one in tmp_path.iterdir()] == ["nan.gguf"]


def test_a_matrix_that_llama_does_not_show_is_missed(converted: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a file whose weights are silently of no data."""
    path, _ = small(converted, "b2-7b")
    plain = graph_node._plain
    monkeypatch.setattr(graph_node, "_plain", lambda name: "" if name == "blk.7.ffn_up.weight" else plain(name))
    message = advised_refusal(gather, path, [WORDS], None, CTX, 1)
    assert message.startswith("llama.cpp showed 0 of the 64 inputs of blk.7.ffn_up.weight.")
