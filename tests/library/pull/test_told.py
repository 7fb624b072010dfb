"""What a pull tells before its question is all there is, and nobody else's words stand in it as bq's own."""

import os
from pathlib import Path

import pytest

from bq.library.entry import Entry
from bq.library.registry import entries
from bq.runtime import language
from bq.runtime.errors import BqError, UsageError
from tests.support.hub_server import HubServer
from tests.support.m1 import Shape, write_m1

from .conftest import REPOSITORY, Pull, invoke

NAME = "baichuan2-7b-chat"
READY = "someone/One-GGUF"
M1 = "baichuan-m1-14b-base"
M1_REPOSITORY = "baichuan-inc/Baichuan-M1-14B-Base"


def only() -> Entry:
    (entry,) = entries()
    return entry


@pytest.fixture
def ready(hub: HubServer, contents: tuple[bytes, ...]) -> None:
    hub.publish(READY, {"x.Q8_0.gguf": contents[0]})


def test_a_separator_at_the_end_means_a_folder_which_is_made(pull: Pull, ready: None, tmp_path: Path) -> None:
    wanted = tmp_path / "deep" / "models"
    done = pull(READY, "--yes", "-o", f"{wanted}{os.sep}")
    assert only().path == wanted / "x.Q8_0.gguf"
    assert ["result", str(wanted / "x.Q8_0.gguf")] in [line.split() for line in done.stderr.splitlines()], "in the plan"
    assert only().checkpoint is not None
    pull(NAME, "-q", "Q8_0", "--yes", "-o", f"{wanted}{os.sep}")
    assert {path.name for path in wanted.iterdir()} == {"x.Q8_0.gguf", "Baichuan2-7B-Chat-Q8_0.gguf"}


def test_a_name_that_may_be_a_folder_or_a_file_is_asked_back(pull: Pull, ready: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"Write {tmp_path / 'new'}. for a folder, or {tmp_path / 'new'}\.gguf"):
        pull(READY, "--yes", "-o", tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        pull(READY, "--yes", "-o", f"{tmp_path / 'file'}{os.sep}")
    pull(READY, "--yes", "-o", tmp_path / "new.GGUF", "--delete-checkpoint")
    assert (only().path, only().checkpoint) == (tmp_path / "new.GGUF", None), "its download is not needed any more"


@pytest.mark.parametrize("source", ["hf", "modelscope"])
def test_a_licence_cannot_add_lines_to_the_plan(pull: Pull, hub: HubServer, ready: None, source: str) -> None:
    hub.repositories[READY].licence = "red\nFAKE LINE 1\r\nfree  9 TB\u2028FAKE\x1b[2J\u202ezw" + "x" * 9000
    said = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bq.tui.pull_plan.has_terminal", lambda: True)
        said = pull(READY, "--from", source).stderr  # the runner's stdin is empty: asked, nothing said
    lines = said.splitlines()
    (line,) = [line for line in lines if "FAKE" in line]
    assert line.split()[0] == "licence"
    assert len(line) < 400
    assert not {"\x1b", "\u202e", "\u2028"} & set(said)
    assert len([line for line in lines if line.split()[:1] == ["free"]]) == 1


def test_a_broken_file_of_the_right_hash_is_not_to_be_downloaded_again(
    pull: Pull, hub: HubServer, contents: tuple[bytes, ...]
) -> None:
    hub.publish(READY, {"x.Q8_0.gguf": contents[0][:-5000]})
    files = {
        path: blob.data
        for path, blob in hub.repositories[REPOSITORY].commits[hub.repositories[REPOSITORY].branches["main"]].items()
    }
    shard = "pytorch_model-00002-of-00003.bin"
    hub.publish(REPOSITORY, {**files, shard: files[shard][: len(files[shard]) // 2]})
    for arguments in ((READY,), (NAME, "-q", "Q8_0")):
        with pytest.raises(BqError) as caught:
            pull(*arguments, "--yes")
        assert "very bytes that" in str(caught.value)
        assert "--revision" in str(caught.value)
        assert "ownload it again" not in str(caught.value)
    language.set_language("zh")
    with pytest.raises(BqError, match="重新下载无济于事"):
        pull(READY, "--yes")


def test_m1_is_converted_and_what_it_lacks_is_said_before_and_after(pull: Pull, hub: HubServer, tmp_path: Path) -> None:
    write_m1(tmp_path / "m1", Shape())
    hub.publish(M1_REPOSITORY, tmp_path / "m1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bq.tui.pull_plan.has_terminal", lambda: True)
        assert "no graph that computes it" in pull(M1).stderr
    done = pull(M1, "-q", "Q8_0", "--yes")
    assert done.stdout == f"{M1}:Q8_0\n"
    assert "47 of 47 tensors are bit for bit" in done.stderr
    assert "which llama.cpp cannot compute" in done.stderr
    assert "Try it" not in done.stderr
    listed = invoke("list").stdout
    assert "Broken" not in listed
    assert f"Cannot run here:\n  {M1}:Q8_0: " in listed
    assert "Cannot run here:" in invoke("list", only().path.parent).stdout
    language.set_language("zh")
    assert "无法在此运行：" in invoke("list").stdout
