"""A hub on loopback, and an environment in which nothing else can be reached or found."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bq.library.needed import conversion_files
from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.patience import Patience
from bq.library.sources.source import Source, Watcher
from tests.support.hub_repositories import a_release
from tests.support.hub_server import HubServer
from tests.support.nursery import Child, Nursery

NAME = "some-org/Some-Model"
QUICK = Patience(tries=4, first_seconds=0.005)
CHILD = """
import sys
from bq.library.needed import conversion_files
from bq.library.sources.open import open_source
from bq.library.sources.source import Watcher
source = open_source(sys.argv[1])
listing = source.listing(sys.argv[2])
print(source.fetch(listing, conversion_files(listing), Watcher(note=print)), flush=True)
"""

Start = Callable[..., Child]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that everything asks, and caches of this test alone."""
    for name in [*os.environ]:
        if name.startswith(("HF_", "MODELSCOPE_", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        yield server


@pytest.fixture(scope="session")
def release() -> dict[str, bytes]:
    return a_release()


@pytest.fixture(params=["hf", "modelscope"])
def source(request: pytest.FixtureRequest) -> Source:
    """Each source in turn, with little patience."""
    return Hub(patience=QUICK) if request.param == "hf" else ModelScope(patience=QUICK)


@pytest.fixture
def child(hub: HubServer, nursery: Nursery) -> Iterator[Start]:
    """`child("hf")`: a process that fetches NAME."""
    started: list[Child] = []

    def start(source: str, limit: int = 0) -> Child:
        started.append(nursery.start(CHILD, source, NAME, limit=limit))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def fetch(source: Source, watcher: Watcher | None = None, name: str = NAME) -> Path:
    """All that a conversion needs."""
    listing = source.listing(name)
    return source.fetch(listing, conversion_files(listing), watcher or Watcher())


def fetch_one(source: Source, path: str) -> bytes:
    """The bytes of one file, fetched."""
    listing = source.listing(NAME)
    file = next(one for one in listing.files if one.path == path)
    return (source.fetch(listing, [file], Watcher()) / path).read_bytes()


def check(folder: Path, source: Source, release: dict[str, bytes]) -> None:
    """Every needed byte is right."""
    needed = conversion_files(source.listing(NAME))
    assert len(needed) > 8
    for file in needed:
        assert (folder / file.path).read_bytes() == release[file.path], file.path


def everything_below(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]
