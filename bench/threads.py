"""How long a token takes by how OpenMP's threads wait for each other: alone on the machine, and beside programs that want its cores.

    .venv/bin/python -m bench.threads [--models demo shallow | FILE.gguf …] [--threads N] [--beside N] [--tokens 24] [--rounds 5]

A thread that waits may look again and again whether the others are there, which is quickest while all have a core, and holds
whoever it waits for up where one has none. `libgomp` is that library's own patience of 300,000 looks, `passive` none at all, `bq`
what bq sets, with the looks between them; `one thread` waits for nobody. Each is a process of its own, all in turn in one run.
The programs beside do nothing but count; a slow answer is cut off after some seconds. Prints the fastest, the middle and the
slowest round's median.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import models
from bq.runtime.cpu import usable_cores

# The first as in libgomp's env.c, where nothing is set.
WAYS = {
    "libgomp": {"GOMP_SPINCOUNT": "300000"},
    "bq": {},
    "300 looks": {"GOMP_SPINCOUNT": "300"},
    "100 looks": {"GOMP_SPINCOUNT": "100"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {},
}
LONGEST_SECONDS = 20
COUNT = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"  # until the one that started it is gone
DECODE = """
import json, sys, time
from bq.runtime.loading import LoadOptions, load
path, threads, tokens, longest = sys.argv[1], *map(int, sys.argv[2:])
times = []
with load(path, LoadOptions(ctx=512, threads=threads)) as model:
    engine, begun = model._engine, time.perf_counter()
    engine.prefill(model.tokenizer.encode("What is quantization?"))
    for token in range(300, 301 + tokens):
        before = time.perf_counter()
        engine.add(token)
        times.append(time.perf_counter() - before)
        if len(times) > 1 and time.perf_counter() - begun > longest:
            break
print(json.dumps(times[1:]))
"""


def main() -> None:
    """Each model in turn, alone and beside others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "shallow"])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--beside", type=int, default=usable_cores())
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        f"{arguments.threads} threads on {usable_cores()} cores; milliseconds per token: fastest, middle, slowest round"
    )
    for name in arguments.models:
        path = models.named(name)
        for beside in (0, arguments.beside):
            found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
            with counting(beside):
                for _ in range(arguments.rounds):
                    for way, environment in WAYS.items():
                        threads = 1 if way == "one thread" else arguments.threads
                        found[way].append(times_of(path, threads, arguments.tokens, environment))
            print(f"{path.stat().st_size / 1e6:,.0f} MB, {beside} beside")
            for way, rounds in found.items():
                print(f"    {way:10} {_column(rounds)}", flush=True)


def times_of(path: Path, threads: int, tokens: int, environment: dict[str, str]) -> list[float]:
    """Seconds of each of some decodes in a new process."""
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", DECODE, path, str(threads), str(tokens), str(LONGEST_SECONDS)]
    done = subprocess.run(command, env={**own, **environment}, check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds


@contextmanager
def counting(number: int) -> Iterator[None]:
    """So many programs that want a core each."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        command = [sys.executable, "-c", COUNT, str(os.getpid())]
        started.extend(subprocess.Popen(command) for _ in range(number))
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def _column(rounds: list[list[float]]) -> str:
    medians = sorted(1000 * statistics.median(times) for times in rounds)
    return f"{medians[0]:8.1f} {statistics.median(medians):8.1f} {medians[-1]:8.1f}"


if __name__ == "__main__":
    main()
