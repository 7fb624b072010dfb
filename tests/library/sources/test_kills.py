"""Real processes that download: killed, stopped, two at once, on a full disk. The next call finishes, every byte right.

`BQ_KILLS=100 pytest -s tests/library/sources/test_kills.py -k killed` kills that often and prints how far the kills reached.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.source import Source
from tests.support.hub_repositories import a_release
from tests.support.hub_server import Fault, HubServer

from .conftest import NAME, QUICK, Start, check, everything_below, fetch, fetch_one

SHARD = "pytorch_model-00001-of-00002.bin"
KILLS = int(os.environ.get("BQ_KILLS", "3"))
COMMIT_DIGITS = 40
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def await_bytes_of(hub: HubServer, path: str) -> None:
    """Until a file's bytes are on their way."""
    until = time.monotonic() + 30
    while not any(one.is_cdn for one in hub.asked(path)):
        assert time.monotonic() < until, "the child never asked"
        time.sleep(0.005)


def finished(folder: Path) -> list[Path]:
    """Files under their final names: blobs of a cache, or the files of a commit."""
    found = [path for path in everything_below(folder) if path.suffix not in (".part", ".incomplete", ".lock")]
    return [path for path in found if path.parent.name == "blobs" or len(path.parent.name) == COMMIT_DIGITS]


def a_source(number: int) -> Source:
    return Hub(patience=QUICK) if number % 2 else ModelScope(patience=QUICK)


def test_killed_at_any_moment_the_next_call_finishes(
    hub: HubServer, child: Start, tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each process is killed at a moment drawn by chance; the one after it goes on with what it left."""
    numbers, interrupted, resumed = random.Random(5), 0, 0
    places = [tmp_path / "hf" / "hub", own_home / "downloads"]
    for round_ in range(KILLS):
        release = a_release(seed=round_)
        hub.publish(NAME, release)
        del hub.requests[:]
        hub.fault(SHARD, Fault(bytes_per_second=600_000))
        source = a_source(round_)
        process = child(source.name)
        if (
            round_ // 2 % 2
        ):  # anywhere from its first line to beyond its end; the others in the midst of the large bytes
            time.sleep(numbers.uniform(0, 1.2))
        else:
            await_bytes_of(hub, SHARD)
            time.sleep(numbers.uniform(0, 0.45))
        process.kill()
        assert process.wait() in (-signal.SIGKILL, 0)
        done = [path.read_bytes() for folder in places for path in finished(folder)]
        assert {*done} <= {*release.values()}, "something wrong has a final name"
        interrupted += release[SHARD] not in done
        before = len(hub.requests)
        check(fetch(source), source, release)
        resumed += any(one.range for one in hub.requests[before:])
        for path in [path for folder in places for path in everything_below(folder)]:
            path.unlink()  # a round of its own
    with capsys.disabled():
        if "BQ_KILLS" in os.environ:
            print(f"\n{KILLS} kills, {interrupted} before the file was whole, {resumed} resumed in the middle of one")
    assert interrupted
    assert resumed


def test_ctrl_c_ends_it_and_the_next_call_goes_on(hub: HubServer, child: Start, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(bytes_per_second=100_000))
    process = child("hf")
    await_bytes_of(hub, SHARD)
    time.sleep(0.4)
    process.kill(signal.SIGINT)
    assert process.wait() == 130
    assert fetch_one(Hub(patience=QUICK), SHARD) == release[SHARD]
    last = hub.asked(SHARD)[-1]
    assert last.range is not None
    assert 0 < int(last.range.removeprefix("bytes=").rstrip("-")) < len(release[SHARD])


@pytest.mark.parametrize("name", ["hf", "modelscope"])
def test_two_processes_at_once_share_one_download(
    hub: HubServer, child: Start, release: dict[str, bytes], name: str
) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(bytes_per_second=600_000))
    first = child(name)
    await_bytes_of(hub, SHARD)
    assert (child(name).wait(), first.wait()) == (0, 0)
    assert len([one for one in hub.asked(SHARD) if one.is_cdn]) == 1
    source = a_source(name == "hf")
    check(fetch(source), source, release)


def test_a_full_disk_is_named_and_what_came_is_used(hub: HubServer, child: Start, release: dict[str, bytes]) -> None:
    """A limit on the size of a file stands for the disk: writing a shard fails in the middle either way."""
    hub.publish(NAME, release)
    process = child("modelscope", limit=200_000)
    assert process.wait() == 1
    assert "The disk is full" in process.err
    assert "What came is kept" in process.err
    source = ModelScope(patience=QUICK)
    check(fetch(source), source, release)
    assert "bytes=200000-" in {one.range for one in hub.requests}
