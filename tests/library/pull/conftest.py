"""A hub on loopback with a small random Baichuan in it, and `bq` that knows no other."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.families import Shape, write_checkpoint
from tests.support.hub_server import HubServer
from tests.support.nursery import Child, Nursery

REPOSITORY = "baichuan-inc/Baichuan2-7B-Chat"
SMALL = {"hidden": 32, "heads": 2, "ffn": 32}
Pull = Callable[..., Result]
Start = Callable[..., Child]
BQ = "import sys; from bq.tui.main import main; sys.exit(main())"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the checkpoint that the hub has."""
    folder = tmp_path_factory.mktemp("release") / "Baichuan2-7B-Chat"
    write_checkpoint(folder, Shape("b2-7b", form="bin-shards", **SMALL))  # type: ignore[arg-type]
    return folder


@contextmanager
def a_hub(checkpoint: Path, folder: Path) -> Iterator[HubServer]:
    """A hub that everything asks, and a cache in `folder`."""
    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        for name in [*os.environ]:
            if name.startswith(("HF_", "MODELSCOPE_", "TRANSFORMERS_")) or name.lower().endswith("_proxy"):
                patch.delenv(name)
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("MODELSCOPE_ENDPOINT", server.url)
        patch.setenv("HF_HOME", str(folder / "hf"))
        server.publish(REPOSITORY, checkpoint)
        yield server


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path) -> Iterator[HubServer]:
    """Of this test alone."""
    with a_hub(checkpoint, tmp_path) as server:
        yield server


def invoke(*arguments: object) -> Result:
    """`bq` in this process; an error is raised as it is."""
    from bq.tui.cli import cli

    return CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def pull(hub: HubServer) -> Pull:
    """`bq pull` in this process."""
    return lambda *arguments: invoke("pull", *arguments)


@dataclass(frozen=True)
class Done:
    """A pull that went through: its hub, and what it said."""

    hub: HubServer
    result: Result


@pytest.fixture(scope="module")
def once(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Done, Path, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("once")
    with a_hub(checkpoint, folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BQ_HOME", str(folder / "home"))
        result = invoke("--lang", "en", "pull", "baichuan2-7b-chat", "-q", "Q8_0", "--yes")
        variables = {name: os.environ[name] for name in ("BQ_HOME", "HF_HOME", "HF_ENDPOINT")}
        yield Done(server, result), folder, variables


@pytest.fixture
def done(once: tuple[Done, Path, dict[str, str]], own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Done:
    """Made once for all tests that only look at it, or make something elsewhere."""
    for name, value in once[2].items():
        monkeypatch.setenv(name, value)
    return once[0]


@pytest.fixture
def start(nursery: Nursery, hub: HubServer) -> Iterator[Start]:
    """`bq` as a process (see Nursery.start)."""
    started: list[Child] = []

    def run(*arguments: object, limit: int = 0, terminal: str = "") -> Child:
        started.append(nursery.start(BQ, *arguments, limit=limit, terminal=terminal))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()
