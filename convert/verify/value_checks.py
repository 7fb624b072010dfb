"""What a file's weights must be whatever the checkpoint: numbers, not all zeros, and folded for NormHead as its generation needs.

Every weight of every tensor is looked at, a chunk in each thread.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bq.convert.model_config import BAICHUAN
from bq.convert.verify.check import Check, failed, listed, make_again, mend, passed, warned
from bq.convert.verify.limits import NORM_STRAY, TELLING_NOISE, norm_noise
from bq.runtime import ggml
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.known import generation_of
from bq.runtime.language import say

CHUNK_WEIGHTS = 1 << 20  # dequantized at a time by a thread
_HEAD = "output.weight"
_OUTPUTS = {"attn_output.weight", "ffn_down.weight"}
_OUTPUTS_OF_EXPERTS = {"attn_output.weight", "ffn_down_exps.weight"}


@dataclass(frozen=True)
class _Chunk:
    """Some rows' squared norms; not finite where a weight is not."""

    tensor: TensorEntry
    start: int
    squares: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """What the weights of a file are: the first bad row of each damaged tensor, tensors of zeros, row norms of the head, and
    the experts whose matrices are zeros in tensors that are not.
    """

    bad: dict[str, int]
    zeros: tuple[str, ...]
    head_norms: npt.NDArray[np.float64]
    idle_experts: dict[str, list[int]]


def value_checks(file: GgufFile, threads: int, progress: Callable[[float], None]) -> Iterator[Check]:
    """Values, zeros and NormHead."""
    values = scan(file, threads, progress)
    yield _finite(file, values)
    yield _zeros(file, values)
    if file.architecture == BAICHUAN and _HEAD not in values.bad:
        yield norm_head_check(file, values.head_norms)


def packed_rows(file: GgufFile, entry: TensorEntry, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows [start, stop) of a tensor as they lie in the file."""
    size = ggml.row_bytes(entry.kind, entry.shape[-1])
    return file.bytes[entry.start + start * size : entry.start + stop * size].reshape(stop - start, size)


def rows_in(entry: TensorEntry) -> int:
    """Rows of a tensor, 1 for a vector."""
    return math.prod(entry.shape[:-1])


def scan(file: GgufFile, threads: int, progress: Callable[[float], None]) -> Values:
    """Look at every weight once."""
    bad: dict[str, int] = {}
    largest = {name: np.zeros(_matrices(entry)) for name, entry in file.tensors.items()}
    norms: list[npt.NDArray[np.float64]] = []
    done, whole = 0, sum(entry.size_bytes for entry in file.tensors.values())
    with ThreadPoolExecutor(threads) as pool:
        for entry in file.tensors.values():
            for chunk in pool.map(lambda rows, entry=entry: _squares(file, entry, *rows), _runs(entry)):
                name, finite = entry.name, np.isfinite(chunk.squares)
                if not finite.all():
                    bad.setdefault(name, chunk.start + int(np.argmin(finite)))
                matrix = np.arange(chunk.start, chunk.start + len(finite)) * _matrices(entry) // rows_in(entry)
                np.maximum.at(largest[name], matrix, np.nan_to_num(chunk.squares, nan=np.inf))
                if name == _HEAD:
                    norms.append(np.sqrt(chunk.squares))
            done += entry.size_bytes
            progress(done / whole)
    zeros = tuple(name for name, most in largest.items() if not most.any() and name.endswith(".weight"))
    idle = {name: np.flatnonzero(most == 0).tolist() for name, most in largest.items() if most.any() and not most.all()}
    return Values(bad, zeros, np.concatenate(norms) if norms else np.empty(0), idle)


def _matrices(entry: TensorEntry) -> int:
    """How many a tensor holds: one for each expert."""
    return entry.shape[0] if len(entry.shape) > 2 else 1


def _runs(entry: TensorEntry) -> Iterator[tuple[int, int]]:
    step, rows = max(1, CHUNK_WEIGHTS // entry.shape[-1]), rows_in(entry)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _squares(file: GgufFile, entry: TensorEntry, start: int, stop: int) -> _Chunk:
    wide = ggml.dequantize(entry.kind, packed_rows(file, entry, start, stop), entry.shape[-1])
    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", wide, wide).astype(np.float64)
        if not np.isfinite(squares).all():  # by overflow, perhaps
            squares = np.square(wide, dtype=np.float64).sum(axis=1)
    return _Chunk(entry, start, squares)


def _finite(file: GgufFile, values: Values) -> Check:
    if values.bad:
        named = listed(f"{name} (row {row:,})" for name, row in values.bad.items())
        return failed(
            "values",
            say(f"Weights that are no numbers: {named}.", f"含有非数值的权重：{named}。"),
            make_again(),
            tensors=dict(values.bad),
        )
    count = sum(math.prod(entry.shape) for entry in file.tensors.values())
    return passed("values", say(f"{count:,} weights are numbers.", f"{count:,} 个权重均为数值。"), weights=count)


def _zeros(file: GgufFile, values: Values) -> Check:
    """Blocks whose two last matrices are zeros pass their input on: models are made deeper that way, as the demo is."""
    zeros, outputs = set(values.zeros), _OUTPUTS_OF_EXPERTS if file.shape_count("expert_count") else _OUTPUTS
    passing = [
        block for block in _blocks(file) if _zero_parts(block, zeros) >= outputs and not _is_lost(file, block, zeros)
    ]
    wrong = sorted(zeros - {f"{block}.{part}" for block in passing for part in outputs})
    if values.idle_experts and not wrong:
        named = listed(f"{name} ({', '.join(map(str, some[:8]))})" for name, some in values.idle_experts.items())
        text = say(f"Experts of all zeros: {named}.", f"全为零的专家：{named}。")
        return failed("zeros", text, make_again(), experts=values.idle_experts)
    if wrong:
        named = listed(zero_names(file, wrong))
        return failed("zeros", say(f"All zeros: {named}.", f"全为零：{named}。"), make_again(), tensors=wrong)
    if passing:
        text = say(
            f"{len(passing)} blocks pass their input on, by zeros.", f"{len(passing)} 块以全零权重直接传递输入。"
        )
        return passed("zeros", text, passing=passing)
    return passed("zeros", say("No tensor is all zeros.", "没有全零张量。"))


def zero_names(file: GgufFile, zeros: Iterable[str]) -> Iterator[str]:
    """Names of tensors of zeros; one for a whole block whose matrices are."""
    left = set(zeros)
    for block in _blocks(file):
        if _is_lost(file, block, left):
            number = block.split(".")[1]
            yield say(f"block {number} (every matrix)", f"第 {number} 块（全部矩阵）")
            left = {name for name in left if not name.startswith(f"{block}.")}
    yield from sorted(left)


def _blocks(file: GgufFile) -> list[str]:
    return [f"blk.{number}" for number in range(file.shape_count("block_count"))]


def _zero_parts(block: str, zeros: set[str]) -> set[str]:
    return {name.removeprefix(f"{block}.") for name in zeros if name.startswith(f"{block}.")}


def _is_lost(file: GgufFile, block: str, zeros: set[str]) -> bool:
    """Whether every matrix of a block is among the zeros."""
    return all(
        name in zeros for name, entry in file.tensors.items() if name.startswith(f"{block}.") and len(entry.shape) > 1
    )


def norm_head_check(file: GgufFile, norms: npt.NDArray[np.float64]) -> Check:
    """Whether the rows of output.weight have the norms that the generation needs; padding rows of zeros say nothing."""
    norms, kind, generation = norms[norms > 0], file.tensors[_HEAD].kind, generation_of(file)
    claim, noise = file.text("bq.norm_head"), norm_noise(kind)
    must_fold = generation == 2 if not claim or generation == 1 else claim == "folded"
    if noise is None or not len(norms) or generation is None:
        return _untold(kind)
    low, middle, high = (float(one) for one in np.quantile(norms, (0.05, 0.5, 0.95)))
    strays = int((np.abs(norms - 1) > max(NORM_STRAY, noise)).sum())
    is_normalised = 1 - noise < low <= high < 1 + noise
    measured = say(f"row norms {low:.3f} … {high:.3f}", f"行范数 {low:.3f} … {high:.3f}")
    details = {"rows": len(norms), "low": low, "median": middle, "high": high, "strays": strays}
    if must_fold and not is_normalised:
        text = say(
            f"NormHead is not folded into output.weight ({measured} instead of 1), so answers are wrong.",
            f"NormHead 未折入 output.weight（{measured}，应为 1），因此回答是错的。",
        )
        return failed("norm-head", text, mend(), **details)
    if must_fold and strays:
        text = say(
            f"{strays:,} of {len(norms):,} rows of output.weight are not normalised as the others are ({measured}).",
            f"output.weight 的 {len(norms):,} 行中有 {strays:,} 行未像其他行那样归一化（{measured}）。",
        )
        return failed("norm-head", text, mend(), **details)
    if generation == 1 and is_normalised and noise < TELLING_NOISE:
        text = say(
            f"output.weight is normalised ({measured}) as only Baichuan 2 needs it, so answers are wrong.",
            f"output.weight 被归一化（{measured}），而只有 Baichuan 2 需要如此，因此回答是错的。",
        )
        return failed("norm-head", text, make_again(), **details)
    if generation == 2 and not must_fold and not is_normalised:
        text = say(
            f"This Baichuan 2 has no NormHead by its own word ({measured}).",
            f"此 Baichuan 2 自称没有 NormHead（{measured}）。",
        )
        return warned(
            "norm-head", text, say("Give the checkpoint with --against.", "请用 --against 给出检查点。"), **details
        )
    state = say("folded", "已折入") if is_normalised else say("none, as befits Baichuan 1", "无，Baichuan 1 本应如此")
    text = say(f"NormHead: {state} ({measured}).", f"NormHead：{state}（{measured}）。")
    return passed("norm-head", text, **details)


def _untold(kind: GgmlType) -> Check:
    return warned(
        "norm-head",
        say(
            f"Whether NormHead is folded cannot be told from {kind.name} rows of output.weight.",
            f"无法从 {kind.name} 类型的 output.weight 判断 NormHead 是否已折入。",
        ),
        say("Give the checkpoint with --against.", "请用 --against 给出检查点。"),
    )
