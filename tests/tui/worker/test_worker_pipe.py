"""What goes through the pipe between the app and the model's process, and what does not."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.fit import LoadOptions
from bq.runtime.values import Stats, Step
from bq.tui import remote, wire
from bq.tui.engine import Engine
from bq.tui.wire_values import pack
from bq.tui.worker import Piece, Worker, together

from .common import QUESTION, load, process_of

# The pipe


@pytest.mark.parametrize("said", [b"", b"garbage\n", b'{"id": 1, "kind": "load"'])
def test_a_process_that_is_told_nonsense_ends_in_silence(said: bytes) -> None:
    with remote.start_worker() as process:
        output, errors = process.communicate(said, timeout=60)
    assert (process.returncode, output, errors) == (0, b"", b"")


def test_an_unknown_request_is_an_error_and_the_next_one_is_served() -> None:
    unknown = wire.encode(1, wire.Restore(Path("s"))).replace(b'"restore"', b'"unknown"')
    with remote.start_worker() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(unknown + wire.encode(2, wire.Restore(Path("s"))))
        process.stdin.flush()
        replies = [wire.decode(process.stdout.readline()) for _ in range(2)]
        process.communicate(timeout=60)
    assert [(one.id, one.kind) for one in replies] == [(1, "failed"), (2, "failed")]
    assert replies[1].message["cause"] == "No model is loaded."


def test_a_process_that_speaks_nonsense_is_ended_and_said(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    code = "print('nonsense', flush=True); import time; time.sleep(60)"
    monkeypatch.setattr(remote, "_CODE", code)
    loading = load(engine, Path("m.gguf"))
    assert str(loading.error).startswith("The app and the model's process do not understand each other")
    assert process_of(engine).returncode is not None
    assert engine.died


def test_what_c_code_prints_does_not_get_into_the_pipe() -> None:
    code = (
        "import os, sys; from bq.tui import worker\n"
        "class Noisy:\n"
        "    def __init__(self, incoming, outgoing, on_close): self.out = outgoing\n"
        "    def run(self): os.write(1, b'noise'); self.out.write(b'line'); self.out.flush(); os.read(0, 1)\n"
        "worker.Worker = Noisy; worker.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"x", capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"line", b"noise")


def test_the_process_imports_nothing_from_the_folder_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("runpy", "queue", "faulthandler", "bq"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    with remote.start_worker() as process:
        assert process.communicate(b"", timeout=60) == (b"", b"")


@pytest.mark.parametrize("is_writing", [False, True])
def test_an_end_waits_for_nothing_but_a_file_that_is_being_written(is_writing: bool) -> None:
    begun, release, closed = threading.Event(), threading.Event(), threading.Event()

    def work(*_: object) -> int:
        begun.set()
        release.wait(60)
        return 0

    asked, ask = os.pipe()
    with open(asked, "rb") as incoming, open(os.devnull, "wb") as outgoing, open(ask, "wb") as app:
        worker = Worker(incoming, outgoing, closed.set)
        worker._model = SimpleNamespace(measure=work, save_session=work, close=lambda: None)  # type: ignore[assignment]
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        request = wire.Save(Path("s"), QUESTION, True) if is_writing else wire.Measure(QUESTION, None, frozenset())
        app.write(wire.encode(1, request))
        app.flush()
        assert begun.wait(60)
        app.close()
        assert closed.wait(0.1 if is_writing else 60) != is_writing
        release.set()
        assert closed.wait(60)
        thread.join(60)


_texts = st.text(max_size=3)
_stats = Stats(tokens=7)
_going_out = st.lists(
    st.tuples(
        st.integers(1, 2),
        st.one_of(
            _texts.map(lambda text: Piece(Step(text), False, _stats)),
            st.integers(0, 9).map(lambda done: wire.Read(done, 9)),
            st.floats(0, 1).map(wire.Progress),
            _texts.map(wire.Planned),
            st.just(wire.Answered(_stats)),
        ),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(_going_out)
def test_what_goes_out_together_says_the_same(batch: list[tuple[int, Any]]) -> None:
    def events(replies: list[tuple[int, Any]]) -> list[tuple[int, object]]:
        """With texts one character at a time, and of a progress the last of each row."""
        found: list[tuple[int, object]] = []
        for i, (id, reply) in enumerate(replies):
            is_last = [(other, type(after)) for other, after in replies[i + 1 : i + 2]] != [(id, type(reply))]
            if isinstance(reply, (Piece, wire.Wrote)):
                found.extend((id, character) for character in (reply.step if isinstance(reply, Piece) else reply).text)
            elif is_last or not isinstance(reply, (wire.Read, wire.Progress)):
                found.append((id, reply))
        return found

    out = list(together(batch))
    assert events(out) == events(batch)
    assert not [reply for _, reply in out if isinstance(reply, Piece)]


def test_text_is_gathered_and_not_without_end() -> None:
    step = Step("x", 1)
    replies = list(together([(1, Piece(step, True, _stats))] * 1000))
    assert 1 < len(replies) < 10
    assert "".join(reply.text for _, reply in replies) == "x" * 1000
    assert [one for _, reply in replies for one in reply.steps] == [step] * 1000


def test_the_types_that_cross_are_those_of_the_runtime() -> None:
    from bq.runtime import generation, model, sampling, values

    assert sampling.Sampling is values.Sampling
    assert (generation.Stats, generation.Step, generation.Alternative) == (
        values.Stats,
        values.Step,
        values.Alternative,
    )
    assert model.ModelInfo is values.ModelInfo
    every = LoadOptions(ctx=1, kv="f16", mmap=False, n_seq=2, adapters=("a.gguf:0.5",), rpc="a:1")
    assert wire.unpack(LoadOptions, json.loads(json.dumps(pack(every)))) == every
    with pytest.raises(wire.WireError):
        wire.unpack(LoadOptions, {"threads": "many"})
