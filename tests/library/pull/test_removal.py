"""What is removed is what was asked for, with all that was left of it, and what stays is known as it is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from bq.library.entry import Entry, Origin
from bq.library.home import home
from bq.library.model_licences import licences_of_model
from bq.library.registry import entries, register
from bq.library.removal import plan_removal, remove, remove_checkpoint
from bq.library.sources.hub import Hub
from bq.library.sources.modelscope import ModelScope
from bq.library.sources.source import Source, Watcher
from bq.runtime import language
from bq.runtime.errors import BqError, UsageError
from bq.tui.cli import cli
from tests.support.hub_repositories import a_release
from tests.support.hub_server import HubServer

ONE, OTHER = "some/Model", "another/Mirror"
LICENCE = b"text of the licence\n"
Downloaded = Callable[..., Entry]


@pytest.fixture
def downloaded(hub: HubServer, tmp_path: Path, contents: tuple[bytes, ...]) -> Downloaded:
    """A model of the library whose checkpoint was downloaded from a repository."""

    def make(repository: str, source: Source, number: int = 0, where: Path = tmp_path) -> Entry:
        if repository not in hub.repositories:
            hub.publish(repository, a_release(shard_bytes=10_000))
        listing = source.listing(repository)
        folder = source.fetch(listing, listing.files, Watcher())
        path = where / f"{repository.split('/')[0]}-{number}.gguf"
        path.write_bytes(contents[number])
        origin = Origin(source.name, repository, listing.revision, None, listing.commit)
        return register(path, origin=origin, checkpoint=folder)

    return make


@pytest.mark.parametrize("repository", [ONE, OTHER])
def test_of_two_repositories_with_one_commit_only_the_one_asked_for_goes(
    downloaded: Downloaded, repository: str
) -> None:
    """As `git push` to a mirror makes them."""
    both = {name: downloaded(name, Hub(), number) for number, name in enumerate((ONE, OTHER))}
    folders = {name: one.checkpoint for name, one in both.items() if one.checkpoint is not None}
    assert len({folder.name for folder in folders.values()}) == 1, "the same commit"
    remove(plan_removal(both[repository], checkpoint=True))
    kept = OTHER if repository == ONE else ONE
    assert [name for name, folder in folders.items() if folder.exists()] == [kept]
    assert (folders[kept] / "config.json").read_bytes() == a_release()["config.json"]
    assert [one.checkpoint for one in entries()] == [folders[kept]]


def test_a_checkpoint_that_does_not_go_leaves_the_model(
    downloaded: Downloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bq.library import downloads

    entry = downloaded(ONE, Hub())
    monkeypatch.setattr(downloads, "_remove_snapshot", lambda folder: None)
    with pytest.raises(BqError, match="could not be removed"):
        remove(plan_removal(entry, delete_file=True, checkpoint=True))
    (left,) = entries()
    assert (left.is_missing, left.checkpoint) == (False, entry.checkpoint)


def test_a_file_that_does_not_go_stays_in_the_library(downloaded: Downloaded, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = downloaded(ONE, Hub())

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **_: refuse(path) if path == entry.path else os.unlink(path))
        with pytest.raises(PermissionError):
            remove(plan_removal(entry, delete_file=True, checkpoint=True))
    (left,) = entries()
    assert (left.is_missing, left.checkpoint) == (False, None)


def test_nothing_of_a_download_from_modelscope_is_left(downloaded: Downloaded, hub: HubServer) -> None:
    first = downloaded(ONE, ModelScope())
    second = downloaded("some/Other", ModelScope(), 1)
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    folder = home() / "downloads" / "modelscope" / "some"
    assert len([*(folder / "Model" / ".locks").iterdir()]) > 8
    newer = hub.publish(ONE, {**a_release(shard_bytes=10_000), "README.md": b"changed"})
    kept = downloaded(ONE, ModelScope(), 2)
    remove_checkpoint(first.checkpoint)
    left = [path.name for path in (folder / "Model").rglob("*") if path.suffix in (".json", ".lock")]
    assert f"{newer}-LICENSE.lock" in left, "another commit's stay"
    assert "master.listing.json" in left, "it means the newer one"
    assert not [name for name in left if name.startswith(first.checkpoint.name)]
    assert kept.checkpoint is not None
    remove_checkpoint(kept.checkpoint)
    assert [path.name for path in folder.iterdir()] == ["Other"]
    remove_checkpoint(second.checkpoint)
    assert [*(home() / "downloads" / "modelscope").iterdir()] == []


@pytest.mark.parametrize("source", [Hub(), ModelScope()], ids=["hf", "modelscope"])
def test_licence_texts_outlive_their_download_and_follow_the_model(
    downloaded: Downloaded, source: Source, tmp_path: Path
) -> None:
    entry, other = downloaded(ONE, source), downloaded(ONE, source, 1)
    assert entry.checkpoint is not None
    remove(plan_removal(other, delete_file=True))
    assert not (home() / "licences").exists(), "the checkpoint has them"
    remove_checkpoint(entry.checkpoint)
    assert not entry.checkpoint.exists()
    moved = entry.path.rename(tmp_path / "moved.gguf")
    (text,) = licences_of_model(moved)
    assert (text.name, text.read_bytes()) == ("LICENSE", LICENCE)
    assert [*(home() / "licences").iterdir()] == [text.parent]
    remove(plan_removal(register(moved), delete_file=True))
    assert [*(home() / "licences").iterdir()] == []


def test_a_file_that_stays_keeps_its_licence_when_it_is_forgotten(downloaded: Downloaded) -> None:
    entry = downloaded(ONE, Hub())
    remove(plan_removal(entry, checkpoint=True))
    assert entries() == []
    assert [path.read_bytes() for path in licences_of_model(entry.path)] == [LICENCE]


def test_what_others_share_is_said_before_the_question(downloaded: Downloaded) -> None:
    one, other = downloaded(ONE, Hub()), downloaded(ONE, Hub(), 1)
    for lang, cache, made in (
        ("en", "in the Hugging Face cache", "was made, too"),
        ("zh", "Hugging Face 缓存中", "也由它生成"),
    ):
        language.set_language(lang)  # type: ignore[arg-type]
        said = CliRunner().invoke(cli, ["rm", one.name, "--checkpoint"])
        assert isinstance(said.exception, UsageError), "no terminal"
        assert cache in said.stderr
        assert f"{other.name} {made}" in said.stderr
    language.set_language("en")
    assert one.checkpoint is not None
    inside = one.checkpoint / "x.gguf"
    inside.write_bytes(one.path.read_bytes() + b"\0")
    ready = register(inside, origin=one.source, checkpoint=one.checkpoint)
    assert "in the Hugging Face cache" in CliRunner().invoke(cli, ["rm", ready.name]).stderr
    assert "in the Hugging Face cache" not in CliRunner().invoke(cli, ["rm", one.name]).stderr, "its file is the user's"
