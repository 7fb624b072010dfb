"""The runtime's figures, in turn in one run: loop, prefill, turns, cancel, batch, draft, memory.

    .venv/bin/python -m bench.run [--models demo narrow shallow 7b] [--parts loop prefill …] [--tokenizer tokenizer.model]

`demo` is the bundled model, `narrow` has the release's vocabulary on small blocks, `shallow` and `7b` are generated in
Baichuan2-7B's form (the last needs 20 GB of disk and 6 GB of memory). The loop is measured at answer lengths of 128, 1k and 4k
where the context reaches, on models that need less than 50 ms per token; at 128 on others.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import models
from bench.loop import measure_loops
from bench.turns import measure_cancel, measure_prefill, measure_turns
from bq.runtime.loading import LoadOptions, load
from bq.runtime.model import Model

LENGTHS = (128, 1024, 4000)
SLOW_SECONDS = 0.05


def main() -> None:
    """Each part on each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["demo", "narrow", "shallow"])
    parser.add_argument("--parts", nargs="+", default=[*HERE, *APART], choices=[*HERE, *APART])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.models:
        path = models.demo() if name == "demo" else models.generated(name, tokenizer=arguments.tokenizer)
        print(f"\n== {name}: {path.stat().st_size / 1e6:,.0f} MB", flush=True)
        for part in arguments.parts:
            if part in HERE:
                with load(path, LoadOptions(ctx=4096)) as model:
                    HERE[part](model, path, arguments.rounds)
            else:
                print(f"-- {part}", flush=True)
                subprocess.run([sys.executable, "-m", *APART[part], str(path)], check=True)


def _loop(model: Model, path: Path, rounds: int) -> None:
    seconds = _token_seconds(model)
    is_slow = seconds > SLOW_SECONDS
    lengths = [length for length in LENGTHS if length < model.info.context - 64]
    measure_loops(model, path, lengths[:1] if is_slow else lengths, rounds, with_class=not is_slow)


def _token_seconds(model: Model) -> float:
    answer = model.complete("bq ", max_tokens=8)
    begun = time.perf_counter()
    tokens = sum(1 for _ in answer.steps())
    return (time.perf_counter() - begun) / max(1, tokens)


HERE: dict[str, Callable[[Model, Path, int], None]] = {
    "loop": _loop,
    "prefill": lambda model, path, rounds: measure_prefill(model, 3 * rounds),
    "turns": lambda model, path, rounds: measure_turns(model, 10, 24),
    "cancel": lambda model, path, rounds: measure_cancel(model, 5 * rounds),
}
# Measurements that load the model in ways of their own, each in a process of its own.
APART = {
    "batch": ("bench.batch", "--lines", "16", "--parallel", "8", "--max-tokens", "24"),
    "draft": ("bench.draft", "--models"),
    "memory": ("bench.fit",),
}


if __name__ == "__main__":
    main()
