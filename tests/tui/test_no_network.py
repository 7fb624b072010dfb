"""Nothing that talks with a model touches the network: neither the app nor the model's process opens or asks for anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Bq

# Python's own record of what goes to the network, from the first line that any process of ours runs.
WATCH = """
import json, os, sys
WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "socket.sendto", "urllib.Request")
def hook(event, arguments):
    if event in WATCHED:
        with open(os.environ["WATCHED_TO"], "a") as out:
            out.write(json.dumps([os.getpid(), event, repr(arguments)]) + "\\n")
sys.addaudithook(hook)
with open(os.environ["WATCHED_TO"], "a") as out:
    out.write(json.dumps([os.getpid(), "watched", ""]) + "\\n")
"""
APP = """
import asyncio, sys
from pathlib import Path
from bq.runtime.values import LoadOptions, Sampling
from bq.tui import app_answers
from bq.tui.app import ChatApp
from bq.tui.opening import Opening
async def use():
    app = ChatApp(Opening(Path(sys.argv[1]), LoadOptions(threads=1), sampling=Sampling(temperature=0), max_tokens=20))
    async with app.run_test() as pilot:
        while app.engine.busy or app.engine.model is None:
            await asyncio.sleep(0.02)
        app_answers.ask(app, app.desks["chat"], "What is Q4_K_M?")
        while app.engine.busy:
            await asyncio.sleep(0.02)
        for key in ("f3", "f4", "f5", "f1"):
            await pilot.press(key)
            await pilot.pause(0.3)
            await pilot.press("escape")
asyncio.run(use())
"""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """The environment in which every Python process writes down what it does on the network."""
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(tmp_path), "WATCHED_TO": str(tmp_path / "events")}


def events(environment: dict[str, str]) -> list[tuple[int, str, str]]:
    lines = Path(environment["WATCHED_TO"]).read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def test_the_watch_sees_what_goes_to_the_network(watched: dict[str, str]) -> None:
    code = "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=watched, check=True)
    assert "socket.connect" in {event for _, event, _ in events(watched)}


def test_the_app_and_the_models_process_stay_off_the_network(watched: dict[str, str], demo_gguf: Path) -> None:
    subprocess.run([sys.executable, "-c", APP, str(demo_gguf)], env=watched, check=True, timeout=120)
    assert len({process for process, _, _ in events(watched)}) >= 2, "both processes were watched"
    assert {event for _, event, _ in events(watched)} == {"watched"}


def test_the_line_mode_stays_off_the_network(watched: dict[str, str], bq: Bq, demo_gguf: Path) -> None:
    done = bq("chat", "-m", demo_gguf, "--greedy", "--max-tokens", 20, stdin=b"What is bq?\n", env=watched)
    assert done.returncode == 0
    assert {event for _, event, _ in events(watched)} == {"watched"}


def test_what_lists_and_finds_models_stays_off_the_network(watched: dict[str, str], bq: Bq, demo_gguf: Path) -> None:
    for command, status in (
        (["import", demo_gguf], 0),
        (["list", "--rescan"], 0),
        (["path", "bq-demo"], 0),
        (["chat", "baichuan2-7b-chat"], 2),  # it is not here, and there is no terminal to ask on
        (["pull", "no-such-release"], 2),
        (["pull", "baichuan2-7b-chat", "--offline", "--yes"], 1),
        (["rm", "bq-demo", "--yes"], 0),
    ):
        assert bq(*command, env={**watched, "HF_HOME": watched["WATCHED_TO"] + "-hf"}).returncode == status, command
    done = bq("pull", "baichuan2-7b-chat", "--yes", env={**watched, "HF_HUB_OFFLINE": "1"})
    assert b"bq is offline" in done.stderr
    assert {event for _, event, _ in events(watched)} == {"watched"}
