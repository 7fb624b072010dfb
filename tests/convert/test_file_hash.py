"""A conversion reads the bytes that its source lists, or writes nothing: the hashes are hashlib's, and git's own."""

import hashlib
from pathlib import Path

import pytest

from bq.convert import convert as conversions
from bq.convert.convert import Converted, convert, prepare
from bq.convert.file_hash import ChangedFile, FileHash, checked_meanwhile, digest_of
from bq.runtime.errors import BqError
from tests.support.families import Shape, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hashed") / "Baichuan2-7B-Chat"
    write_checkpoint(folder, Shape("b2-7b", hidden=32, heads=2, ffn=32, form="bin-shards"))
    return folder


def hashes_of(folder: Path) -> list[FileHash]:
    files = sorted(path for path in folder.iterdir())
    return [FileHash(path, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]


def write(checkpoint: Path, out: Path, hashes: list[FileHash]) -> Converted:
    return convert(prepare(checkpoint, "Q8_0"), out, threads=2, hashes=hashes)


def test_git_gives_the_hash_of_a_blob(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": 1}\n' * 700_000)  # more than is read at once
    told_by_git = "a5d434aada709dfe6f576c351832f320df3049f4"  # `git hash-object` of it
    assert digest_of(path, path.stat().st_size, 40) == told_by_git


def test_what_is_as_it_was_gives_the_same_file_as_without_looking(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, tmp_path / "looked.gguf", hashes_of(checkpoint))
    write(checkpoint, tmp_path / "not.gguf", [])
    assert (tmp_path / "looked.gguf").read_bytes() == (tmp_path / "not.gguf").read_bytes()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "pytorch_model-00003-of-00003.bin"])
@pytest.mark.parametrize("what", ["other bytes", "other size", "another kind of hash"])
def test_one_changed_file_and_nothing_is_written(checkpoint: Path, tmp_path: Path, name: str, what: str) -> None:
    hashes = hashes_of(checkpoint)
    place, right = next((i, one) for i, one in enumerate(hashes) if one.path.name == name)
    hashes[place] = {
        "other bytes": FileHash(right.path, right.size, "0" * 64),
        "other size": FileHash(right.path, right.size + 1, right.digest),
        "another kind of hash": FileHash(right.path, right.size, right.digest[:40]),
    }[what]
    with pytest.raises(ChangedFile, match=f"{name} is not what was downloaded") as told:
        write(checkpoint, tmp_path / "out.gguf", hashes)
    assert told.value.path == right.path
    assert [*tmp_path.iterdir()] == []


def test_a_byte_that_changes_while_the_weights_are_written_is_found(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last shard is hashed last; what is read first has changed before."""
    hashes = hashes_of(checkpoint)
    shard = max(hashes, key=lambda one: one.size)
    data = shard.path.read_bytes()
    original = conversions.checked_meanwhile

    def damaged(files: list[FileHash]) -> object:
        with shard.path.open("r+b") as file:
            file.seek(shard.size - 100)
            file.write(bytes(byte ^ 1 for byte in data[-100:-99]))
        return original(files)

    monkeypatch.setattr(conversions, "checked_meanwhile", damaged)
    try:
        with pytest.raises(ChangedFile, match=shard.path.name):
            write(checkpoint, tmp_path / "out.gguf", hashes)
    finally:
        shard.path.write_bytes(data)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(BqError, match=r"gone\.bin cannot be read"),
        checked_meanwhile([FileHash(tmp_path / "gone.bin", 1, "0" * 64)]) as look,
    ):
        look()


def test_nobody_waits_for_the_hashes_of_a_conversion_that_failed(tmp_path: Path) -> None:
    """A sparse file of four terabytes would be read for an hour."""
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(KeyboardInterrupt), checked_meanwhile([FileHash(path, 1 << 42, "0" * 64)]):
        raise KeyboardInterrupt
