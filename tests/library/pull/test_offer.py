"""A release that is not here: on a terminal it is offered with one question, elsewhere one line says how to get it."""

import os
import time
from pathlib import Path

import pytest

from bq.library.registry import entries, register
from bq.runtime.errors import UsageError
from bq.tui.chosen_model import choose_model
from tests.support.hub_server import HubServer

from .conftest import Start

NAME = "baichuan2-7b-chat"
PATIENCE_SECONDS = 60


def on_terminal(start: Start, answer: str, *options: str, command: str = "chat") -> str:
    """What `bq chat NAME` shows on a terminal that cannot draw, when `answer` is given to the question."""
    import pty

    controller, terminal = pty.openpty()
    model = [NAME] if command == "chat" else ["-m", NAME, "text"]
    child = start(command, *model, *options, terminal=os.ttyname(terminal))
    seen, end = b"", time.monotonic() + PATIENCE_SECONDS
    answers = {b"[y/N]": answer, b"Ready": "/quit\n"}
    os.close(terminal)
    try:
        while time.monotonic() < end:
            seen += os.read(controller, 65536)
            for mark in [mark for mark in answers if mark in seen]:
                os.write(controller, answers.pop(mark).encode())
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(controller)
        child.kill()
        child.wait()
    return seen.decode()


@pytest.fixture(autouse=True)
def dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo terminal")
def test_yes_pulls_it_and_begins_to_talk(start: Start, hub: HubServer) -> None:
    seen = on_terminal(start, "y\n")
    for text in ("is not here yet", "about 15.0 GB", "4.6 GB, Q4_K_M", "free ", "commercial use needs", "Do that?"):
        assert text in seen, seen
    assert seen.count("[y/N]") == 1, "one question"
    assert "Ready: Baichuan2-7B-Chat" in seen, seen
    assert [one.name for one in entries()] == [f"{NAME}:Q4_K_M"]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo terminal")
def test_no_leaves_the_network_alone(start: Start, hub: HubServer) -> None:
    seen = on_terminal(start, "n\n")
    assert f"Get it first: bq pull {NAME}" in seen
    assert hub.requests == []


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo terminal")
@pytest.mark.parametrize("command", ["chat", "run", "complete"])
def test_offline_offers_nothing(start: Start, hub: HubServer, command: str) -> None:
    seen = on_terminal(start, "y\n", "--offline", command=command)
    assert f"There is no model {NAME} here." in seen, seen
    assert "[y/N]" not in seen
    assert hub.requests == []


def test_without_a_terminal_it_is_one_line(start: Start, hub: HubServer) -> None:
    process = start("chat", NAME)
    assert process.wait() == 2
    assert process.err == f"bq: There is no model {NAME} here. Get it first: bq pull {NAME}\n"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Baichuan2-7B-Chat", "bq pull Baichuan2-7B-Chat"),
        ("baichuan2-7b-cht", r"Did you mean baichuan2-7b-chat\?"),
        ("baichuan-m1-14b-base", "official vLLM fork"),
        ("my-model", "`bq list` shows those there are"),
    ],
)
def test_the_way_to_a_model_is_told(text: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        choose_model(text)


def test_a_model_of_the_library_goes_before_a_folder_and_a_file_before_both(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register(demo_gguf, name="mine")
    assert choose_model("mine") == demo_gguf
    (tmp_path / "mine").mkdir()
    assert choose_model("mine") == demo_gguf
    with pytest.raises(UsageError, match="is a folder"):
        choose_model("./mine")
    (tmp_path / "mine").rmdir()
    (tmp_path / "mine").touch()
    assert choose_model("mine") == Path("mine")


def test_a_missing_model_is_told_as_such(demo_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(demo_gguf.read_bytes())
    register(path, name="mine")
    path.unlink()
    with pytest.raises(UsageError, match=r"mine is missing: .*x\.gguf is gone\. If it was moved: bq import FOLDER"):
        choose_model("mine")
