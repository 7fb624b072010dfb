"""What is published arrives byte for byte in one commit, nothing before it was agreed to, and every refusal is one clear line."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bq.library.card.facts import read_facts
from bq.library.licence import licence_files
from bq.library.publish import Plan, look_up, make_plan, send
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.figures import Figures, store_figures
from bq.tui.cli import cli
from tests.support.hub_uploads import TOKEN, Fault, HubUploads, Repository, hub_uploads
from tests.support.qwen_gguf import write_qwen

TO = ("--to", "me/tiny-GGUF")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> Iterator[HubUploads]:
    """The server, and an environment that knows it and a token for it."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its attempts
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with hub_uploads() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_qwen(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, weights: bytes) -> Path:
    """A model with figures, and the licence texts that its release had."""
    (tmp_path / "tiny-F32.gguf").write_bytes(weights)
    store_figures(
        tmp_path / "tiny-F32.gguf", Figures(8.2, 0.05, 2550, 512, "bundled", "ab", against="F32", kl_mean=0.01)
    )
    (tmp_path / "LICENSE").write_text("the licence | of the release\n", encoding="utf-8")
    (tmp_path / "Community License.pdf").write_bytes(b"%PDF-1.4 \0\1\2")
    return tmp_path


def publish(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["publish", *map(str, arguments)], catch_exceptions=False)


def refusal(*arguments: object) -> str:
    """The one line of a refusal."""
    with pytest.raises(BqError) as caught:
        CliRunner().invoke(cli, ["publish", *map(str, arguments)], catch_exceptions=False, standalone_mode=False)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.remedy, text
    return text


def test_everything_arrives_byte_for_byte_in_one_commit(hub: HubUploads, folder: Path) -> None:
    done = publish(folder / "tiny-F32.gguf", *TO, "--yes")
    assert done.exit_code == 0, done.output
    found = hub.repositories["me/tiny-GGUF"]
    assert not found.private
    (commit,) = found.commits
    assert commit[1] == [
        "Community License.pdf",
        "LICENSE",
        "README.md",
        "tiny-F32.gguf",
        "tiny-F32.gguf.quality.json",
    ]
    for name, content in found.files.items():
        if name != "README.md":
            assert content == (folder / name).read_bytes(), name
    assert found.files["README.md"].startswith(b"---\n")
    assert done.stdout.strip() == f"{hub.address}/me/tiny-GGUF/commit/{1:040x}"


def test_a_dry_run_asks_and_sends_nothing(hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    done = publish(folder / "tiny-F32.gguf", *TO, "--dry-run", "--private")
    assert hub.requests == []
    for text in (f"To {hub.address}/me/tiny-GGUF (private)", "tiny-F32.gguf", "LICENSE", "README.md", "5 files"):
        assert text in done.stdout


def test_json_of_a_dry_run(hub: HubUploads, folder: Path) -> None:
    data = json.loads(publish(folder / "tiny-F32.gguf", *TO, "--dry-run", "--json", "--offline").stdout)
    assert (data["repository"], data["private"]) == ("me/tiny-GGUF", False)
    sizes = {one["name"]: one["size_bytes"] for one in data["files"]}
    assert sizes["tiny-F32.gguf"] == (folder / "tiny-F32.gguf").stat().st_size
    assert hub.requests == []


def test_nothing_is_sent_before_the_answer_is_yes(
    hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bq.tui.commands import publish as module

    monkeypatch.setattr(module, "_refuse_unasked", lambda yes: None)  # a CliRunner has no terminal
    arguments = ["publish", str(folder / "tiny-F32.gguf"), *TO]
    with pytest.raises(BqError, match="Nothing was sent"):
        CliRunner().invoke(cli, arguments, input="n\n", catch_exceptions=False, standalone_mode=False)
    assert [line.split()[0] for line in hub.requests] == ["GET"]
    assert not hub.repositories
    assert CliRunner().invoke(cli, arguments, input="y\n", catch_exceptions=False).exit_code == 0
    assert hub.repositories["me/tiny-GGUF"].files


def test_without_a_terminal_to_ask_in_it_is_a_wrong_use(hub: HubUploads, folder: Path) -> None:
    with pytest.raises(UsageError, match="--yes"):
        CliRunner().invoke(
            cli, ["publish", str(folder / "tiny-F32.gguf"), *TO], standalone_mode=False, catch_exceptions=False
        )
    assert hub.requests == []


def test_in_parts_it_is_the_same(hub: HubUploads, folder: Path) -> None:
    hub.part_bytes = 100_000
    publish(folder / "tiny-F32.gguf", *TO, "--yes", "--private")
    found = hub.repositories["me/tiny-GGUF"]
    assert found.private
    assert found.files["tiny-F32.gguf"] == (folder / "tiny-F32.gguf").read_bytes()
    assert any("lfs/part" in line for line in hub.requests)


def test_a_second_call_sends_only_what_is_missing(hub: HubUploads, folder: Path) -> None:
    hub.faults.append(Fault("/commit/", status=503))
    assert "Run the same command again" in refusal(folder / "tiny-F32.gguf", *TO, "--yes")
    sent = hub.received
    assert sent
    assert not hub.repositories["me/tiny-GGUF"].files
    publish(folder / "tiny-F32.gguf", *TO, "--yes")
    assert hub.received == sent, "the weights were there already"
    data = (folder / "tiny-F32.gguf").read_bytes()
    assert hub.repositories["me/tiny-GGUF"].files["tiny-F32.gguf"] == data
    assert hashlib.sha256(data).hexdigest() in hub.objects


def test_an_unchanged_repository_gets_no_second_commit(hub: HubUploads, folder: Path) -> None:
    publish(folder / "tiny-F32.gguf", *TO, "--yes")
    assert publish(folder / "tiny-F32.gguf", *TO, "--yes").exit_code == 0
    assert len(hub.repositories["me/tiny-GGUF"].commits) == 1


def test_a_connection_cut_once_is_tried_again(hub: HubUploads, folder: Path) -> None:
    hub.faults.append(Fault("PUT /lfs/put", after=50_000, times=2))
    assert publish(folder / "tiny-F32.gguf", *TO, "--yes").exit_code == 0
    assert hub.repositories["me/tiny-GGUF"].files["tiny-F32.gguf"] == (folder / "tiny-F32.gguf").read_bytes()


def _publish(plan: Plan) -> None:
    look_up(plan, TOKEN)
    send(plan, TOKEN)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (Fault("/api/repos/create", status=401), "does not take the token"),
        (Fault("/api/repos/create", status=403), "may not write to me/tiny-GGUF"),
        (Fault("/commit/", status=409), "being changed by someone else"),
        (Fault("/commit/", status=412), "being changed by someone else"),
        (Fault("/commit/", status=500), "in trouble or busy (500)"),
        (Fault("/preupload/", status=400), "refuses (400)"),
        (Fault("PUT /lfs/put", status=403), "may not write"),
        (Fault("PUT /lfs/put", status=502, times=99), "in trouble or busy (502)"),
        (Fault("PUT /lfs/put", after=1000, times=99), "connection to 127.0.0.1"),
        (Fault("/commit/", after=10), "connection to 127.0.0.1"),
        (Fault("GET /api/models", status=429, times=99), "in trouble or busy (429)"),
        (Fault("/validate-yaml", status=400), "does not take this"),
    ],
    ids=lambda one: one.where if isinstance(one, Fault) else one,
)  # fmt: skip
def test_what_goes_wrong_is_one_line(hub: HubUploads, folder: Path, fault: Fault, line: str) -> None:
    facts = read_facts([folder / "tiny-F32.gguf"], licence_files(folder))
    plan = make_plan("me/tiny-GGUF", facts, is_private=False)
    hub.faults.append(fault)
    with pytest.raises(BqError) as caught:
        _publish(plan)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    repository = hub.repositories.get("me/tiny-GGUF")
    assert repository is None or not repository.files


@pytest.mark.parametrize("where", ["/api/repos/create", "/commit/"])
def test_a_hub_that_does_not_answer_is_not_waited_for(
    hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("bq.library.publish.ANSWER_SECONDS", 0.5)
    facts = read_facts([folder / "tiny-F32.gguf"], licence_files(folder))
    hub.faults.append(Fault(where, seconds=30, times=99))
    with pytest.raises(BqError, match=r"connection to 127\.0\.0\.1:.* failed: .*timed out"):
        _publish(make_plan("me/tiny-GGUF", facts, is_private=False))
    assert not hub.repositories.get("me/tiny-GGUF", Repository(False)).files


def test_a_wrong_token_and_none_at_all(hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "does not take the token (401)" in refusal(folder / "tiny-F32.gguf", *TO, "--yes")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    hub.requests.clear()
    assert "not logged in" in refusal(folder / "tiny-F32.gguf", *TO, "--yes")
    assert hub.requests == []


@pytest.mark.parametrize("key", ["hf_sec\x01ret", "hf_sec ret", "hf_密"])
def test_a_token_that_cannot_be_sent_is_not_repeated(
    hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", key)
    line = refusal(folder / "tiny-F32.gguf", *TO, "--yes")
    assert "characters that no token has" in line
    assert key not in line
    assert hub.requests == []


def test_a_password_in_the_address_is_not_shown(hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:9")
    shown = [publish(folder / "tiny-F32.gguf", *TO, "--dry-run", *more).output for more in ([], ["--json"])]
    shown.append(refusal(folder / "tiny-F32.gguf", *TO, "--yes"))
    assert all("127.0.0.1:9" in one and "secret" not in one for one in shown), shown


@pytest.mark.parametrize("address", ["nonsense", "http://[::1", "ftp://x"])
def test_an_address_that_is_none_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert "HF_ENDPOINT is no address" in refusal(folder / "tiny-F32.gguf", *TO, "--dry-run")


def test_no_one_listening_is_one_line(hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "connection to 127.0.0.1:9 failed" in refusal(folder / "tiny-F32.gguf", *TO, "--yes")


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_refuses_without_a_request(
    hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "offline" in refusal(folder / "tiny-F32.gguf", *TO, "--yes", *(["--offline"] if how == "option" else []))
    assert hub.requests == []


def test_a_public_repository_is_not_taken_for_a_private_one(hub: HubUploads, folder: Path) -> None:
    hub.repositories["me/tiny-GGUF"] = Repository(private=False)
    assert "is public" in refusal(folder / "tiny-F32.gguf", *TO, "--yes", "--private")
    assert not hub.repositories["me/tiny-GGUF"].files


def test_a_file_that_fails_its_check_is_refused(hub: HubUploads, folder: Path) -> None:
    path = folder / "tiny-F32.gguf"
    data = bytearray(path.read_bytes())
    data[-4096:] = b"\xff" * 4096  # no numbers
    path.write_bytes(data)
    assert "fails its check" in refusal(path, *TO, "--yes")
    assert hub.requests == []
    assert publish(path, *TO, "--yes", "--force").exit_code == 0


def test_a_file_that_changes_after_its_check_is_not_sent(
    hub: HubUploads, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bq.library import publish as module

    look_up = module.look_up

    def meddle(plan: module.Plan, key: str) -> module.Repository:
        (folder / "LICENSE").write_text("another", encoding="utf-8")
        return look_up(plan, key)

    monkeypatch.setattr(module, "look_up", meddle)
    assert "changed meanwhile" in refusal(folder / "tiny-F32.gguf", *TO, "--yes")
    assert not hub.repositories["me/tiny-GGUF"].files


def test_ones_own_card_is_sent_as_it_is(hub: HubUploads, folder: Path) -> None:
    card = folder / "mine.md"
    card.write_text("---\nlicense: mit\n---\n# 我的\n", encoding="utf-8")
    assert str(card) in publish(folder / "tiny-F32.gguf", *TO, "--dry-run", "--card", card).stdout
    publish(folder / "tiny-F32.gguf", *TO, "--yes", "--card", card)
    assert hub.repositories["me/tiny-GGUF"].files["README.md"] == card.read_bytes()
    card.write_text("---\na: [\n---\n", encoding="utf-8")
    assert "does not take this" in refusal(folder / "tiny-F32.gguf", *TO, "--yes", "--card", card)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a right there")
def test_what_a_link_points_to_is_shown(hub: HubUploads, folder: Path) -> None:
    (folder / "private").write_text("mine", encoding="utf-8")
    (folder / "LICENSE.md").symlink_to("private")
    done = publish(folder / "tiny-F32.gguf", *TO, "--dry-run")
    assert f"{folder / 'LICENSE.md'} -> {folder.resolve() / 'private'}" in done.stdout


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "-a/b", "a/../b", "a/b c", "https://x/y"])
def test_a_name_that_is_no_repository(hub: HubUploads, folder: Path, name: str) -> None:
    assert "is not a repository" in refusal(folder / "tiny-F32.gguf", "--to", name, "--yes")
    assert hub.requests == []
