"""What is asked of the model's process, and how it is waited for."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bq.runtime.prompt import Message
from bq.runtime.values import Sampling
from bq.tui.engine import Answering, Engine, Job, Loading, Question
from tests.support.tokenizer import pieces

GREEDY = Sampling(temperature=0, repeat_penalty=1)
QUESTION = (Message("user", "量化是什么？"),)
LONG = (Message("user", "模型 " * 300),)
_PIECE_A = [piece.text for piece in pieces(1)].index("▁a")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def load(engine: Engine, path: Path) -> Loading:
    job = Loading(path)
    engine.work(job)
    return job


def answer(engine: Engine, question: Question) -> Answering:
    job = Answering(question)
    engine.work(job)
    return job


def start(engine: Engine, job: Job) -> threading.Thread:
    engine.job = job
    thread = threading.Thread(target=engine.work, args=(job,), daemon=True)
    thread.start()
    return thread


def process_of(engine: Engine) -> "subprocess.Popen[bytes]":
    assert engine._remote is not None
    return engine._remote.process


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
