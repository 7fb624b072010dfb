"""Without a network: what was fetched before is found and checked, anything else is refused, and no socket is opened."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bq.library.needed import conversion_files
from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.open import open_source
from bq.library.sources.source import Source, Watcher
from bq.runtime.errors import BqError, UsageError
from tests.support.hub_server import HubServer
from tests.support.nursery import Nursery

from .conftest import NAME, check, fetch

SHARD = "pytorch_model-00001-of-00002.bin"
WATCHED = """
import sys
def hook(event, arguments):
    if event.startswith("socket.") or event == "urllib.Request":
        print("network:", event, arguments, flush=True)
sys.addaudithook(hook)
from bq.library.needed import conversion_files
from bq.library.sources.open import open_source
from bq.library.sources.source import Watcher
from bq.runtime.errors import BqError
for name in ("hf", "modelscope"):
    source = open_source(name, offline=sys.argv[2] == "flag")
    try:
        listing = source.listing(sys.argv[1])
        print(source.fetch(listing, conversion_files(listing), Watcher()))
    except BqError as error:
        print(error)
"""


def offline(source: Source) -> Source:
    return type(source)(offline=True)  # type: ignore[call-arg]


def test_what_was_fetched_is_there_without_the_server(
    hub: HubServer, source: Source, release: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(NAME, release)
    folder = fetch(source)
    check(folder, source, release)
    before = len(hub.requests)
    for revision in (None, commit) if source.name == "hf" else (None,):
        listing = offline(source).listing(NAME, revision)
        assert listing.commit == commit
        assert offline(source).fetch(listing, conversion_files(listing), Watcher()) == folder
    assert len(hub.requests) == before


def test_a_file_that_lacks_or_is_wrong_is_named(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    path = Path(os.path.realpath(fetch(source) / SHARD))
    listing = offline(source).listing(NAME)
    files = conversion_files(listing)
    path.write_bytes(b"\0" * len(release[SHARD]))
    with pytest.raises(BqError, match=f"{SHARD} is not whole"):
        offline(source).fetch(listing, files, Watcher())
    path.unlink()
    with pytest.raises(BqError, match="offline"):
        offline(source).fetch(listing, files, Watcher())


def test_what_was_never_fetched_is_refused_with_what_works(hub: HubServer, source: Source) -> None:
    with pytest.raises(BqError, match=r"bq is offline.*folder or USB stick"):
        offline(source).listing(NAME)


@pytest.mark.skipif(os.name == "nt", reason="there is no fork")
@pytest.mark.parametrize("how", ["flag", "HF_HUB_OFFLINE"])
def test_no_socket_is_opened(
    hub: HubServer, nursery: Nursery, release: dict[str, bytes], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, release)
    folder = fetch(Hub())
    before = len(hub.requests)
    if how != "flag":
        monkeypatch.setenv(how, "1")
    process = nursery.start(WATCHED, NAME, how)
    assert process.wait() == 0, process.err
    first, second = process.out.splitlines()
    assert first == str(folder)
    assert "bq is offline" in second
    assert len(hub.requests) == before


@pytest.mark.skipif(os.name == "nt", reason="there is no fork")
def test_the_watch_sees_sockets(hub: HubServer, nursery: Nursery, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    process = nursery.start(WATCHED, NAME, "no")
    assert process.wait() == 0, process.err
    assert "network: socket.connect" in process.out


def test_opening_a_source_imports_nothing_heavy() -> None:
    code = (
        "import sys, bq.library.needed; from bq.library.sources.open import open_source; open_source('hf'); "
        "open_source('modelscope'); open_source('.'); print({'huggingface_hub', 'httpx2', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_source_is_a_name_or_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_source("hf"), Hub)
    assert isinstance(open_source("modelscope", offline=True), ModelScope)
    assert open_source(str(tmp_path)).name == "folder"
    for text in ("", "huggingface", str(tmp_path / "none")):
        with pytest.raises(UsageError, match="hf, modelscope or a folder"):
            open_source(text)


def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = """
import importlib, json, os, sys
from huggingface_hub import constants
from bq.library.sources.hub_cache import hub_cache
for variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    importlib.reload(constants)
    print(str(hub_cache()) == constants.HF_HUB_CACHE, hub_cache())
    for name in variables:
        del os.environ[name]
"""
    cases: list[dict[str, str]] = [
        {},
        {"HF_HOME": "~/x"},
        {"XDG_CACHE_HOME": str(tmp_path)},
        {"HF_HUB_CACHE": "$HOME/y"},
    ]
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", code, json.dumps(cases)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["True"] * 4, lines
    assert len({*lines}) == 4
