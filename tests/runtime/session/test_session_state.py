"""Nothing but a whole state reaches llama.cpp: what it would do with one that is not ends the process."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from bq.runtime.kv_state import is_state
from bq.runtime.llama import library
from tests.support.contexts import Loaded

from .common import IDS, KINDS, Convert, in_a_child, parts, signed


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
