"""Nothing but a whole session's file is used."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bq.runtime.prompt import Message
from bq.runtime.session_file import Header, finish_session, open_session
from tests.support.refusals import advised_refusal

from .common import parts, posix, signed

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
