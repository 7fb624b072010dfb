"""A folder or a stick as a source: found in every usual layout, nothing copied, checked by what lies beside the files."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from bq.library.needed import conversion_files
from bq.library.sources.folder import Folder
from bq.library.sources.source import Watcher
from bq.runtime.errors import BqError
from tests.support.hub_repositories import a_release

NAME = "some-org/Some-Model"
SHARD = "pytorch_model-00001-of-00002.bin"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def release() -> dict[str, bytes]:
    return a_release(shard_bytes=5000)


def write(folder: Path, release: dict[str, bytes]) -> Path:
    for path, data in release.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def write_sums(folder: Path, ending: str = "") -> None:
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}{ending}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def write_cache(root: Path, release: dict[str, bytes], ref: str | None = "main") -> Path:
    """A Hugging Face cache, as huggingface_hub's guide draws it."""
    repository = root / f"models--{NAME.replace('/', '--')}"
    for path, data in release.items():
        is_lfs = path.endswith((".bin", ".model", ".safetensors"))
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = repository / "blobs" / (hashlib.sha256(data).hexdigest() if is_lfs else git)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = repository / "snapshots" / COMMIT / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref:
        (repository / "refs").mkdir()
        (repository / "refs" / ref).write_text(COMMIT)
    return repository / "snapshots" / COMMIT


def fetched(root: Path, revision: str | None = None, name: str = NAME) -> Path:
    source = Folder(root)
    listing = source.listing(name, revision)
    files = conversion_files(listing)
    assert source.missing(listing, files) == 0
    return source.fetch(listing, files, Watcher())


@pytest.mark.parametrize("place", ["some-org/Some-Model", "Some-Model", "."])
@pytest.mark.parametrize("revision", [None, "main", "master"])
def test_a_release_is_found_by_its_names_or_as_the_folder_itself(
    tmp_path: Path, release: dict[str, bytes], place: str, revision: str | None
) -> None:
    folder = write(tmp_path / place, release)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert fetched(tmp_path, revision) == folder
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_revision_is_another_folder(tmp_path: Path, release: dict[str, bytes]) -> None:
    write(tmp_path / "Some-Model", release)
    with pytest.raises(BqError, match=r"no some-org/Some-Model at v2\.0"):
        fetched(tmp_path, "v2.0")
    folder = write(tmp_path / "Some-Model-v2.0", release)
    assert fetched(tmp_path, "v2.0") == folder
    assert fetched(folder, "v2.0") == folder


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
@pytest.mark.parametrize("depth", ["", "hub", "models--some-org--Some-Model"])
def test_a_cache_is_read_where_it_is(tmp_path: Path, release: dict[str, bytes], depth: str) -> None:
    snapshot = write_cache(tmp_path / "hub", release)
    root = tmp_path if depth == "hub" else tmp_path / "hub" / depth
    assert fetched(root) == snapshot
    assert fetched(root, COMMIT) == snapshot
    assert Folder(root).listing(NAME).commit == COMMIT
    assert all(file.digest for file in Folder(root).listing(NAME).files)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_cache_tells_its_wrong_files(tmp_path: Path, release: dict[str, bytes]) -> None:
    snapshot = write_cache(tmp_path, release, ref=None)
    Path(os.path.realpath(snapshot / SHARD)).write_bytes(b"\0" * len(release[SHARD]))
    with pytest.raises(BqError, match="is not what the hash beside it names"):
        fetched(tmp_path)


def test_sums_beside_the_files_are_held_against_them(tmp_path: Path, release: dict[str, bytes]) -> None:
    folder = write(tmp_path / "Some-Model", release)
    write_sums(folder)
    assert fetched(tmp_path) == folder
    data = bytearray(release["tokenizer.model"])
    data[100] ^= 1
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(BqError, match=r"tokenizer\.model is not what the hash beside it names"):
        fetched(tmp_path)


def test_sums_of_nonsense_are_no_hashes(tmp_path: Path, release: dict[str, bytes]) -> None:
    folder = write(tmp_path / "Some-Model", release)
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe zz  config.json\n" + b"0" * 63 + b"  config.json\n\n")
    assert fetched(tmp_path) == folder


def test_a_cut_shard_is_told_by_the_index(tmp_path: Path, release: dict[str, bytes]) -> None:
    folder = write(tmp_path / "Some-Model", release)
    (folder / SHARD).write_bytes(release[SHARD][:-1000])
    with pytest.raises(BqError, match="a file is cut or missing"):
        fetched(tmp_path)


def test_a_lacking_shard_is_named(tmp_path: Path, release: dict[str, bytes]) -> None:
    folder = write(tmp_path / "Some-Model", release)
    (folder / SHARD).unlink()
    with pytest.raises(BqError, match=f"lacks {SHARD}"):
        fetched(tmp_path)


def test_an_empty_stick_says_where_it_was_looked(tmp_path: Path) -> None:
    with pytest.raises(BqError, match="OWNER/NAME or NAME below it"):
        fetched(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(BqError, match="plug the stick in"):
        fetched(tmp_path)


@pytest.mark.parametrize("name", ["../Some-Model", "/Some-Model", "a/../../Some-Model"])
def test_a_name_does_not_lead_out_of_the_folder(tmp_path: Path, release: dict[str, bytes], name: str) -> None:
    write(tmp_path / "Some-Model", release)
    (tmp_path / "stick" / "a").mkdir(parents=True)
    with pytest.raises(BqError, match="holds no"):
        fetched(tmp_path / "stick", name=name)
