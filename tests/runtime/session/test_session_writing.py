"""A session is written whole or not at all."""

import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from bq.runtime import session
from bq.runtime.atomic_file import in_use, part_path
from bq.runtime.session_file import open_session
from tests.support.contexts import Loaded
from tests.support.refusals import advised_refusal

from .common import IDS, MODEL, TALK, Convert, in_a_child, parts, posix


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
