"""The whole `bq convert -q Q4_K_M` against llama.cpp's `llama_model_quantize` alone, on about 2 billion weights.

    .venv/bin/python -m bench.convert [--rounds 2] [--folder build/bench]

Makes a Baichuan2-shaped checkpoint (width 2048, 32 blocks, FFN 5632, vocabulary 125,696, bf16 `.bin`) and a second one of
twice the FFN width. Prints: seconds of both in turn and their ratio (goal: at most 1.05), peak anonymous memory (goal: at most
700 MB, and within 10 % for the wider one), the most disk used, and whether the same input gave the same file twice.
"""

import argparse
import hashlib
import statistics
import sys
from pathlib import Path

from bench.memory import Run, run
from bq.runtime.cpu import usable_cores
from tests.support.families import Shape, write_checkpoint

WIDTH, HEADS, FFN, VOCAB = 2048, 16, 5632, 125696
TIME_GOAL, MEMORY_GOAL = 1.05, 700e6
# llama.cpp's part runs in a process of its own and times only the call: no start-up of Python counts against it.
QUANTIZE = """
import sys, time
from bq.runtime.llama import library
lib = library()
params = lib.llama_model_quantize_default_params()
params.ftype, params.nthread = 15, int(sys.argv[3])
begun = time.perf_counter()
assert lib.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), params) == 0
print(time.perf_counter() - begun)
"""


def main() -> None:
    """Generate, measure in turn, print."""
    arguments = _arguments()
    threads = arguments.threads
    narrow, wide = (_checkpoint(arguments.folder / f"ffn-{ffn}", ffn) for ffn in (FFN, 2 * FFN))
    out = arguments.folder / "out"
    out.mkdir(exist_ok=True)
    plain = arguments.folder / "bf16.gguf"
    if not plain.exists():
        print(
            f"BF16 GGUF for llama.cpp: {_convert(narrow, plain, 'BF16', threads, arguments.folder).seconds:.1f} s",
            flush=True,
        )
    digests, ours, theirs = [], [], []
    for number in range(arguments.rounds):
        run_ = _convert(narrow, out / "ours.gguf", "Q4_K_M", threads, out)
        ours.append(run_)
        digests.append(_digest(out / "ours.gguf"))
        size = (out / "ours.gguf").stat().st_size
        (out / "ours.gguf").unlink()
        other = run([sys.executable, "-c", QUANTIZE, str(plain), str(out / "theirs.gguf"), str(threads)], out)
        theirs.append(float(other.output.split()[-1]))
        print(
            f"round {number + 1}: bq convert {run_.seconds:.1f} s, llama_model_quantize {theirs[-1]:.1f} s, ratio "
            f"{run_.seconds / theirs[-1]:.3f}",
            flush=True,
        )
        (out / "theirs.gguf").unlink()
    wider = _convert(wide, out / "wide.gguf", "Q4_K_M", threads, out)
    (out / "wide.gguf").unlink()
    _report([run_.seconds for run_ in ours], theirs, ours, wider, size, digests)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    return parser.parse_args()


def _checkpoint(folder: Path, ffn: int) -> Path:
    if not (folder / "config.json").exists():
        print(f"writing {folder} …", flush=True)
        write_checkpoint(folder, Shape("b2-7b", WIDTH, HEADS, ffn, VOCAB))
    return folder


def _convert(source: Path, out: Path, mixture: str, threads: int, watched: Path) -> Run:
    bq = str(Path(sys.executable).with_name("bq"))
    return run(
        [bq, "convert", str(source), "-o", str(out), "-q", mixture, "--threads", str(threads), "--force"], watched
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _report(ours: list[float], theirs: list[float], runs: list[Run], wider: Run, size: int, digests: list[str]) -> None:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    peak = max(one.peak_anonymous_bytes for one in runs)
    print(f"time: ratio {ratio:.3f} (goal: at most {TIME_GOAL})")
    print(f"peak anonymous memory: {peak / 1e6:.0f} MB (goal: at most {MEMORY_GOAL / 1e6:.0f} MB)")
    print(
        f"with twice the FFN width: {wider.peak_anonymous_bytes / 1e6:.0f} MB, ratio {wider.peak_anonymous_bytes / peak:.2f} "
        f"(goal: 0.9 to 1.1), {wider.seconds:.1f} s"
    )
    print(
        f"most disk in use: {max(one.peak_folder_bytes for one in runs) / size:.3f} times the output's {size:,} bytes"
    )
    print(f"same input, same file: {len(set(digests)) == 1} ({len(digests)} runs, sha256 {digests[0][:16]}…)")


if __name__ == "__main__":
    main()
