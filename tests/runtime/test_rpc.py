"""Models spread over workers on loopback, each a process with a port of its own; without RPC in the build, the line that says so."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bq.runtime import rpc
from bq.runtime.errors import BqError, UsageError
from bq.runtime.llama import library
from bq.runtime.loading import load
from bq.runtime.values import LoadOptions
from tests.support.workers import free_port, needs_rpc, run_apart, running

TEXT = "Baichuan 是百川智能的开源语言模型"


@pytest.mark.parametrize(
    "text", ["", ",", "host:", ":1", "host:0", "host:65536", "host:0000070000", "host:1:2", "host:1x", "::1"]
)
def test_what_is_no_worker_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="--rpc"):
        rpc.servers(text)


def test_workers_are_listed_once_with_the_usual_port() -> None:
    assert rpc.servers("a, b:7,a:50052") == ("a:50052", "b:7")


def test_a_build_without_it_says_how_to_get_one(converted) -> None:
    if library().llama_supports_rpc():
        pytest.skip("this build has RPC")
    with pytest.raises(BqError, match="RPC=1"):
        load(converted("b2-7b"), LoadOptions(rpc="127.0.0.1:9"))


@pytest.fixture(scope="module")
def workers(bq_command: Path) -> Iterator[list[str]]:
    """Two of them."""
    needs_rpc()
    with running(bq_command, 2) as found:
        yield [one.endpoint for one in found]


ANSWER = """
import sys
from bq.runtime.loading import load
from bq.runtime.values import LoadOptions, Sampling
path, rpc, layers, text = sys.argv[1:]
options = LoadOptions(rpc=rpc or None, gpu_layers=int(layers) if layers else None, ctx=512)
with load(path, options) as model:
    fit = model.fit
    print(*fit.plan.devices)
    used = [abs(fit.plan.estimate.of(name).total / fit.used.of(name).total - 1) for name in fit.plan.devices]
    print(max(used, default=0))
    print("".join(model.complete(text, sampling=Sampling(temperature=0, repeat_penalty=1), max_tokens=24)))
"""


def test_a_model_lies_on_two_workers_and_answers_as_on_one_machine(workers: list[str], demo_gguf: Path) -> None:
    alone = run_apart(ANSWER, demo_gguf, "", "", TEXT).stdout.splitlines()
    spread = run_apart(ANSWER, demo_gguf, ",".join(workers), "", TEXT).stdout.splitlines()
    assert spread[0] == "RPC0 RPC1"
    assert spread[2:] == alone[2:]
    assert len(spread[2]) > 10


@pytest.mark.parametrize(("count", "layers"), [(2, ""), (1, ""), (2, "20")])
def test_what_the_workers_will_hold_is_foretold(workers: list[str], demo_gguf: Path, count: int, layers: str) -> None:
    said = run_apart(ANSWER, demo_gguf, ",".join(workers[:count]), layers, TEXT).stdout.splitlines()
    assert float(said[1]) < 0.1


def test_a_worker_that_is_not_there_is_a_line(demo_gguf: Path) -> None:
    needs_rpc()
    with pytest.raises(BqError, match="cannot be reached"):
        load(demo_gguf, LoadOptions(rpc=f"127.0.0.1:{free_port()}"))


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(8), b"\x1c" + bytes(7) + b"\x01" * 28]
)
def test_another_program_at_the_port_is_a_line_and_no_crash(answer: bytes, demo_gguf: Path) -> None:
    needs_rpc()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_all, args=(server, answer), daemon=True).start()
        with pytest.raises(BqError, match="was refused"):
            load(demo_gguf, LoadOptions(rpc=f"127.0.0.1:{server.getsockname()[1]}"))


def answer_all(server: socket.socket, answer: bytes) -> None:
    while True:
        try:
            one, _ = server.accept()
        except OSError:
            return
        with one:
            one.settimeout(1)
            try:
                one.recv(64)
                one.sendall(answer)
            except OSError:
                pass
