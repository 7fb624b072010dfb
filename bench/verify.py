"""`bq verify` on random checkpoints of the four families in random mixtures: how often it raises a false alarm.

    .venv/bin/python -m bench.verify [--rounds 200] [--seed 0]
    .venv/bin/python -m bench.verify --real-size [--scale 1] [--folder build/real-size] [--tokens 64]

Prints the false alarms (goal: none), each with its checkpoint and mixture, and how many times larger the relative error of the
logits is than that of the weights, from which the limit of bq.convert.verify.logit_checks is made. `--real-size` makes a
checkpoint in the shape of Baichuan2-7B (15 GB, and 5 GB for the file; --scale 0.5 halves its width), verifies it, and prints
seconds and the peak of the anonymous memory (Linux) for the file alone, without logits, and for all.
"""

import argparse
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.memory import run
from bench.real_size import BAICHUAN2_7B
from bq.convert.convert import convert, prepare
from bq.convert.mixture import MIXTURES
from bq.convert.verify.against import Against, check_against
from bq.convert.verify.check import Check
from bq.convert.verify.file_checks import check_file
from bq.runtime.cpu import usable_cores
from tests.support.families import FAMILIES, Shape, write_checkpoint

TOKENS = 32
_EXACT_BITS = 16


@dataclass(frozen=True)
class Round:
    """One random file: what it is, and all that was said of it."""

    shape: Shape
    mixture: str
    checks: list[Check]

    @property
    def alarms(self) -> list[Check]:
        """Lines that are no pass."""
        return [check for check in self.checks if check.verdict != "pass"]


def main() -> None:
    """Random rounds, or the real size once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--real-size", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--mixture", default="Q4_K_M")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("build/real-size"))
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    if arguments.real_size:
        _real_size(arguments)
    else:
        _report(list(_rounds(arguments.rounds, arguments.seed, arguments.threads)))


def random_shape(rng: np.random.Generator, seed: int) -> Shape:
    """A small checkpoint of any family, dtype and form of its files; some with rows that do not divide by 256."""
    width = int(rng.choice([32, 64, 96]))
    heads = int(rng.choice([2, 4, 6]))
    pieces = int(rng.integers(640, 700))
    return Shape(
        family=FAMILIES[int(rng.integers(len(FAMILIES)))],
        hidden=width * heads,
        heads=heads,
        ffn=int(rng.choice([128, 256, 320, 512])),
        vocab=pieces + int(rng.choice([0, 4, 30])),
        pieces=pieces,
        dtype=rng.choice(["bf16", "f16", "f32"]),
        form=rng.choice(["bin", "bin-shards", "safetensors", "safetensors-shards"]),
        chat=bool(rng.integers(2)),
        seed=seed,
    )


def _rounds(count: int, seed: int, threads: int) -> Iterator[Round]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape, mixture = random_shape(rng, number), str(rng.choice(list(MIXTURES)))
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "model", Path(folder) / "model.gguf"
            write_checkpoint(source, shape)
            convert(prepare(source, mixture), out, threads)
            checks = [*check_file(out, threads), *check_against(out, source, Against(threads, TOKENS))]
        found = Round(shape, mixture, checks)
        for check in found.alarms:
            print(f"{number}: {shape} {mixture}: {check.verdict}: {check.name}: {check.text}", flush=True)
        yield found


def _report(rounds: list[Round]) -> None:
    alarms = sum(bool(one.alarms) for one in rounds)
    print(f"false alarms: {alarms} in {len(rounds)} random checkpoints and mixtures (goal: none)")
    exact = sum(check.details.get("close") == 0 for one in rounds for check in one.checks if check.name == "weights")
    print(f"bit for bit: {exact}")
    by_bits: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for one in rounds:
        found = {check.name: check.details for check in one.checks}
        growth = found["logits"]["error"] / max(found["weights"]["matrix_error"], 1e-9)
        by_bits[int(found["weights"]["bits_per_weight"])].append((growth, found["logits"]["kl_mean"]))
    print("bits per weight  files  growth of errors: median  largest  KL divergence: median  largest")
    for bits, pairs in sorted(by_bits.items()):
        growth, divergence = np.array(pairs).T
        growth = (
            growth if bits < _EXACT_BITS else np.full_like(growth, np.nan)
        )  # of weights that have next to no errors
        print(
            f"{bits:15}  {len(pairs):5}  {np.median(growth):24.2f}  {growth.max():7.2f}  {np.median(divergence):21.2g}  "
            f"{divergence.max():7.2g}"
        )


def _real_size(arguments: argparse.Namespace) -> None:
    scale, full = arguments.scale, BAICHUAN2_7B
    heads = max(1, round(full.heads * scale))
    shape = Shape("b2-7b", 128 * heads, heads, int(full.ffn * scale) // 256 * 256, int(full.vocab * scale))
    source, out = arguments.folder / "Baichuan2-7B-Chat", arguments.folder / "model.gguf"
    if not (source / "config.json").exists():
        write_checkpoint(source, shape)
    bq = str(Path(sys.executable).with_name("bq"))
    if not out.exists():
        run([bq, "convert", str(source), "-o", str(out), "-q", arguments.mixture], arguments.folder)
    size = sum(path.stat().st_size for path in source.iterdir())
    print(f"checkpoint {size / 1e9:.2f} GB, {arguments.mixture} file {out.stat().st_size / 1e9:.2f} GB", flush=True)
    against = ["--against", str(source)]
    steps = {
        "the file alone": [],
        "tensors and token ids": [*against, "--quick"],
        f"all, {arguments.tokens} tokens": [*against, "--tokens", str(arguments.tokens)],
    }
    for name, options in steps.items():
        done = run([bq, "verify", str(out), *options], arguments.folder)
        last = done.output.strip().splitlines()[-1]
        print(
            f"{name}: {done.seconds:.0f} s, peak anonymous memory {done.peak_anonymous_bytes / 1e6:.0f} MB; {last}",
            flush=True,
        )
    if not arguments.keep:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
