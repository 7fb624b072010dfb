"""The library is the same for all processes, whatever they do to it at the same time, and however they end."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.library import registry
from bq.library.home import home
from bq.library.registry import entries, forget, register, rescan

OTHER = """
import json, os, sys
from pathlib import Path
from bq.library import registry
for line in sys.stdin:
    home, action, path = json.loads(line)
    os.environ["BQ_HOME"] = home
    getattr(registry, action)(*([registry.at(Path(path))] if action == "forget" else [Path(path)] if path else []))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def other() -> Iterator[Callable[[str, str, str], None]]:
    """`other(home, action, path)` does something to the library in the other process."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def do(*what: str) -> None:
            child.stdin.write(json.dumps(what) + "\n")
            child.stdin.flush()
            assert child.stdout.readline() == "done\n"

        yield do
        child.stdin.close()


ACTION = st.tuples(st.sampled_from(["register", "forget", "move", "used", "rescan"]), st.integers(0, 3), st.booleans())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTION, max_size=10))
def test_any_order_of_changes_by_two_processes_leaves_what_it_should(
    actions: list[tuple[str, int, bool]], contents: tuple[bytes, ...], other: Callable[..., None]
) -> None:
    """The model of it: by content, the place that is in the library, and the place where the file is."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BQ_HOME", folder)
        here = [Path(folder, f"{number}.gguf") for number in range(4)]
        known: dict[int, Path] = {}
        for path, content in zip(here, contents, strict=True):
            path.write_bytes(content)
        for step, (action, number, elsewhere) in enumerate(actions):
            path = here[number]
            if action == "move":
                here[number] = path.rename(path.with_name(f"{number}-{step}.gguf"))
                continue
            if action == "forget" and known.get(number) != path:
                continue
            if elsewhere:
                other(folder, action, "" if action == "rescan" else str(path))
            else:
                what = {"forget": lambda path: forget(registry.at(path)), "rescan": lambda path: rescan()}  # type: ignore[arg-type]
                what.get(action, getattr(registry, action))(path)
            if action == "forget":
                del known[number]
            elif action == "rescan":
                known = {one: here[one] for one in known}
            else:
                known[number] = path
        assert {one.path for one in entries()} == set(known.values())
        assert len({one.name for one in entries()}) == len(known)


WRITER = """
import sys
from pathlib import Path
from bq.library.registry import register
for number in range(int(sys.argv[2])):
    print(register(Path(sys.argv[1]), name=f"{sys.argv[3]}-{number}").name, flush=True)
"""


def writer(model: Path, times: int, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(model), str(times), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_at_the_same_time_lose_nothing(tmp_path: Path, contents: tuple[bytes, ...]) -> None:
    paths = [tmp_path / f"{number}.gguf" for number in range(3)]
    for path, content in zip(paths, contents, strict=False):
        path.write_bytes(content)
    children = [writer(path, 8, f"w{number}") for number, path in enumerate(paths)]
    for child in children:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert [one.name for one in entries()] == ["w0-7", "w1-7", "w2-7"]


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_a_kill_at_any_moment_leaves_a_whole_library(model: Path) -> None:
    for _ in range(int(os.environ.get("BQ_KILLS", "3"))):
        child = writer(model, 10_000, "w")
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(1 + os.getpid() % 7)]
        child.kill()
        told += child.communicate()[0].split()
        (entry,) = entries()
        assert int(entry.name[2:]) in {number + int(told[-1][2:]) for number in (0, 1)}, "told, or about to be"
        assert not list(home().glob("*.damaged"))
    assert register(model, name="after").name == "after"
    assert {path.name for path in home().iterdir()} <= {"library.json"}
