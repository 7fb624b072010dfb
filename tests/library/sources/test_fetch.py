"""What a source gives: the files that a conversion needs, of one commit, right to the byte, and asked for once."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bq.library.needed import conversion_files
from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.source import Cancelled, Source, Watcher
from bq.runtime.errors import BqError, UsageError
from tests.support.hub_repositories import a_release
from tests.support.hub_server import Fault, HubServer

from .conftest import NAME, QUICK, Start, check, fetch

SHARD = "pytorch_model-00001-of-00002.bin"


def bytes_asked(hub: HubServer) -> list[str]:
    """The files whose bytes were asked for, in order; a redirect counts once."""
    return [one.path + one.query for one in hub.requests if "/resolve/" in one.path or "FilePath" in one.query]


def test_the_listing_tells_sizes_hashes_commit_and_licence(hub: HubServer, source: Source) -> None:
    release = a_release()
    commit = hub.publish(NAME, release)
    listing = source.listing(NAME)
    assert (listing.source, listing.commit, listing.licence) == (source.name, commit, "apache-2.0")
    sizes = {file.path: file.size for file in listing.files}
    assert sizes == {path: len(data) for path, data in release.items()}
    assert all(file.digest for file in listing.files)


def test_every_needed_file_comes_right_and_no_other(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    folder = fetch(source)
    check(folder, source, release)
    asked = bytes_asked(hub)
    assert len(asked) == len(set(asked)) == (9 if source.name == "hf" else 11), "a hub keeps equal files once"
    assert not [one for one in asked if "draft" in one or "images" in one or "training_args" in one]


def test_a_second_fetch_asks_for_nothing_and_reads_nothing(
    hub: HubServer, source: Source, release: dict[str, bytes]
) -> None:
    hub.publish(NAME, release)
    listing = source.listing(NAME)
    files = conversion_files(listing)
    assert source.missing(listing, files) == sum(file.size for file in files)
    source.fetch(listing, files, Watcher())
    before, read = len(hub.requests), []
    assert source.missing(listing, files) == 0
    source.fetch(listing, files, Watcher(checked=lambda *of: read.append(of)))
    assert (len(hub.requests), read) == (before, [])


def test_a_file_that_changed_since_is_read_and_fetched_again(
    hub: HubServer, source: Source, release: dict[str, bytes]
) -> None:
    hub.publish(NAME, release)
    path = Path(os.path.realpath(fetch(source) / SHARD))
    path.write_bytes(b"\0" * len(release[SHARD]))
    os.utime(path, ns=(1, 1))
    check(fetch(source), source, release)


def test_all_files_are_of_the_commit_that_was_listed_though_main_moves_on(
    hub: HubServer, source: Source, release: dict[str, bytes]
) -> None:
    hub.publish(NAME, release)
    hub.fault("LICENSE", Fault(before=lambda: hub.publish(NAME, a_release(seed=8)) and None))
    folder = fetch(source)
    for file in ("LICENSE", SHARD, "tokenizer.model"):
        assert (folder / file).read_bytes() == release[file]
    assert source.folder(source.listing(NAME)) != folder, "main is elsewhere by now"


def test_progress_reaches_the_size_of_every_file(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    reached: dict[str, list[int]] = {}
    fetch(source, Watcher(report=lambda path, done, total: reached.setdefault(path, []).append(done)))
    assert {path: steps[-1] for path, steps in reached.items()} == {path: len(release[path]) for path in reached}
    assert len(reached) == 11
    assert all(steps == sorted(steps) for steps in reached.values())
    assert len(reached[SHARD]) > 3


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubServer, source: Source, release: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "hf_secret")
    hub.publish(NAME, release)
    fetch(source)
    assert {one.token for one in hub.requests if not one.is_cdn} == {"Bearer hf_secret"}
    assert [one.token for one in hub.requests if one.is_cdn] == [None, None, None]


def test_nothing_is_asked_but_the_release(hub: HubServer, child: Start, release: dict[str, bytes]) -> None:
    """huggingface_hub by itself would ask for a list of programs to report, once in a process."""
    hub.publish(NAME, release)
    process = child("hf")
    assert (process.wait(), process.err) == (0, "")
    assert len(hub.requests) == 13
    assert all(NAME in one.path for one in hub.requests)


def test_cancelling_keeps_what_came(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    hub.fault(SHARD, Fault(bytes_per_second=400_000))
    watcher = Watcher(
        report=lambda path, done, total: watcher.cancel.set() if path == SHARD and done > 50_000 else None
    )
    with pytest.raises(Cancelled, match="kept"):
        fetch(source, watcher)
    check(fetch(source), source, release)
    assert [one.range for one in hub.asked(SHARD)][-1] is not None


@pytest.mark.parametrize("name", ["model", "../x", "a/../b", "a/b/c", "a/b?c", "", "/etc/passwd", "a--b/c"])
def test_what_is_no_repository_is_refused_before_anything_is_asked(hub: HubServer, source: Source, name: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        source.listing(name)
    assert not hub.requests


def test_unknown_names_and_revisions_are_told_apart(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    with pytest.raises(BqError, match="Check the name"):
        source.listing("some-org/Other")
    with pytest.raises(BqError, match="no revision v9"):
        source.listing(NAME, "v9")


def test_a_tag_and_a_commit_are_revisions(hub: HubServer, source: Source, release: dict[str, bytes]) -> None:
    old = hub.publish(NAME, {**release, "LICENSE": b"old"}, "v1.0")
    hub.publish(NAME, release)
    assert source.listing(NAME, "v1.0").commit == source.listing(NAME, old).commit == old


def test_files_that_would_leave_their_folder_are_not_listed(hub: HubServer, source: Source) -> None:
    bad = {"../evil.bin": b"x", "/etc/evil": b"x", "a/../../evil": b"x", "C:\\evil": b"x", "a//b": b"x", "n\nl": b"x"}
    bad |= {"NUL": b"x", "a/con.gguf": b"x", "LPT1.bin": b"x", "a./b": b"x"}
    hub.publish(NAME, {**bad, "config.json": b"{}", "nested/fine.txt": b"x"})
    assert {file.path for file in source.listing(NAME).files} == {"config.json", "nested/fine.txt"}


def test_huggingface_hub_finds_what_was_fetched(hub: HubServer, release: dict[str, bytes]) -> None:
    from huggingface_hub import hf_hub_download, scan_cache_dir

    from bq.library.sources.hub_cache import hub_cache

    commit = hub.publish(NAME, release)
    folder = fetch(Hub(patience=QUICK))
    before = len(hub.requests)
    for revision in ("main", commit):
        path = hf_hub_download(NAME, SHARD, revision=revision, cache_dir=hub_cache(), local_files_only=True)
        assert Path(path) == folder / SHARD
    assert len(hub.requests) == before
    found = scan_cache_dir(hub_cache())
    assert not found.warnings
    assert [(repo.repo_id, repo.nb_files) for repo in found.repos] == [(NAME, 9)]


def test_what_huggingface_hub_fetched_is_not_fetched_again(hub: HubServer, release: dict[str, bytes]) -> None:
    from huggingface_hub import hf_hub_download

    from bq.library.sources.hub_cache import hub_cache
    from bq.library.sources.web import say_nothing_home

    say_nothing_home()
    hub.publish(NAME, release)
    hf_hub_download(NAME, SHARD, cache_dir=hub_cache(), endpoint=hub.url)
    before = len(hub.asked(SHARD))
    check(fetch(Hub(patience=QUICK)), Hub(), release)
    assert len(hub.asked(SHARD)) == before


def test_a_cache_without_links_holds_the_files_themselves(
    hub: HubServer, release: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a required privilege is not held")

    monkeypatch.setattr(os, "symlink", refuse)
    hub.publish(NAME, release)
    folder = fetch(Hub(patience=QUICK))
    assert not (folder / SHARD).is_symlink()
    check(folder, Hub(), release)
    before = len(hub.requests)
    fetch(Hub(patience=QUICK))
    assert len(hub.requests) == before + 1, "the listing"


def test_a_file_without_a_hash_is_told(hub: HubServer, release: dict[str, bytes]) -> None:
    hub.publish(NAME, release)
    source = ModelScope(patience=QUICK)
    told: list[str] = []
    listing = source.listing(NAME)
    files = [replace(one, sha256=None) for one in listing.files if one.path == "config.json"]
    source.fetch(listing, files, Watcher(note=told.append))
    assert told == ["ModelScope tells no hash of config.json: its size alone is checked."]
