"""A pull that is killed at any moment is gone on with by the same call: every byte is right, and nothing half has a name.

`BQ_KILLS=100 pytest tests/library/pull/test_kills.py -k again` kills that often at moments drawn by chance.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bq.library.home import home, models_folder
from bq.library.registry import entries
from tests.support.hub_server import Fault, HubServer
from tests.support.nursery import Child

from .conftest import REPOSITORY, Start

NAME = "baichuan2-7b-chat"
OUT = "Baichuan2-7B-Chat-Q8_0.gguf"
KILLS = int(os.environ.get("BQ_KILLS", "0"))
LONGEST_SECONDS = 60.0  # until a step is reached
SLOW_BYTES_PER_SECOND = 600_000.0


@pytest.fixture(scope="session")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file, converted without a pull."""
    from bq.convert.convert import convert, prepare

    out = tmp_path_factory.mktemp("expected") / OUT
    convert(prepare(checkpoint, "Q8_0", name="Baichuan2-7B-Chat"), out, threads=2)
    return out.read_bytes()


def check(expected: bytes, checkpoint: Path) -> None:
    """What a pull that went through leaves: the file, its entry, every byte of the download, and nothing else."""
    assert [path.name for path in models_folder().iterdir()] == [OUT]
    assert (models_folder() / OUT).read_bytes() == expected
    (entry,) = entries()
    assert (entry.name, entry.is_missing) == (f"{NAME}:Q8_0", False)
    assert entry.checkpoint is not None
    for path in entry.checkpoint.iterdir():
        assert path.read_bytes() == (checkpoint / path.name).read_bytes()


def kill_when(process: Child, is_time: Callable[[], bool], expected: bytes) -> None:
    """What is killed a moment too late has ended well."""
    until = time.monotonic() + LONGEST_SECONDS
    while not is_time() and time.monotonic() < until:
        time.sleep(0.002)
    process.kill()
    assert process.wait() in (-signal.SIGKILL, 0), process.err
    path = models_folder() / OUT
    assert not path.exists() or path.read_bytes() == expected, "what has the name is whole"


def steps(hub: HubServer) -> Iterator[Callable[[], bool]]:
    """What tells that a pull is in the midst of its download, of the conversion, of the verification; then chance."""
    yield lambda: any(one.is_cdn for one in hub.requests)
    yield lambda: bool(list(models_folder().glob("*-unverified.part")))
    yield lambda: bool(list(models_folder().glob("*-unverified")))
    moments = random.Random(KILLS)
    for _ in range(KILLS):
        until = time.monotonic() + moments.uniform(0.1, 2.0)
        yield lambda until=until: time.monotonic() > until  # type: ignore[misc]


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_killed_again_and_again_it_comes_to_its_end(
    start: Start, hub: HubServer, checkpoint: Path, expected: bytes, tmp_path: Path
) -> None:
    for is_time in steps(hub):
        for number in (1, 2, 3):
            hub.fault(f"pytorch_model-0000{number}-of-00003.bin", Fault(bytes_per_second=SLOW_BYTES_PER_SECOND))
        process = start("pull", NAME, "-q", "Q8_0", "--yes")
        kill_when(process, is_time, expected)
        if process.wait() == 0:  # it was quicker
            check(expected, checkpoint)
            shutil.rmtree(tmp_path / "hf")
            shutil.rmtree(home())
    done = start("pull", NAME, "-q", "Q8_0", "--yes")
    assert (done.wait(), done.out) == (0, f"{NAME}:Q8_0\n"), done.err
    check(expected, checkpoint)


def test_a_finished_conversion_is_not_repeated_and_what_else_was_left_goes(
    pull: Callable[..., object], hub: HubServer, expected: bytes, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bq.convert import convert

    commit = hub.repositories[REPOSITORY].resolve("main") or ""
    models_folder().mkdir()
    unverified = models_folder() / f"{OUT}.{commit[:8]}-unverified"
    unverified.write_bytes(expected)
    unverified.with_name(unverified.name + ".part").write_bytes(b"half")
    (models_folder() / f"{OUT}.00000000-unverified").write_bytes(b"of an earlier commit")
    monkeypatch.setattr(convert, "convert", lambda *_, **__: pytest.fail("converted again"))
    pull(NAME, "-q", "Q8_0", "--yes")
    check(expected, checkpoint)


def test_what_does_not_pass_is_thrown_away(pull: Callable[..., object], hub: HubServer, expected: bytes) -> None:
    from bq.runtime.errors import BqError

    commit = hub.repositories[REPOSITORY].resolve("main") or ""
    models_folder().mkdir()
    (models_folder() / f"{OUT}.{commit[:8]}-unverified").write_bytes(expected[:-70_000] + bytes(70_000))
    with pytest.raises(BqError, match="did not come out right"):
        pull(NAME, "-q", "Q8_0", "--yes")
    assert [*models_folder().iterdir()] == []
    assert entries() == []


@pytest.mark.skipif(os.name == "nt", reason="there is no fork")
def test_two_at_the_same_time_make_one_file(start: Start, hub: HubServer, expected: bytes, checkpoint: Path) -> None:
    both = [start("pull", NAME, "-q", "Q8_0", "--yes") for _ in range(2)]
    ended = [one.wait() for one in both]
    assert 0 in ended, [one.err for one in both]
    for status, one in zip(ended, both, strict=True):
        assert status == 0 or "Another bq" in one.err
    check(expected, checkpoint)
