"""A GGUF file that someone else made: checked before it is used, its faults named, repaired on request."""

import os
from pathlib import Path

import pytest

from bq.library.home import models_folder
from bq.library.registry import entries, register
from bq.library.removal import plan_removal, remove
from bq.library.sources.hub import Hub
from bq.library.sources.source import Watcher
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import file_warnings
from tests.support.hub_server import Fault, HubServer
from tests.support.old_converters import make_old

from .conftest import Pull

REPOSITORY = "someone/Baichuan2-7B-Chat-GGUF"


@pytest.fixture(scope="session")
def broken(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As llama.cpp's older converter made it."""
    return make_old(checkpoint, tmp_path_factory.mktemp("old")).read_bytes()


@pytest.fixture(autouse=True)
def published(hub: HubServer, broken: bytes) -> None:
    files = {"x.F16.gguf": broken, "x.Q8_0.gguf": b"GGUF", "README.md": b"", "y.Q4_0-00001-of-00002.gguf": b""}
    hub.publish(REPOSITORY, files)


def test_its_faults_are_named_and_it_is_registered_as_it_is(pull: Pull, broken: bytes) -> None:
    done = pull(f"{REPOSITORY}:F16", "--yes")
    assert done.exit_code == 0
    assert "Fault: " in done.stderr
    assert "NormHead" in done.stderr
    (entry,) = entries()
    assert f"`bq repair {entry.name}`" in done.stderr
    assert done.stdout == f"{entry.name}\n"
    assert entry.path.read_bytes() == broken
    assert entry.source is not None
    assert (entry.source.repository, entry.source.file) == (REPOSITORY, "x.F16.gguf")


def test_a_repaired_copy_is_right_and_the_download_can_go(pull: Pull, hub: HubServer, tmp_path: Path) -> None:
    done = pull(f"{REPOSITORY}:f16", "--yes", "--repair", "--delete-checkpoint")
    assert "Repaired: " in done.stderr
    (entry,) = entries()
    assert entry.path == models_folder() / "x.F16.gguf"
    assert file_warnings(read_gguf(entry.path)) == ()
    assert not list((tmp_path / "hf").rglob("*.gguf"))
    asked = len(hub.requests)
    assert "It is here already" in pull(f"{REPOSITORY}:F16", "--yes").stderr
    assert len(hub.requests) == asked


def test_it_can_be_put_elsewhere(pull: Pull, tmp_path: Path, broken: bytes) -> None:
    pull(f"{REPOSITORY}:F16", "--yes", "--no-repair", "-o", tmp_path / "mine.gguf")
    assert entries()[0].path == tmp_path / "mine.gguf"
    assert (tmp_path / "mine.gguf").read_bytes() == broken
    with pytest.raises(UsageError, match="exists already"):
        pull(f"{REPOSITORY}:F16", "--yes", "--no-repair", "-o", tmp_path / "mine.gguf")


def test_what_is_no_model_is_refused(pull: Pull, hub: HubServer) -> None:
    with pytest.raises(BqError, match="no whole GGUF"):
        pull(f"{REPOSITORY}:Q8_0", "--yes")
    assert entries() == []
    hub.fault("x.F16.gguf", Fault(times=99, wrong=True))
    with pytest.raises(BqError, match="other bytes than its hash"):
        pull(f"{REPOSITORY}:F16", "--yes")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (REPOSITORY, rf"no GGUF files of Q4_K_M\. There are: {REPOSITORY}:Q8_0, {REPOSITORY}:F16$"),
        (f"{REPOSITORY}:Q4_0", "one part of a split file"),
        (f"{REPOSITORY}:Q2_K", "no GGUF files of Q2_K"),
    ],
)
def test_which_file_is_meant_must_be_told(pull: Pull, name: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        pull(name, "--yes")


def test_the_only_file_needs_no_telling(pull: Pull, hub: HubServer, broken: bytes) -> None:
    hub.publish("someone/One-GGUF", {"one.gguf": broken})
    pull("someone/One-GGUF", "--yes")
    (entry,) = entries()
    assert entry.path.name == "one.gguf"
    assert "It is here already" in pull("someone/One-GGUF", "--yes").stderr


def test_models_of_one_download_do_not_take_each_other_along(pull: Pull, hub: HubServer, broken: bytes) -> None:
    """All files of a commit share a folder, and equal files of two commits their bytes."""
    files = {"a.F16.gguf": broken, "b.F32.gguf": broken[:-1] + b"\1"}
    hub.publish("someone/Two-GGUF", files)
    kept = pull("someone/Two-GGUF:F16", "--yes", "--no-repair").stdout.strip()
    said = pull("someone/Two-GGUF:F32", "--yes", "--repair", "--delete-checkpoint").stderr
    assert f"The download stays: {kept} lies in" in said
    repaired = next(one for one in entries() if one.name != kept)
    with pytest.raises(BqError, match=f"holds other models: {kept}"):
        plan_removal(repaired, checkpoint=True)
    first = next(one for one in entries() if one.name == kept)
    commit = hub.publish("someone/Two-GGUF", {**files, "README.md": b"changed"}, "other")
    source = Hub()
    listing = source.listing("someone/Two-GGUF", commit)
    other = source.fetch(listing, [one for one in listing.files if one.path == "a.F16.gguf"], Watcher()) / "a.F16.gguf"
    remove(plan_removal(first))
    assert not os.path.lexists(first.path)
    assert other.read_bytes() == broken
    last = register(other, origin=first.source, checkpoint=other.parent)
    blob = Path(os.path.realpath(other))
    remove(plan_removal(last))
    assert not blob.exists()
