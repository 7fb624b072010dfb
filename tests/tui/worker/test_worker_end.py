"""Whatever ends the model's process costs the model alone."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bq.runtime.errors import BqError
from bq.tui import remote
from bq.tui.engine import Answering, Engine, Job, Loading, Question

from .common import GREEDY, LONG, QUESTION, answer, load, posix, process_of, start, until

# Ended from outside


@posix
@pytest.mark.parametrize(
    ("stage", "number", "said"),
    [
        ("loading", signal.SIGKILL, "it was killed (signal 9)"),
        ("reading", signal.SIGKILL, "it was killed (signal 9)"),
        ("writing", signal.SIGABRT, "llama.cpp aborted (signal 6)"),
        ("idle", signal.SIGTERM, "it crashed or was stopped (signal 15)"),
    ],
)
def test_whatever_ends_the_process_is_said_and_it_loads_again(
    engine: Engine, demo_gguf: Path, endless: Path, stage: str, number: signal.Signals, said: str
) -> None:
    job: Job
    if stage == "loading":
        job = Loading(demo_gguf)
        thread = start(engine, job)
        until(lambda: engine._remote)
        os.kill(process_of(engine).pid, signal.SIGSTOP)  # or a small model would be there already
    else:
        load(engine, demo_gguf if stage == "reading" else endless)
        job = Answering(Question(LONG if stage == "reading" else QUESTION, sampling=GREEDY, max_tokens=4000))
        if stage != "idle":
            thread = start(engine, job)
            until(lambda: job.read[0] if stage == "reading" else job.begun)  # type: ignore[attr-defined]
    os.kill(process_of(engine).pid, number)
    if stage == "idle":
        until(lambda: engine.lost)
    else:
        thread.join(60)
    error = engine.lost if stage == "idle" else job.error
    assert str(error).startswith(f"The model's process ended: {said}")
    assert str(error).endswith("Ctrl+R loads it again; your conversation is kept.")
    assert (engine.model, engine.died) == (None, True)
    if stage == "writing":
        assert (job.stop, job.take()[:3]) == ("error", "xyx")  # type: ignore[attr-defined]
        assert "Fatal Python error: Aborted" in engine.trace, "where it was is there for --debug"
    assert load(engine, endless).error is None
    assert answer(engine, Question(QUESTION, sampling=GREEDY, max_tokens=4)).take() == "xyxy"


@posix
def test_ctrl_c_in_the_terminal_is_not_the_process_s(engine: Engine, endless: Path) -> None:
    load(engine, endless)
    job = Answering(Question(QUESTION, sampling=GREEDY, max_tokens=4000))
    thread = start(engine, job)
    until(lambda: job.begun)
    os.kill(process_of(engine).pid, signal.SIGINT)
    engine.stop()
    thread.join(60)
    assert (job.stop, job.error, engine.died) == ("cancel", None, False)


def freeze(process: "subprocess.Popen[bytes]") -> None:
    """Stop it as a debugger does, and wait until the system has."""
    os.kill(process.pid, signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])


@posix
def test_a_process_that_does_not_stop_is_ended(engine: Engine, endless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(remote, "_END_SECONDS", 0.1)
    load(engine, endless)
    job = Answering(Question(QUESTION, sampling=GREEDY, max_tokens=4000))
    thread = start(engine, job)
    until(lambda: job.begun)
    freeze(process_of(engine))
    engine.stop()
    thread.join(60)
    assert str(job.error).startswith("The model's process did not stop within 0.1 s and was ended.")
    load(engine, endless)
    process = process_of(engine)
    freeze(process)
    engine.close()
    assert (process.returncode, engine.died) == (-signal.SIGKILL, False)


@posix
@pytest.mark.parametrize("asked", ["examine", "measure"])
def test_a_process_that_does_not_answer_holds_nobody_up(
    engine: Engine, endless: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """What cannot be stopped has no patience of its own: the end of the app has."""
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(remote, "_END_SECONDS", 0.1)
    load(engine, endless)
    process = process_of(engine)
    freeze(process)
    errors: list[BqError | None] = []

    def ask() -> None:
        try:
            engine.examine([endless]) if asked == "examine" else engine.measure(QUESTION, None)
            errors.append(None)
        except BqError as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    until(engine._one_at_a_time.locked)
    engine.close()
    thread.join(60)
    assert process.returncode == -signal.SIGKILL
    if asked == "examine":
        assert str(errors[0]).startswith("The model's process did not stop within 0.1 s and was ended.")
    else:
        assert errors == [None], "not counted is no failure"


APP = """
import os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from bq.runtime.prompt import Message
from bq.tui.engine import Answering, Engine, Loading, Question

@dataclass(frozen=True)
class Options:
    threads: int = 1

engine = Engine(Options())
engine.work(Loading(Path(sys.argv[1])))
job = Answering(Question((Message("user", "x"),), max_tokens=4000))
if sys.argv[2] == "writing":
    threading.Thread(target=engine.work, args=(job,)).start()
    while not job.begun:
        time.sleep(0.001)
heavy = {"llama_cpp", "numpy", "gguf", "bq.runtime.loading", "bq.runtime.model"} & {*sys.modules}
print(engine.model.remote.process.pid, sorted(heavy), flush=True)
os.kill(os.getpid(), 9)
"""


@posix
@pytest.mark.parametrize("stage", ["idle", "writing"])
def test_a_killed_app_leaves_no_process_and_has_imported_nothing_heavy(endless: Path, stage: str) -> None:
    app = subprocess.run([sys.executable, "-c", APP, str(endless), stage], capture_output=True, text=True, timeout=60)
    assert app.returncode == -signal.SIGKILL, app.stderr
    pid, _, heavy = app.stdout.strip().partition(" ")
    assert heavy == "[]"
    until(lambda: is_gone(int(pid)))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
