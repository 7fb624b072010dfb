"""What a folder's files have to hold is known of a cache and of bq's own downloads, and `bq convert` and `bq pull` keep to it."""

import hashlib
import os
from pathlib import Path

import pytest

from bq.library.home import models_folder
from bq.library.known_hashes import known_hashes
from bq.library.registry import entries
from bq.library.sources.hashes import remember
from bq.library.sources.source import RemoteFile
from bq.runtime.errors import BqError

from .conftest import Pull, invoke

NAME = "baichuan2-7b-chat"
SHARD = "pytorch_model-00002-of-00003.bin"
SHA1 = "ce013625030ba8dba906f756967f9e9ca394464a"  # `printf 'hello\n' | git hash-object --stdin`


def flip(path: Path) -> None:
    """One bit, in the middle, as a bad disk does it: size and time stay."""
    real, was = Path(os.path.realpath(path)), path.stat()
    with real.open("r+b") as file:
        file.seek(was.st_size // 2)
        byte = file.read(1)
        file.seek(was.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(real, ns=(was.st_atime_ns, was.st_mtime_ns))


def test_a_cache_names_them_and_what_bq_fetched_is_remembered(tmp_path: Path, own_home: Path) -> None:
    for name in ("blobs", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / SHA1).write_bytes(b"hello\n")
    (tmp_path / "blobs" / "other").write_bytes(b"hello\n")
    os.symlink(tmp_path / "blobs" / SHA1, tmp_path / "there" / "config.json")
    os.symlink(tmp_path / "blobs" / "other", tmp_path / "there" / "tokenizer.model")
    weights = tmp_path / "there" / "model.safetensors"
    weights.write_bytes(b"weights")
    (config,) = known_hashes(tmp_path / "there", [weights])
    assert (config.path.name, config.size, config.digest) == ("config.json", 6, SHA1)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    remember(weights, RemoteFile("model.safetensors", 7, sha256=sha256))
    assert [one.digest for one in known_hashes(tmp_path / "there", [weights])] == [SHA1, sha256]
    weights.write_bytes(b"Weights")  # by its owner, later
    os.utime(weights, ns=(1, 1))
    assert [one.digest for one in known_hashes(tmp_path / "there", [weights])] == [SHA1]


def test_a_bit_lost_after_the_download_is_found_and_the_next_call_mends_it(pull: Pull, tmp_path: Path) -> None:
    pull(NAME, "-q", "Q8_0", "--yes")
    (entry,) = entries()
    assert entry.checkpoint is not None
    right = entry.path.read_bytes()
    entry.path.unlink()
    flip(entry.checkpoint / SHARD)
    with pytest.raises(BqError, match="Nothing was written"):
        invoke("convert", entry.checkpoint, "-q", "Q8_0", "-o", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out.gguf*"))
    with pytest.raises(BqError, match=f"{SHARD} is not what was downloaded.*Call it again"):
        pull(NAME, "-q", "Q8_0", "--yes")
    assert [*models_folder().iterdir()] == []
    pull(NAME, "-q", "Q8_0", "--yes")
    assert entry.path.read_bytes() == right
