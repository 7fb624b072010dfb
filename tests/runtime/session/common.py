"""A conversation that is kept, contexts to keep it from, and a session's bytes taken apart and put together."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bq.runtime.engine import Engine
from bq.runtime.prompt import Message
from bq.runtime.sampling import Logits
from tests.conftest import ROOT
from tests.support.contexts import Q8_0, Kind

Convert = Callable[..., Path]
MODEL = {"name": "m"}
TALK = (Message("system", "大模型"), Message("user", "a\n"), Message("assistant", "\u2028b😀"))
IDS = [195, *range(300, 337), 196]
KINDS = {
    "f16": Kind(),
    "transposed": Kind(flash=False),
    "q8_0": Kind(kv=Q8_0),
    "parallel": Kind(parallel=3),
    "streams": Kind(parallel=3, unified=False),
}
FOOTER = struct.Struct("<IIQQ")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, modes and limits")


def logits(engine: Engine) -> npt.NDArray[np.float32]:
    return Logits(len(engine.tokenizer)).row(engine.context, -1).copy()


def after(engine: Engine, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """The logits after these ids, of which what is cached is not decoded again."""
    kept = engine.keep_prefix(ids)
    assert engine.prefill(ids[kept:])
    return logits(engine)


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


def in_a_child(code: str, *arguments: object) -> list[str]:
    """What another process prints that must not die of it."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done.stdout.splitlines()
