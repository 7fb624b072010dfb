"""The kernels against ggml's functions, in turn in one run: million weights per second for each type, and whether the bytes are equal.

    .venv/bin/python -m bench.quantize [--threads 1 2] [--rounds 5] [--weights 2] [--kinds Q4_K IQ4_XS] [--importance]

The weights are Gaussian, in bf16, as a checkpoint holds them: ggml's part is to widen them and then to quantize, as bq does
without kernels. "of reading" is how long the kernel takes against a pass that only reads the same bf16 rows once, widening them.
Goals on AVX2 or AVX-512, on one thread: 4 times ggml for Q4_K, Q5_K, IQ4_XS and IQ4_NL, 2 times for Q2_K, Q3_K and Q6_K.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from bq.convert.kernel_calls import HAVE_KERNELS, F32Array, Kernel, U8Array, load_kernels, quantize
from bq.convert.rows import Rows
from bq.runtime import ggml
from bq.runtime.cpu import usable_cores
from bq.runtime.ggml import GgmlType

COLUMNS = 4096
GOALS = {
    GgmlType.Q4_K: 4,
    GgmlType.Q5_K: 4,
    GgmlType.IQ4_XS: 4,
    GgmlType.IQ4_NL: 4,
    GgmlType.Q2_K: 2,
    GgmlType.Q3_K: 2,
    GgmlType.Q6_K: 2,
}
Bits = npt.NDArray[np.uint16]


def main() -> None:
    """Each type on each number of threads."""
    arguments = _arguments()
    kinds = [GgmlType[name] for name in arguments.kinds]
    loaded = load_kernels(kinds, with_importance=arguments.importance)
    print(f"kernels ready after {loaded.seconds:.1f} s ({'compiled' if loaded.compiled else 'from the cache'})")
    rng = np.random.default_rng(0)
    importance = rng.uniform(0.1, 3, COLUMNS).astype(np.float32) if arguments.importance else None
    for threads in arguments.threads:
        rows = arguments.weights * 1_000_000 * threads // COLUMNS
        bits = (rng.standard_normal((rows, COLUMNS), np.float32).view(np.uint32) >> 16).astype(np.uint16)
        with ThreadPoolExecutor(threads) as pool:
            parts = np.array_split(bits, threads)
            print(f"\n{threads} thread(s), million weights per second, medians of {arguments.rounds}")
            print("type     kernel    ggml   ratio  goal  of reading  bytes")
            for kind in kinds:
                print(_line(kind, loaded.kernels[kind], parts, importance, pool, arguments.rounds), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, usable_cores()}))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--weights", type=int, default=2, help="millions per thread")
    parser.add_argument(
        "--kinds", nargs="+", default=[kind.name for kind in sorted(HAVE_KERNELS, key=list(GOALS).index)]
    )
    parser.add_argument("--importance", action="store_true", help="with an importance matrix")
    return parser.parse_args()


def _line(
    kind: GgmlType,
    kernel: Kernel,
    parts: list[Bits],
    importance: F32Array | None,
    pool: ThreadPoolExecutor,
    rounds: int,
) -> str:
    ways: dict[str, Callable[[Bits], object]] = {
        "kernel": partial(_by_kernel, kind, kernel, importance),
        "ggml": partial(_by_ggml, kind, importance),
        "read": _widened,
    }
    results = {way: np.concatenate(list(pool.map(call, parts))) for way, call in ways.items() if way != "read"}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            begun = time.perf_counter()
            list(pool.map(call, parts))
            seconds[way].append(time.perf_counter() - begun)
    weights = sum(part.size for part in parts)
    speed = {way: weights / statistics.median(times) / 1e6 for way, times in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["kernel"], seconds["ggml"], strict=True))
    same = "equal" if np.array_equal(results["kernel"], results["ggml"]) else "DIFFERENT"
    return (
        f"{kind.name:7} {speed['kernel']:7.1f} {speed['ggml']:7.1f} {ratio:7.2f} {GOALS[kind]:5} "
        f"{speed['read'] / speed['kernel']:11.1f}  {same}"
    )


def _by_kernel(kind: GgmlType, kernel: Kernel, importance: F32Array | None, part: Bits) -> U8Array:
    addresses = part.ctypes.data + np.arange(len(part), dtype=np.int64) * part.strides[0]
    rows = Rows(addresses, GgmlType.BF16, COLUMNS, False, part)
    packed = quantize(kernel, kind, rows, importance, lambda: _widened(part))
    assert packed is not None
    return packed


def _by_ggml(kind: GgmlType, importance: F32Array | None, part: Bits) -> U8Array:
    return ggml.quantize(kind, _widened(part), importance)


def _widened(part: Bits) -> F32Array:
    wide = np.empty(part.shape, np.float32)
    ggml.widen(part, wide)
    return wide


if __name__ == "__main__":
    main()
