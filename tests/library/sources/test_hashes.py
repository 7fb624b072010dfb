"""A file is told right or wrong by hashes that git and sha256sum give, and the memory of it never outlives a change."""

import os
from pathlib import Path

import pytest

from bq.library.sources.hashes import holds, is_remembered, is_right
from bq.library.sources.source import RemoteFile, Watcher

# `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`; the same for nothing at all.
HELLO = RemoteFile("a", 6, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a")
HELLO_LFS = RemoteFile("a", 6, sha256="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
NOTHING = RemoteFile("a", 0, git_sha1="e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
NOTHING_LFS = RemoteFile("a", 0, sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.mark.parametrize("file", [HELLO, HELLO_LFS])
def test_git_and_sha256sum_agree(tmp_path: Path, file: RemoteFile) -> None:
    (tmp_path / "a").write_bytes(b"hello\n")
    assert holds(tmp_path / "a", file, Watcher())
    (tmp_path / "a").write_bytes(b"hellO\n")
    assert not holds(tmp_path / "a", file, Watcher())


@pytest.mark.parametrize("file", [NOTHING, NOTHING_LFS])
def test_an_empty_file_has_its_hash_too(tmp_path: Path, file: RemoteFile) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert holds(tmp_path / "a", file, Watcher())


def test_without_a_hash_the_size_has_to_do(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello\n")
    assert holds(tmp_path / "a", RemoteFile("a", 6), Watcher())
    assert not holds(tmp_path / "a", RemoteFile("a", 7), Watcher())
    assert not holds(tmp_path, RemoteFile("a", tmp_path.stat().st_size), Watcher())
    assert not holds(tmp_path / "none", RemoteFile("a", 6), Watcher())


def test_what_was_right_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    path, read = tmp_path / "a", []
    path.write_bytes(b"hello\n")
    watcher = Watcher(checked=lambda *of: read.append(of))
    assert is_right(path, HELLO, watcher)
    assert is_right(path, HELLO, watcher)
    assert read == [("a", 6, 6)]
    assert not is_remembered(path, HELLO_LFS), "another hash is another question"
    os.utime(path, ns=(1, 1))
    assert is_right(path, HELLO, watcher)
    assert len(read) == 2
    path.write_bytes(b"hellO\n")
    assert not is_right(path, HELLO, watcher)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"x": 1}', b" " * (9 << 20)],
    ids=["empty", "list", "cut", "no text", "deep", "other", "large"],
)
def test_a_broken_memory_costs_a_second_reading(tmp_path: Path, own_home: Path, data: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hello\n")
    (own_home / "checked.json").write_bytes(data)
    assert is_right(path, HELLO, Watcher())
    assert is_remembered(path, HELLO)
