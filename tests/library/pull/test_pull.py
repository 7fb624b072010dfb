"""`bq pull`: from a name to a verified model in the library, from a real server, whatever goes wrong on the way."""

import os
from pathlib import Path

import pytest

from bq.library import wanted
from bq.library.home import home, models_folder
from bq.library.pull import plan_pull
from bq.library.registry import entries, find
from bq.library.sources.hub import Hub
from bq.library.wanted import Size, named_release, result_size
from bq.runtime import language
from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import read_gguf
from bq.runtime.known import describe_file
from bq.tui import pulling
from bq.tui.pull_plan import size_phrase, tell_plan
from tests.support.hub_server import Fault, HubServer

from .conftest import REPOSITORY, Done, Pull, Start, invoke

NAME = "baichuan2-7b-chat"
OUT = "Baichuan2-7B-Chat-Q8_0.gguf"
SHARD = "pytorch_model-00002-of-00003.bin"


def only_the_model() -> None:
    """Nothing half stays, and nothing locked."""
    assert [path.name for path in models_folder().iterdir()] == [OUT]


def test_a_release_is_fetched_converted_verified_and_named(done: Done, checkpoint: Path) -> None:
    said = done.result.stderr
    assert (done.result.exit_code, done.result.stdout) == (0, f"{NAME}:Q8_0\n")
    commit = done.hub.repositories[REPOSITORY].resolve("main")
    for text in (REPOSITORY, f"commit {str(commit)[:8]}", "from hf", "in 10 files", "Q8_0: ", "free ", "licence "):
        assert text in said
    assert "memory" not in said
    assert "commercial use needs the approval of Baichuan" in said
    assert f"https://huggingface.co/{REPOSITORY}" in said
    assert "291 of 291 tensors are bit for bit what this checkpoint gives." in said
    assert f"Try it: bq chat {NAME}:Q8_0" in said
    entry = find(NAME)
    assert entry is not None
    assert (entry.path, entry.mixture, entry.variant) == (models_folder() / OUT, "Q8_0", "chat")
    assert entry.source is not None
    assert (entry.source.source, entry.source.repository, entry.source.commit) == ("hf", REPOSITORY, commit)
    assert entry.checkpoint is not None
    assert (entry.checkpoint / SHARD).read_bytes() == (checkpoint / SHARD).read_bytes()
    only_the_model()


def test_what_is_here_is_not_pulled_again_and_nothing_is_asked_for(done: Done) -> None:
    dropped: list[Path] = []
    made, asked = (models_folder() / OUT).stat().st_mtime_ns, len(done.hub.requests)
    for again in ((f"{NAME}:Q8_0",), (NAME, "--quant", "q8_0"), (f"{REPOSITORY}:Q8_0",)):
        result = invoke("pull", *again)
        assert (result.exit_code, result.stdout) == (0, f"{NAME}:Q8_0\n")
        assert "It is here already" in result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulling, "drop_checkpoint", lambda entry, folder: dropped.append(folder))
        invoke("pull", NAME, "-q", "Q8_0", "--delete-checkpoint")
    assert dropped == [entries()[0].checkpoint], "what was asked for then"
    assert (len(done.hub.requests), (models_folder() / OUT).stat().st_mtime_ns) == (asked, made)


def test_without_a_terminal_and_without_yes_nothing_is_fetched(pull: Pull, hub: HubServer) -> None:
    with pytest.raises(UsageError, match=r"no terminal to ask on\. Add --yes"):
        pull(NAME)
    assert {one.path.split("/")[1] for one in hub.requests} == {"api"}
    assert entries() == []


@pytest.mark.parametrize("source", ["modelscope", "folder"])
def test_other_sources_give_the_same_file(pull: Pull, checkpoint: Path, source: str) -> None:
    given = checkpoint.parent if source == "folder" else source
    said = pull(NAME, "-q", "Q8_0", "--yes", "--delete-checkpoint", "--from", given).stderr
    (entry,) = entries()
    assert (entry.source and entry.source.source, entry.name) == (source, f"{NAME}:Q8_0")
    only_the_model()
    assert ("Removed the checkpoint", "is not bq's")[source == "folder"] in said, "a user's own stays"
    assert not list((home() / "downloads").rglob("*.bin"))
    assert (checkpoint / SHARD).is_file()


def test_another_place_in_chinese_and_the_checkpoint_goes_on_request(pull: Pull, tmp_path: Path) -> None:
    language.set_language("zh")
    said = pull(NAME, "-q", "Q8_0", "--yes", "--delete-checkpoint", "-o", tmp_path / "mine.gguf").stderr
    assert [(one.path, one.checkpoint) for one in entries()] == [(tmp_path / "mine.gguf", None)]
    for text in ("下载", "许可", "最多", "正在与检查点核对", "291 个张量中有 291 个", f"试用：bq chat {NAME}:Q8_0"):
        assert text in said
    assert "已删除检查点" in said
    assert not [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    with pytest.raises(UsageError, match="没有文件夹"):
        pull(NAME, "--yes", "-o", tmp_path / "none" / "x.gguf")


def test_a_file_of_that_name_that_is_something_else_stays(pull: Pull, demo_gguf: Path) -> None:
    models_folder().mkdir()
    (models_folder() / OUT).write_bytes(demo_gguf.read_bytes())
    with pytest.raises(UsageError, match=r"is not what this checkpoint gives: .*Move it away"):
        pull(NAME, "-q", "Q8_0", "--yes")
    assert (models_folder() / OUT).read_bytes() == demo_gguf.read_bytes()


def test_another_commit_is_another_model(done: Done, checkpoint: Path) -> None:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    commit = done.hub.publish(REPOSITORY, {**files, "README.md": b"changed"}, "other")
    result = invoke("pull", NAME, "-q", "Q8_0", "--yes", "--revision", commit)
    second = find(result.stdout.strip())
    assert second is not None
    assert (second.name, second.source and second.source.commit) == (f"{NAME}:Q8_0-2", commit)
    assert second.path == models_folder() / f"Baichuan2-7B-Chat-{commit[:8]}-Q8_0.gguf"
    assert f"{NAME}:Q8_0" in [one.name for one in entries()], "the first one stays"
    assert invoke("rm", second.name, "--yes").exit_code == 0
    only_the_model()


def test_a_file_that_is_not_what_its_hash_says_is_refused(pull: Pull, hub: HubServer) -> None:
    hub.fault(SHARD, Fault(times=99, wrong=True))
    with pytest.raises(BqError, match=r"other bytes than its hash"):
        pull(NAME, "-q", "Q8_0", "--yes")
    assert entries() == []


def test_offline_means_offline(pull: Pull, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BqError, match="bq is offline"):
        pull(NAME, "--offline", "--yes")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BqError, match="bq is offline"):
        pull(NAME, "--yes")
    assert hub.requests == []


def test_offline_what_was_fetched_is_converted(done: Done, tmp_path: Path) -> None:
    asked = len(done.hub.requests)
    result = invoke("pull", NAME, "-q", "F16", "--offline", "--yes", "-o", tmp_path / "x.gguf")
    assert result.stdout == f"{NAME}:F16\n"
    assert len(done.hub.requests) == asked


def test_a_hub_that_is_not_there_is_one_line_with_what_to_do(
    pull: Pull, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bq.library.sources import patience

    monkeypatch.setattr(patience.Patience, "seconds", lambda *_: 0.0)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BqError, match=r"HF_ENDPOINT.*modelscope|modelscope.*HF_ENDPOINT"):
        pull(NAME, "--yes")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["baichuan2-7b-chatt"], r"no release baichuan2-7b-chatt\. Did you mean baichuan2-7b-chat\?"),
        (["wizard"], "`bq models` lists them"),
        (["baichuan2-7b-chat-4bits"], "does not hold the original weights"),
        (["baichuan2-7b-chat", "-q", "Q9"], "no mixture Q9"),
        (["baichuan2-7b-chat", "-q", "IQ2_XS"], "needs an importance matrix"),
        (["baichuan2-7b-chat:Q8_0", "-q", "Q4_0"], "two mixtures"),
        (["a/b/c"], "is not a repository"),
        (["baichuan2-7b-chat", "--from", "nowhere"], "no source of models"),
        (["some/thing"], "no repository some/thing"),
        (["baichuan2-7b-chat", "--revision", "v9"], "no revision v9"),
    ],
)
def test_a_wrong_use_is_told_before_anything_is_fetched(
    pull: Pull, hub: HubServer, arguments: list[str], expected: str
) -> None:
    with pytest.raises(BqError, match=expected):
        pull(*arguments, "--yes")
    assert not hub.asked(SHARD)


def test_what_does_not_fit_the_memory_is_told_before_the_question(
    pull: Pull, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wanted, "machine_bytes", lambda: 2 << 30)
    plan = plan_pull(wanted.wanted(NAME), Hub())
    assert plan.mixture == "Q2_K", "the smallest, where none fits"
    tell_plan(plan)
    assert "memory " in (said := capsys.readouterr().err)
    assert "this machine has 2.1 GB: very slow here" in said


def test_the_size_of_a_result_is_as_sure_as_what_is_known() -> None:
    release = named_release(NAME)
    assert release is not None
    assert release.layout is not None
    bf16 = 2 * release.layout.weights
    assert result_size(release, "Q4_K_M", bf16) == Size(release.layout.sizes["Q4_K_M"])
    assert size_phrase(result_size(None, "Q4_K_M", bf16)) == "about 4.6 GB"
    assert size_phrase(result_size(None, "Q4_K_M", 16 << 20)) == "at most 33.6 MB"


def test_a_disk_without_room_is_told_before_the_question(
    pull: Pull, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=100_000))
    with pytest.raises(BqError, match=r"kB free"):
        pull(NAME, "-q", "Q8_0", "--yes")
    assert not hub.asked(SHARD)


@pytest.mark.skipif(os.name == "nt", reason="needs a limit of file sizes")
def test_a_disk_that_fills_leaves_what_can_be_gone_on_with(start: Start, pull: Pull, hub: HubServer) -> None:
    full = start("pull", NAME, "-q", "Q8_0", "--yes", limit=100_000)  # no shard goes through
    assert full.wait() == 1
    assert full.err.splitlines()[-1].startswith("bq: The disk is full")
    full = start("pull", NAME, "-q", "F32", "--yes", limit=700_000)  # the shards do, the file does not
    assert full.wait() == 1
    assert "Nothing was left behind" in full.err.splitlines()[-1]
    assert [path.name for path in models_folder().iterdir()] == []
    assert pull(NAME, "-q", "Q8_0", "--yes").exit_code == 0
    assert describe_file(read_gguf(models_folder() / OUT)).mixture == "Q8_0"
