"""`bq pull --update`: a branch that moved is noticed when it is asked for, and the old file stays until the new one is verified."""

import pytest

from bq.library.entry import Entry
from bq.library.home import models_folder
from bq.library.registry import entries
from bq.library.removal import plan_removal, remove
from bq.runtime import language
from bq.runtime.errors import BqError, UsageError
from tests.support.hub_server import Fault, HubServer

from .conftest import REPOSITORY, Pull

NAME = "baichuan2-7b-chat"
OUT = "Baichuan2-7B-Chat-Q8_0.gguf"
READY = "someone/One-GGUF"


def only() -> Entry:
    (entry,) = entries()
    return entry


def files_of(hub: HubServer) -> dict[str, bytes]:
    repository = hub.repositories[REPOSITORY]
    return {path: blob.data for path, blob in repository.commits[repository.branches["main"]].items()}


def with_other_weights(hub: HubServer) -> str:
    """A new commit on main: one bit of a norm is another."""
    files = files_of(hub)
    shard = bytearray(files["pytorch_model-00003-of-00003.bin"])
    place = shard.rindex(b"\x80\x3f")  # 1.0 as bf16
    shard[place] ^= 1
    return hub.publish(REPOSITORY, {**files, "pytorch_model-00003-of-00003.bin": bytes(shard)})


def test_a_branch_that_moved_is_named_asked_for_and_replaces_the_old_file(pull: Pull, hub: HubServer) -> None:
    said = pull(NAME, "-q", "Q8_0", "--yes").stderr
    old, bytes_before = only(), (models_folder() / OUT).read_bytes()
    again = pull(NAME, "--update", "-q", "Q8_0")
    assert "is the newest commit" in again.stderr
    assert again.stdout == f"{NAME}:Q8_0\n"
    commit = with_other_weights(hub)
    said = pull(NAME, "-q", "Q8_0").stderr
    assert "It is here already" in said
    assert f"bq pull {NAME} --update" in said
    with pytest.raises(UsageError, match="Add --yes"):
        pull(NAME, "--update")
    hub.fault("pytorch_model-00003-of-00003.bin", Fault(times=99, wrong=True))
    with pytest.raises(BqError, match="other bytes than its hash"):
        pull(NAME, "--update", "--yes")
    assert (only(), (models_folder() / OUT).read_bytes()) == (old, bytes_before), "the old one stays"
    hub._faults.clear()
    done = pull(NAME, "--update", "--yes")
    for text in (f"commit {commit[:8]}", "replaces ", f"{NAME}:Q8_0 of commit", "earlier commit stays"):
        assert text in done.stderr
    new = only()
    assert done.stdout == f"{NAME}:Q8_0\n"
    assert (new.name, new.path, new.source and new.source.commit) == (old.name, old.path, commit)
    assert new.path.read_bytes() != bytes_before
    assert [path.name for path in models_folder().iterdir()] == [OUT]
    language.set_language("zh")
    assert "就是最新的提交" in pull(NAME, "--update").stderr
    remove(plan_removal(new, checkpoint=True))
    assert old.checkpoint is not None
    assert old.checkpoint.is_dir()


def test_what_the_user_changed_is_not_replaced(pull: Pull, hub: HubServer) -> None:
    pull(NAME, "-q", "Q8_0", "--yes")
    with_other_weights(hub)
    (models_folder() / OUT).write_bytes(b"my own")
    with pytest.raises(UsageError, match="was changed since it was pulled"):
        pull(NAME, "--update", "--yes")
    assert (models_folder() / OUT).read_bytes() == b"my own"


@pytest.mark.parametrize("place", ["download", "elsewhere"])
def test_a_ready_file_is_replaced_where_it_is(
    pull: Pull, hub: HubServer, contents: tuple[bytes, ...], place: str
) -> None:
    first, second = contents[0], contents[0] + b"\0"
    hub.publish(READY, {"x.Q8_0.gguf": first})
    elsewhere = ["-o", f"{models_folder()}/"] if place == "elsewhere" else []
    pull(READY, "--yes", "--no-repair", *elsewhere)
    old = only()
    hub.publish(READY, {"x.Q8_0.gguf": second})
    done = pull(READY, "--update", "--yes", "--no-repair", "--delete-checkpoint")
    new = only()
    assert done.stdout == f"{old.name}\n"
    assert new.path.read_bytes() == second
    assert new.path == (old.path if elsewhere else new.checkpoint and new.checkpoint / "x.Q8_0.gguf")
    assert old.checkpoint is not None
    assert not old.checkpoint.exists(), "it was asked to go"
    if elsewhere:
        assert [path.name for path in models_folder().iterdir()] == ["x.Q8_0.gguf"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--offline"], "--update asks the source, and bq is offline"),
        (["-o", "x.gguf"], "-o names another place"),
        (["--from", "modelscope"], r"came from hf, revision main\. Give the same --from"),
    ],
)
def test_what_it_cannot_be_combined_with(
    pull: Pull, contents: tuple[bytes, ...], hub: HubServer, arguments: list[str], expected: str
) -> None:
    hub.publish(READY, {"x.Q8_0.gguf": contents[0]})
    pull(READY, "--yes", "--no-repair", "-q", "Q8_0")
    with pytest.raises(UsageError, match=expected):
        pull(READY, "-q", "Q8_0", "--update", *arguments)
