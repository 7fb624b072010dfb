"""A session on disk: restored it is as if nothing had been between, and nothing but a whole one ever reaches llama.cpp."""

import hashlib
import json
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime import session
from bq.runtime.atomic_file import in_use, part_path
from bq.runtime.engine import Engine
from bq.runtime.gguf_file import read_gguf
from bq.runtime.kv_state import is_state
from bq.runtime.llama import library
from bq.runtime.loading import LoadOptions, load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Logits, Sampling
from bq.runtime.session import ModelSource
from bq.runtime.session_file import Header, finish_session, open_session
from tests.support.contexts import Q8_0, Kind, Loaded
from tests.support.families import FAMILIES, Family
from tests.support.refusals import advised_refusal

Convert = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
GREEDY = Sampling(temperature=0, repeat_penalty=1)
MODEL = {"name": "m"}
TALK = (Message("system", "大模型"), Message("user", "a\n"), Message("assistant", "\u2028b😀"))
IDS = [195, *range(300, 337), 196]
MORE = [310, 41, 300, 511]
KINDS = {
    "f16": Kind(),
    "transposed": Kind(flash=False),
    "q8_0": Kind(kv=Q8_0),
    "parallel": Kind(parallel=3),
    "streams": Kind(parallel=3, unified=False),
}
FOOTER = struct.Struct("<IIQQ")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, modes and limits")


@pytest.fixture(scope="module")
def models(converted: Convert) -> Iterator[Callable[[Family], Loaded]]:
    loaded: dict[Family, Loaded] = {}

    def give(family: Family = "b2-7b") -> Loaded:
        if family not in loaded:
            loaded[family] = Loaded(converted(family))
        return loaded[family]

    yield give
    for one in loaded.values():
        one.close()


def logits(engine: Engine) -> npt.NDArray[np.float32]:
    return Logits(len(engine.tokenizer)).row(engine.context, -1).copy()


def after(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits after these ids, of which what is cached is not decoded again."""
    kept = engine.keep_prefix(ids)
    assert engine.prefill(ids[kept:])
    return logits(engine)


@pytest.fixture(scope="module")
def saved(models: Callable[..., Loaded], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A session of IDS, as bytes."""
    path = tmp_path_factory.mktemp("saved") / "s"
    with models().engine() as engine:
        engine.prefill(IDS)
        assert session.save(engine, MODEL, path, TALK) == len(IDS)
    return path.read_bytes()


def parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """State, ids and header of a session's bytes."""
    _, count, state, header = FOOTER.unpack(data[-56:-32])
    return data[8 : 8 + state], data[8 + state : 8 + state + 4 * count], data[-56 - header : -56]


def signed(
    state: bytes = b"", ids: bytes = b"", header: bytes | None = None, counts: tuple[int, ...] | None = None
) -> bytes:
    """A session's bytes with a right checksum, whatever they say."""
    if header is None:
        header = json.dumps({"messages": [], "model": MODEL, "runtime": {}}).encode()
    counts = counts or (1, len(ids) // 4, len(state), len(header))
    body = b"bqsess\r\n" + state + ids + header + FOOTER.pack(*counts)
    return body + hashlib.blake2b(body, digest_size=32).digest()


# A restored model goes on as if nothing had been between.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_restored_logits_are_the_same_to_the_bit(
    models: Callable[..., Loaded], tmp_path: Path, family: Family, kind: str
) -> None:
    model, path = models(family), tmp_path / "s"
    with model.engine(KINDS[kind]) as engine:
        engine.prefill(IDS)
        assert session.save(engine, MODEL, path, TALK) == len(IDS)
        expected = after(engine, IDS + MORE)
    with model.engine(KINDS[kind]) as engine, open_session(path) as stored:
        engine.prefill([41, 42, 43])  # what was there before does not matter
        restored = session.restore(engine, MODEL, stored)
        assert (restored.messages, restored.restored_tokens, restored.note) == (TALK, len(IDS), "")
        assert engine.ids == tuple(IDS)
        assert engine.keep_prefix(IDS + MORE) == len(IDS)
        assert np.array_equal(after(engine, IDS + MORE), expected)


def test_a_model_answers_after_a_restore_as_without(converted: Convert, tmp_path: Path) -> None:
    path, options = tmp_path / "s", LoadOptions(ctx=256, threads=1)
    question = [Message("user", "the model reads")]
    with load(converted("b1-13b"), options) as model:
        said = "".join(model.chat(question, sampling=GREEDY, max_tokens=6))
        messages = [*question, Message("assistant", said)]
        kept = model.save_session(path, messages)
        goes_on = model.chat([*messages, Message("user", "the")], sampling=GREEDY, max_tokens=8)
        expected = "".join(goes_on)
    with load(converted("b1-13b"), options) as model:
        restored = model.restore_session(path)
        assert (list(restored.messages), restored.restored_tokens) == (messages, kept)
        answer = model.chat([*restored.messages, Message("user", "the")], sampling=GREEDY, max_tokens=8)
        assert "".join(answer) == expected
        assert answer.stats.reused_tokens == goes_on.stats.reused_tokens > 0


def test_cells_that_lie_apart_are_restored(models: Callable[..., Loaded], tmp_path: Path) -> None:
    """A cache that was shared before has its free cells here and there; their order adds up in another order, too."""
    lib, kind = library(), KINDS["parallel"]
    with models().engine(kind) as engine:
        memory = lib.llama_get_memory(engine.context)
        engine.prefill(IDS[:20])
        lib.llama_memory_seq_cp(memory, 0, 1, -1, -1)
        engine.truncate(5)
        engine.prefill(IDS[5:9])
        lib.llama_memory_seq_rm(memory, 1, 7, 12)
        engine.prefill(IDS[9:])
        assert session.save(engine, MODEL, tmp_path / "s", TALK) == len(IDS)
        expected = after(engine, IDS + MORE)
    with models().engine(kind) as engine, open_session(tmp_path / "s") as stored:
        assert session.restore(engine, MODEL, stored).restored_tokens == len(IDS)
        assert np.abs(after(engine, IDS + MORE) - expected).max() < 0.03 * np.abs(expected).max()


def test_without_anything_cached_the_messages_are_kept(models: Callable[..., Loaded], tmp_path: Path) -> None:
    with models().engine() as engine:
        for source in (engine, None):
            assert session.save(source, MODEL, tmp_path / "s", TALK) == 0
            with open_session(tmp_path / "s") as stored:
                assert session.restore(engine, MODEL, stored) == session.Session(TALK)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
DIALOGUE = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), max_size=5)


@given(TEXT, DIALOGUE, st.lists(st.integers(0, 2**31 - 1), max_size=9), st.dictionaries(TEXT, TEXT))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, system: str, dialogue: Any, ids: list[int], model: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written"
    path.write_bytes(b"bqsess\r\n" + bytes(len(ids)))
    messages = (Message("system", system), *(Message(role, text) for role, text in dialogue))
    with path.open("r+b") as out:
        finish_session(out, Header(messages, model, {}), ids)
    with open_session(path) as stored:
        assert (stored.messages, stored.ids, stored.state_bytes) == (messages, tuple(ids), len(ids))
        assert stored.header.model == model


# What does not fit this model is text, and read anew.


def test_what_belongs_elsewhere_is_read_anew_with_a_note(
    models: Callable[..., Loaded], saved: bytes, tmp_path: Path
) -> None:
    model, path = models(), tmp_path / "s"
    with model.engine() as fresh:
        expected = after(fresh, IDS)

    def note(kind: Kind, fingerprint: dict[str, str] = MODEL, data: bytes = saved) -> str:
        path.write_bytes(data)
        with model.engine(kind) as engine, open_session(path) as stored:
            restored = session.restore(engine, fingerprint, stored)
            assert (restored.messages, restored.restored_tokens, engine.ids) == (TALK, 0, ())
            if kind == Kind():
                assert np.array_equal(after(engine, IDS), expected)
            return restored.note

    state, ids, header = parts(saved)
    other = header.replace(b'"system": "', b'"system": "x', 1)
    assert other != header
    assert "another model file (m)" in note(Kind(), {"name": "m", "weights": "1"})
    assert "another llama.cpp" in note(Kind(), data=signed(state, ids, other))
    for kind in ("q8_0", "transposed", "streams"):
        assert "another type or form" in note(KINDS[kind])


def test_a_session_longer_than_the_context_is_read_anew(models: Callable[..., Loaded], tmp_path: Path) -> None:
    path = tmp_path / "s"
    with models().engine(Kind(size=512)) as engine:
        engine.prefill([*IDS] * 8)
        assert session.save(engine, MODEL, path, TALK) == 312
    with models().engine() as engine, open_session(path) as stored:
        assert "312 tokens do not fit into a context of 256" in session.restore(engine, MODEL, stored).note
    with models().engine(Kind(size=1024)) as engine, open_session(path) as stored:
        assert session.restore(engine, MODEL, stored).restored_tokens == 312


def test_a_model_is_told_from_others_by_any_part_of_its_file(converted: Convert, tmp_path: Path) -> None:
    source = converted("b2-7b")

    def fingerprint(path: Path) -> dict[str, str]:
        return dict(ModelSource.of(read_gguf(path), "name").fingerprint())

    same, changed = tmp_path / "same.gguf", tmp_path / "changed.gguf"
    data = source.read_bytes()
    same.write_bytes(data)
    assert fingerprint(same) == fingerprint(source)
    start = min(tensor.start for tensor in read_gguf(source).tensors.values())
    name = data.index(b"general.name") + 24  # within the value: metadata
    for place in (name, start, start + (len(data) - start) // 2 + 5):
        changed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert fingerprint(changed) != fingerprint(source), place
    found = ModelSource.of(read_gguf(same), "name")
    same.unlink()
    assert found.fingerprint() != found.fingerprint(), "a file that is gone is like no other"


# Nothing but a whole file is used.


def test_a_file_cut_anywhere_is_refused(saved: bytes, tmp_path: Path) -> None:
    state, ids, header = parts(saved)
    regions = [8, 16, 20, 24, len(state), len(ids), len(header), 24, 32]
    ends = {0, 1, 7, *(sum(regions[4:i], 8) for i in range(4, 10)), *regions[:4]}
    ends |= {end - 1 for end in ends if end} | set(random.Random(0).sample(range(len(saved)), 50))
    for end in ends - {len(saved)}:
        (tmp_path / "s").write_bytes(saved[:end])
        assert "s is no whole session" in advised_refusal(open_session, tmp_path / "s"), end
    for more in (saved + b"\0", saved + saved, b"\0" + saved):
        (tmp_path / "s").write_bytes(more)
        assert "s is no whole session" in advised_refusal(open_session, tmp_path / "s")


def test_any_changed_bit_is_refused(saved: bytes, tmp_path: Path) -> None:
    draw = random.Random(1)
    path = tmp_path / "s"
    path.write_bytes(saved)
    tail = range(len(saved) - sum(map(len, parts(saved)[1:])) - 56, len(saved))
    places = [*range(60), *draw.sample(range(len(saved)), 200), *draw.sample(tail, 200)]
    with path.open("r+b", buffering=0) as file:
        for place in places:
            file.seek(place)
            file.write(bytes([saved[place] ^ 1 << draw.randrange(8)]))
            assert "s is no whole session" in advised_refusal(open_session, path), place
            file.seek(place)
            file.write(saved[place : place + 1])
    open_session(path).close()


def header_of(**changes: Any) -> bytes:
    return json.dumps({"messages": [], "model": {}, "runtime": {}} | changes).encode()


MESSAGE = {"role": "user", "content": "x"}
HEADERS = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"\xff\xfe",
    header_of() + b" x",
    header_of(more={}),
    header_of(messages={}),
    header_of(messages=[[]]),
    header_of(messages=[{"role": "user"}]),
    header_of(messages=[MESSAGE | {"name": "x"}]),
    header_of(messages=[MESSAGE | {"role": "tool"}]),
    header_of(messages=[MESSAGE | {"role": ["user"]}]),
    header_of(messages=[MESSAGE | {"content": 1}]),
    header_of(messages=[MESSAGE | {"content": None}]),
    header_of(messages=[MESSAGE | {"content": "\ud800"}]),
    header_of(messages=[MESSAGE, {"role": "system", "content": "late"}]),
    header_of(model=[]),
    header_of(model={"bytes": 1}),
    header_of(model={"bytes": float("nan")}),
    header_of(runtime={"x": float("-inf")}),
    header_of(runtime={"x": {}}),
    header_of(runtime=-1e999),
    header_of()[:-1] + b"9" * 10_000 + b"}",
    header_of()[:-1] + b', "runtime": {}}',
    b'{"messages": [{"role": "user", "role": "user", "content": "x"}], "model": {}, "runtime": {}}',
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_without_sense_is_refused_though_the_checksum_is_right(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(signed(header=header))
    message = advised_refusal(open_session, tmp_path / "s")
    assert message.startswith("s is no whole session")
    assert len(message) < 500


H = len(header_of())
BIG = 2**64 - 1
COUNTS = [  # version, tokens, bytes of state, bytes of header
    (0, 0, 0, H),
    (2, 0, 0, H),
    (2**32 - 1, 0, 0, H),
    (1, 2**32 - 1, 0, H),
    (1, 0, BIG, H),
    (1, 0, 0, BIG),
    (1, 0, 0, H - 1),
    (1, 0, 1, H - 1),
    (1, 1, 0, H - 4),
    (1, 0, H, 0),
    (1, 1, 2**64 - 4, H),
    (1, 2**30, 2**64 - 2**32, H),
    (1, 1, 2**64 - H - 4, 2 * H),
]


@pytest.mark.parametrize("counts", COUNTS)
def test_lengths_without_sense_are_refused_though_the_checksum_is_right(
    counts: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    path.write_bytes(signed(header=header_of(), counts=(1, 0, 0, H)))
    open_session(path).close()
    path.write_bytes(signed(header=header_of(), counts=counts))
    assert "s is no whole session" in advised_refusal(open_session, path)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes, is_signed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(signed(header=data) if is_signed else data)
    advised_refusal(open_session, path)


@posix
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        assert "no whole session" in advised_refusal(open_session, path)
    assert "There is no session" in advised_refusal(open_session, tmp_path / "none")
    assert "cannot be read" in advised_refusal(open_session, tmp_path / ("x" * 5000))


# Nothing but a whole state reaches llama.cpp: what it would do with one that is not ends the process.


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpps_own_states_are_states_and_no_part_of_one_is(
    models: Callable[..., Loaded], tmp_path: Path, kind: str
) -> None:
    lib, path = library(), tmp_path / "state"
    with models("b2-13b").engine(KINDS[kind]) as engine:
        engine.prefill(IDS)
        size = lib.llama_state_seq_get_size(engine.context, 0)
        buffer = (lib.ctypes.c_uint8 * size)()
        assert lib.llama_state_seq_get_data(engine.context, buffer, size, 0) == size
    path.write_bytes(b"before" + bytes(buffer) + b"behind")
    draw = random.Random(2)
    with path.open("rb") as file:
        assert is_state(file, 6, size, len(IDS))
        for start, wrong in [(6, size + 1), (6, size - 1), (5, size), (7, size), (6, 0), (6, size + 6), (6, 2 * size)]:
            assert not is_state(file, start, wrong, len(IDS))
        for count in (0, 1, len(IDS) - 1, len(IDS) + 1, 2**31):
            assert not is_state(file, 6, size, count)
        for _ in range(100):
            assert not is_state(file, 6, draw.randrange(size), len(IDS))


RESTORE = """
import sys
from pathlib import Path
from bq.runtime import session
from bq.runtime.errors import BqError
from bq.runtime.session_file import open_session
from tests.support.contexts import Loaded
with Loaded(Path(sys.argv[1])).engine() as engine:
    for path in sorted(Path(sys.argv[2]).iterdir()):
        try:
            with open_session(path) as stored:
                result = session.restore(engine, {"name": "m"}, stored)
            outcome = f"restored {result.restored_tokens}" if result.restored_tokens else result.note
        except BqError as error:
            outcome = str(error)
        kept = engine.keep_prefix(range(300, 320))
        assert engine.prefill(list(range(300, 320))[kept:])
        print(path.name, outcome, flush=True)
"""


def in_a_child(code: str, *arguments: object) -> list[str]:
    """What another process prints that must not die of it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout.splitlines()


def places_of_numbers(state: bytes, tokens: int) -> list[int]:
    """Where a state's head, cells and first layers say how long they are."""
    layers = 16 + 12 * tokens
    rows = layers + 8
    row_bytes = struct.unpack_from("<Q", state, rows + 4)[0]
    return [
        0,
        4,
        8,
        12,
        *range(16, 40, 4),
        layers - 12,
        layers,
        layers + 4,
        rows,
        rows + 4,
        rows + 12 + tokens * row_bytes,
    ]


def test_a_state_that_lies_does_no_harm(
    models: Callable[..., Loaded], converted: Convert, saved: bytes, tmp_path: Path
) -> None:
    """With a right checksum, as if made to do harm: each number of its form set to others, cut and grown at each of them."""
    state, ids, header = parts(saved)
    broken = []
    for place in places_of_numbers(state, len(IDS)):
        numbers = (0, 1, 2, 40, 0x7FFFFFFF, 0xFFFFFFFF)
        broken += [state[:place] + struct.pack("<I", number) + state[place + 4 :] for number in numbers]
        broken += [state[:place], state[:place] + b"\0\0\0\0" + state[place:], state[:place] + state[place + 4 :]]
    harmless = [signed(one, ids, header) for one in broken if one != state]
    harmless += [signed(state, ids[4:] + struct.pack("<i", token), header) for token in (-1, 704, 2**31 - 1)]
    harmless += [signed(state, ids[4:], header), signed(state, ids + ids[:4], header)]
    folder = tmp_path / "lies"
    folder.mkdir()
    for i, data in enumerate(harmless):
        (folder / f"{i:03}").write_bytes(data)
    outcomes = in_a_child(RESTORE, converted("b2-7b"), folder)
    assert len(outcomes) == len(harmless)
    told = {outcome.split(" ", 1)[1].split(":")[0] for outcome in outcomes}
    assert told <= {"The session's text is read anew", *(f"{i:03} is no whole session" for i in range(len(harmless)))}


def test_values_that_are_no_numbers_do_no_harm(saved: bytes, converted: Convert, tmp_path: Path) -> None:
    """They fit, so they are restored: the answer is senseless, and the process lives."""
    state, ids, header = parts(saved)
    rows = 16 + 12 * len(IDS) + 8 + 12
    (tmp_path / "nan").write_bytes(
        signed(state[:rows] + b"\xff" * 192 * 2 * len(IDS) + state[rows + 192 * 2 * len(IDS) :], ids, header)
    )
    assert in_a_child(RESTORE, converted("b2-7b"), tmp_path) == [f"nan restored {len(IDS)}"]


# Writing: whole or not at all.


@posix
def test_a_session_is_the_users_alone_and_a_link_stays_one(models: Callable[..., Loaded], tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    target.write_text("before")
    target.chmod(0o666)
    with models().engine() as engine:
        engine.prefill(IDS)
        session.save(engine, MODEL, link, TALK)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]
    open_session(link).close()


def test_what_a_killed_writer_left_is_cleared_and_two_do_not_write_at_once(
    models: Callable[..., Loaded], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    part_path(path).write_bytes(b"x" * 10_000_000)
    with models().engine() as engine:
        engine.prefill(IDS)
        session.save(engine, MODEL, path, TALK)
        with suppress(KeyError), session.replacing(path):
            assert "Another bq is writing s" in advised_refusal(session.save, engine, MODEL, path, TALK)
            raise KeyError
    with in_use(path):
        assert "Another bq is using s" in advised_refusal(lambda: in_use(path).__enter__())
    assert [one.name for one in tmp_path.iterdir()] == ["s"]
    open_session(path).close()


def test_too_little_space_is_told_before_the_first_byte(
    models: Callable[..., Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"before")
    monkeypatch.setattr(session.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with models().engine() as engine:
        engine.prefill(IDS)
        assert "0.00 GB free, the session needs 0.00 GB" in advised_refusal(session.save, engine, MODEL, path, TALK)
    assert path.read_bytes() == b"before"


LIMITED = """
import resource, signal, sys
from pathlib import Path
from bq.runtime import session
from bq.runtime.errors import BqError
from bq.runtime.prompt import Message
from tests.support.contexts import Loaded
path = Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Loaded(Path(sys.argv[1])).engine() as engine:
    engine.prefill(list(range(300, 339)))
    for limit in map(int, sys.argv[3:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            session.save(engine, {"name": "m"}, path, [Message("user", "x" * 5000)])
            print("whole")
        except BqError as error:
            print(str(error), path.read_bytes() == b"before", len(list(path.parent.iterdir())))
"""


@posix
def test_a_full_disk_is_one_line_and_what_was_there_stays(saved: bytes, converted: Convert, tmp_path: Path) -> None:
    """Full in the state, at its very end (in what the C library still holds), in the header, and not at all."""
    path = tmp_path / "s"
    path.write_bytes(b"before")
    state = len(parts(saved)[0]) + 8
    limits = [0, 10, 5000, state // 2, state - 100, state - 1, state + 10, state + 4000]
    *full, whole = in_a_child(LIMITED, converted("b2-7b"), path, *limits, 1 << 40)
    assert len(full) == len(limits)
    for line in full:
        assert line.startswith("The session s could not be written: ")
        assert line.endswith("What was there before is unchanged. Free some space. True 1")
        assert "large" in line or "No space" in line, line
    assert whole == "whole"
    open_session(path).close()


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from bq.runtime import session
from bq.runtime.prompt import Message
from bq.runtime.session_file import open_session
from tests.support.contexts import Loaded
path, draw, left = Path(sys.argv[2]), random.Random(3), 0
with Loaded(Path(sys.argv[1])).engine() as engine:
    engine.prefill(list(range(300, 339)))
    session.save(engine, {"name": "m"}, path, [Message("user", "0")])
    for _ in range(40):
        child = os.fork()
        if child == 0:
            while True:
                session.save(engine, {"name": "m"}, path, [Message("user", str(time.time()))])
        time.sleep(draw.random() / 20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += path.with_name("s.part").exists()
        with open_session(path) as stored:
            assert len(stored.ids) == 39 and len(stored.messages) == 1
    session.save(engine, {"name": "m"}, path, [Message("user", "x")])
    print(left, [one.name for one in path.parent.iterdir()])
"""


@posix
def test_a_kill_at_any_moment_leaves_a_whole_session(converted: Convert, tmp_path: Path) -> None:
    ((left, names),) = (line.split(" ", 1) for line in in_a_child(KILLED, converted("b2-7b"), tmp_path / "s"))
    assert int(left) > 0, "no kill came while it was writing"
    assert names == "['s']"
