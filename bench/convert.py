"""The whole `bq convert -q Q4_K_M` against llama.cpp's two steps, on about 2 billion weights.

    .venv/bin/python -m bench.convert [--rounds 2] [--folder build/bench] [--only-hashes]

Makes a Baichuan2-shaped checkpoint (width 2048, 32 blocks, FFN 5632, vocabulary 125,696, bf16 `.bin`) and a second one of
twice the FFN width. llama.cpp's steps are a BF16 GGUF and then `llama_model_quantize`; since its converter fails on these
checkpoints, `bq convert -q BF16` takes the place of the first, which flatters it. Prints: seconds of both in turn and their ratio
(goal: at most a quarter), `--quantizer ggml` against `llama_model_quantize` alone (goal: at most 1.05), peak anonymous memory
(goal: at most 700 MB, and within 10 % for the wider one), the most disk used, whether all our files are the same, what it
costs to hash a download's files meanwhile, and where the time goes.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.memory import Run, run
from bq.convert.checkpoint import open_checkpoint
from bq.convert.convert import prepare
from bq.convert.kernel_calls import HAVE_KERNELS, load_kernels
from bq.convert.quantizer import Quantizer
from bq.convert.write import Target, write_tensors
from bq.library.known_hashes import known_hashes
from bq.runtime.cpu import usable_cores
from tests.support.families import Shape, write_checkpoint

WIDTH, HEADS, FFN, VOCAB = 2048, 16, 5632, 125696
TIME_GOAL, GGML_GOAL, MEMORY_GOAL = 0.25, 1.05, 700e6
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
    narrow = _checkpoint(arguments.folder / f"ffn-{FFN}", FFN)
    out = arguments.folder / "out"
    out.mkdir(exist_ok=True)
    _convert(narrow, out / "ours.gguf", "Q4_K_M", threads, out)  # compiles the kernels, fills the system's cache
    (out / "ours.gguf").unlink()
    _hashed(narrow, out, threads, arguments.rounds)
    if arguments.only_hashes:
        return
    wide = _checkpoint(arguments.folder / f"ffn-{2 * FFN}", 2 * FFN)
    rounds = [_round(narrow, out, threads, number) for number in range(1, arguments.rounds + 1)]
    wider = _convert(wide, out / "ours.gguf", "Q4_K_M", threads, out)
    _report(rounds, wider)
    (out / "ours.gguf").unlink()
    _stages(narrow, threads)


@dataclass(frozen=True)
class Round:
    """The fast kernels, ggml's functions, and llama.cpp's two steps (seconds)."""

    fast: Run
    ggml: Run
    bf16: float
    quantize: float
    digests: tuple[str, str]
    size: int


def _round(source: Path, out: Path, threads: int, number: int) -> Round:
    runs, digests = {}, []
    for quantizer in ("fast", "ggml"):
        path = out / "ours.gguf"
        runs[quantizer] = _convert(source, path, "Q4_K_M", threads, out, "--quantizer", quantizer)
        digests.append(_digest(path))
        size = path.stat().st_size
        path.unlink()
    plain, theirs = out / "bf16.gguf", out / "theirs.gguf"
    bf16 = _convert(source, plain, "BF16", threads, out).seconds
    other = run([sys.executable, "-c", QUANTIZE, str(plain), str(theirs), str(threads)], out)
    quantize = float(other.output.split()[-1])
    plain.unlink()
    theirs.unlink()
    found = Round(runs["fast"], runs["ggml"], bf16, quantize, (digests[0], digests[1]), size)
    print(
        f"round {number}: bq convert {found.fast.seconds:.1f} s, with ggml {found.ggml.seconds:.1f} s; BF16 {bf16:.1f} s and "
        f"llama_model_quantize {quantize:.1f} s; ratio {found.fast.seconds / (bf16 + quantize):.3f}",
        flush=True,
    )
    return found


def _hashed(source: Path, out: Path, threads: int, rounds: int) -> None:
    """The same conversion from a cache whose files are named by their hashes, and from a plain folder, in turn."""
    cache = out.parent / f"{source.name}-cache"
    for folder in ("blobs", "snapshot"):
        (cache / folder).mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        blob, name = cache / "blobs" / _digest(path), cache / "snapshot" / path.name
        if not blob.exists():
            blob.hardlink_to(path)
        if not name.is_symlink():
            name.symlink_to(Path("..", "blobs", blob.name))
    weights = open_checkpoint(cache / "snapshot").files
    assert len(known_hashes(cache / "snapshot", weights)) > len(weights), "settings or weights would not be hashed"
    found = {folder: [0.0] * rounds for folder in (source, cache / "snapshot")}
    for number in range(rounds):
        for folder, seconds in found.items():
            seconds[number] = _convert(folder, out / "ours.gguf", "Q4_K_M", threads, out).seconds
            (out / "ours.gguf").unlink()
    plain, hashed = found.values()
    ratio = statistics.median(b / a for a, b in zip(plain, hashed, strict=True))
    print(
        f"files hashed meanwhile: {statistics.median(hashed):.1f} s, without {statistics.median(plain):.1f} s, ratio {ratio:.2f}",
        flush=True,
    )
    shutil.rmtree(cache)


def _stages(source: Path, threads: int) -> None:
    """Seconds of the parts alone: all of them from the system's cache, on all threads."""
    conversion = prepare(source, "Q4_K_M")
    kinds = {tensor.kind for tensor in conversion.plan.tensors} & HAVE_KERNELS
    quantizer = Quantizer(load_kernels(kinds).kernels)
    data = np.zeros(1 << 24, np.uint8)

    def read() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for tensor in conversion.plan.tensors:
                list(
                    pool.map(lambda rows: int(rows.sum(dtype=np.uint64)), np.array_split(tensor.source.view(), threads))
                )

    def quantize() -> None:
        with open(os.devnull, "wb") as out:
            write_tensors([Target(conversion.plan, out, quantizer)], threads, lambda _: None)

    def write() -> None:
        with tempfile.TemporaryFile(dir=source) as out:
            for _ in range(conversion.size_bytes // data.size):
                out.write(data.data)
            out.flush()
            os.fsync(out.fileno())

    stages = {"read the checkpoint": read, "read and quantize": quantize, "write and sync the file": write}
    for name, stage in stages.items():
        begun = time.perf_counter()
        stage()
        print(f"{name}: {time.perf_counter() - begun:.1f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument(
        "--only-hashes", action="store_true", help="what hashing a download's files costs, nothing else"
    )
    return parser.parse_args()


def _checkpoint(folder: Path, ffn: int) -> Path:
    if not (folder / "config.json").exists():
        print(f"writing {folder} …", flush=True)
        write_checkpoint(folder, Shape("b2-7b", WIDTH, HEADS, ffn, VOCAB))
    return folder


def _convert(source: Path, out: Path, mixture: str, threads: int, watched: Path, *more: str) -> Run:
    bq = str(Path(sys.executable).with_name("bq"))
    command = [bq, "convert", str(source), "-o", str(out), "-q", mixture, "--threads", str(threads), "--force", *more]
    return run(command, watched)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _report(rounds: list[Round], wider: Run) -> None:
    ratio = statistics.median(one.fast.seconds / (one.bf16 + one.quantize) for one in rounds)
    alone = statistics.median(one.ggml.seconds / one.quantize for one in rounds)
    peak = max(one.fast.peak_anonymous_bytes for one in rounds)
    print(f"time: ratio {ratio:.3f} to llama.cpp's two steps (goal: at most {TIME_GOAL})")
    print(f"with ggml: ratio {alone:.3f} to llama_model_quantize alone (goal: at most {GGML_GOAL})")
    print(f"peak anonymous memory: {peak / 1e6:.0f} MB (goal: at most {MEMORY_GOAL / 1e6:.0f} MB)")
    print(
        f"with twice the FFN width: {wider.peak_anonymous_bytes / 1e6:.0f} MB, ratio {wider.peak_anonymous_bytes / peak:.2f} "
        f"(goal: 0.9 to 1.1), {wider.seconds:.1f} s"
    )
    size = rounds[0].size
    print(
        f"most disk in use: {max(one.fast.peak_folder_bytes for one in rounds) / size:.3f} times the output's {size:,} bytes"
    )
    fast, ggml = ({one.digests[i] for one in rounds} for i in (0, 1))
    print(f"same input, same file: {len(fast) == len(ggml) == 1} ({len(rounds)} rounds, sha256 {min(fast)[:16]}…)")


if __name__ == "__main__":
    main()
