"""How long a token takes by how OpenMP's threads wait for each other: alone on the machine, and beside programs that want its cores.

    .venv/bin/python -m bench.threads [--models demo shallow | FILE.gguf …] [--threads N] [--beside N] [--tokens 24] [--rounds 3]

A thread that waits may look again and again whether the others are there, which is quickest while all have a core, and holds
whoever it waits for up where one has none. `libgomp` is that library's own patience of 300,000 looks, `passive` none at all, `bq`
what bq sets. Each is a process of its own, all in turn in one run. The programs beside do nothing but count; a slow answer is
cut off after some seconds.
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
WAYS = {"libgomp": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "passive"}, "bq": {}}
LONGEST_SECONDS = 20
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
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{arguments.threads} threads on {usable_cores()} cores; milliseconds per token: median, and the slowest round's"
    )
    for name in arguments.models:
        path = Path(name) if name.endswith(".gguf") else models.demo() if name == "demo" else models.generated(name)
        for beside in (0, arguments.beside):
            found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
            with counting(beside):
                for _ in range(arguments.rounds):
                    for way, environment in WAYS.items():
                        found[way].append(times_of(path, arguments.threads, arguments.tokens, environment))
            size = f"{path.stat().st_size / 1e6:,.0f} MB"
            print(f"{size:>9}, {beside} beside: " + ", ".join(_column(way, rounds) for way, rounds in found.items()))


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
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def _column(way: str, rounds: list[list[float]]) -> str:
    medians = [1000 * statistics.median(times) for times in rounds]
    return f"{way} {statistics.median(medians):.1f} ({max(medians):.1f})"


if __name__ == "__main__":
    main()
