"""Memory: predicted against what llama.cpp reports and what the process grows by, over families, contexts, KV types, batches.

    .venv/bin/python -m bench.fit [--hidden 512] [MODEL.gguf ...]

Without files, a random model of each family is made (`--hidden` wide, Q8_0). Each row is a process of its own, which loads the
model, reads a whole batch and one token more, and tells by how much its resident memory grew (Linux: RssAnon and RssFile).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bq.runtime.loading import LoadOptions, load
from bq.runtime.memory import HOST, MIB, Estimate
from tests.conftest import convert_folder
from tests.support.families import FAMILIES, Shape, write_checkpoint

CONTEXTS, KV_TYPES, BATCHES = (512, 2048, 4096), ("f16", "q8_0"), (128, 512)


def main() -> None:
    """Measure every combination and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.models[0], LoadOptions(**json.loads(arguments.one)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models or list(random_models(Path(folder), arguments.hidden))
        print(f"{'MiB':22}{'ctx':>6}{'KV':>6}{'batch':>7}{'predicted':>11}{'reported':>10}{'grown':>9}{'ratios':>14}")
        worst = max((row(model, *case) for model in models for case in cases()), default=0.0)
    print(f"The prediction is off by {100 * worst:.1f} % of the process's growth at most.")


def cases() -> Iterator[tuple[int, str, int]]:
    """Context, KV type, batch."""
    return ((ctx, kv, batch) for ctx in CONTEXTS for kv in KV_TYPES for batch in BATCHES)


def random_models(folder: Path, hidden: int) -> Iterator[Path]:
    """A model of each family with heads of 128, as the releases have, and the feed-forward part as wide as theirs."""
    for family in FAMILIES:
        shape = Shape(family, hidden=hidden, heads=hidden // 128, ffn=-(-hidden * 43 // 16 // 32) * 32, vocab=4000)
        write_checkpoint(folder / family, shape)
        yield convert_folder(folder / family, folder / f"{family}.gguf", "Q8_0")


def row(model: Path, ctx: int, kv: str, batch: int) -> float:
    """Print one measurement; returns how far the prediction is off, as a part of what the process grew by."""
    options = json.dumps({"ctx": ctx, "kv": kv, "batch": batch, "threads": 1})
    command = [sys.executable, "-m", "bench.fit", str(model), "--one", options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, reported, comparable, grown = (value / MIB for value in json.loads(done.stdout))
    ratios = f"{comparable / reported:7.3f}{predicted / grown:7.3f}"
    print(f"{model.stem:22}{ctx:6}{kv:>6}{batch:7}{predicted:11.1f}{reported:10.1f}{grown:9.1f}{ratios}", flush=True)
    return abs(predicted / grown - 1)


def measure(path: Path, options: LoadOptions) -> tuple[int, int, int, int]:
    """Predicted in all, reported by llama.cpp, predicted of what it reports, and the growth of this process."""
    load(path, LoadOptions(ctx=64, threads=1)).close()  # what the first load of a process takes besides
    before = resident_bytes()
    with load(path, options) as model:
        whole_batch = min(model.fit.plan.setting.batch, model.info.context - 3)
        "".join(model.complete("!" * whole_batch, max_tokens=2))
        grown = resident_bytes() - before
        predicted = model.fit.plan.estimate
        return predicted.total, compared(model.fit.used), compared(predicted), grown


def compared(estimate: Estimate) -> int:
    """The host's weights, KV cache and compute buffer."""
    use = estimate.of(HOST)
    return use.weights + use.kv + use.compute


def resident_bytes() -> int:
    """Memory of this process that is in RAM: its own and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssFile:")))


if __name__ == "__main__":
    main()
