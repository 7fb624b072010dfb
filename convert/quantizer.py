"""Who quantizes: bq's kernels where they make llama.cpp's bytes, llama.cpp's own functions for everything else.

Whether they make the same bytes is not believed but tried, at each start and for each type, on a sample of blocks of every
kind: llama.cpp may have been compiled to contract multiplications and additions, which rounds otherwise. With effort "high" the
kernels look for better scales than llama.cpp's; then the sample tells that they find them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bq.convert import kernel_calls
from bq.convert.kernel_calls import HAVE_KERNELS, F32Array, Kernel, U8Array
from bq.convert.plan import Plan, PlannedTensor
from bq.convert.rows import rows_of, wide_rows
from bq.runtime import ggml
from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.language import say

Wish = Literal["auto", "fast", "ggml"]
Effort = Literal["normal", "high"]
# Fewer weights than this llama.cpp's functions do before the kernels are compiled (a dozen seconds, once).
WORTH_IT = 300_000_000
ROUNDS: Mapping[Effort, int | None] = {"normal": None, "high": 2}  # of refinement; more gain next to nothing
_SAMPLE_BLOCKS = 64  # of each kind


@dataclass(frozen=True)
class Quantizer:
    """Turns rows into packed bytes; types without a kernel go to ggml."""

    kernels: Mapping[GgmlType, Kernel] = field(default_factory=dict)
    effort: Effort = "normal"

    def describe(self, plan: Plan) -> tuple[str, Effort]:
        """Who quantizes such a file, "fast" or "ggml", and with which effort, for its metadata."""
        is_used = any(tensor.kind in self.kernels for tensor in plan.tensors)
        return ("fast", self.effort) if is_used else ("ggml", "normal")

    def quantize(self, tensor: PlannedTensor, start: int, stop: int, wide: F32Array) -> U8Array:
        """Output rows [start, stop) of a tensor as packed bytes [rows, row_bytes]; `wide` is scratch for [rows, columns].

        Raises BqError for a weight that is not finite.
        """
        kernel = self.kernels.get(tensor.kind)
        if kernel is None:
            wide_rows(tensor, start, stop, wide)
            return ggml.quantize(tensor.kind, wide)

        def widen() -> F32Array:
            wide_rows(tensor, start, stop, wide)
            return wide

        rows = rows_of(tensor, start, stop)
        packed = kernel_calls.quantize(kernel, tensor.kind, rows, None, widen, ROUNDS[self.effort])
        if packed is None:
            widen()  # says which weight it is
            raise RuntimeError(f"a kernel found {tensor.name} not finite, numpy did not")
        return packed


GGML = Quantizer()


@dataclass(frozen=True)
class Choice:
    """A quantizer, and what to tell about it, None if nothing."""

    quantizer: Quantizer
    note: str | None = None


def choose_quantizer(
    tensors: Iterable[PlannedTensor],
    wish: Wish = "auto",
    effort: Effort = "normal",
    begin: Callable[[str], None] = lambda _: None,
) -> Choice:
    """The quantizer for these tensors by the user's wishes. `begin` hears of work that takes a while.

    Raises UsageError for "fast" or "high" where they are not possible.
    """
    weights: dict[GgmlType, int] = {}
    for tensor in tensors:
        weights[tensor.kind] = weights.get(tensor.kind, 0) + tensor.weights
    kinds = sorted(HAVE_KERNELS & weights.keys())
    is_asked = wish == "fast" or effort == "high"
    if effort == "high":
        _check_effort(wish, kinds)
    if wish == "ggml" or not kinds or not (is_asked or sum(weights[kind] for kind in kinds) >= WORTH_IT):
        return Choice(GGML)
    if not kernel_calls.is_installed():
        return _without(is_asked, say("numba is not installed", "没有安装 numba"))
    names = " ".join(kind.name for kind in kinds)
    begin(say(f"Preparing the fast kernels for {names}", f"正在准备快速内核：{names}"))
    try:
        loaded = kernel_calls.load_kernels(kinds, effort=ROUNDS[effort])
    except Exception as error:  # numba or LLVM on a machine that they do not serve raise all sorts of things
        return _without(is_asked, say(f"numba does not work here ({error})", f"numba 在此无法工作（{error}）"))
    other = [kind for kind, kernel in loaded.kernels.items() if not passes(kind, kernel, effort)]
    kernels = {kind: kernel for kind, kernel in loaded.kernels.items() if is_asked or kind not in other}
    notes = (
        [*_compiled_note(loaded), *_high_note(kinds, other)]
        if effort == "high"
        else [*_compiled_note(loaded), *_same_note(kinds, other), *_other_note(other, is_asked)]
    )
    return Choice(Quantizer(kernels, effort), "\n".join(notes))


def _check_effort(wish: Wish, kinds: list[GgmlType]) -> None:
    if wish == "ggml":
        raise UsageError(
            say("llama.cpp's functions know no --effort high.", "llama.cpp 的函数不支持 --effort high。"),
            say("Leave out --quantizer ggml.", "请去掉 --quantizer ggml。"),
        )
    if not kinds:
        raise UsageError(
            say("No type in this mixture has a finer search.", "此量化方式中没有支持更细搜索的类型。"),
            say(
                f"--effort high serves {' '.join(kind.name for kind in sorted(HAVE_KERNELS))}.",
                f"--effort high 支持 {' '.join(kind.name for kind in sorted(HAVE_KERNELS))}。",
            ),
        )


def _without(is_asked: bool, why: str) -> Choice:
    install = "pip install 'baichuan-bq[fast]'"
    if is_asked:
        raise UsageError(
            say(f"There are no fast kernels: {why}.", f"无法使用快速内核：{why}。"),
            say(
                f"{install}, or leave out --quantizer and --effort.", f"请 {install}，或去掉 --quantizer 与 --effort。"
            ),
        )
    return Choice(
        GGML,
        say(
            f"Quantizer: llama.cpp's; {why}. {install} makes this several times faster.",
            f"量化器：llama.cpp；{why}。{install} 可快数倍。",
        ),
    )


def _compiled_note(loaded: kernel_calls.Loaded) -> Iterable[str]:
    if loaded.compiled:
        yield say(
            f"Kernels compiled for this processor in {loaded.seconds:.1f} s and kept for the next time.",
            f"已为此处理器编译内核，用时 {loaded.seconds:.1f} 秒，并留作下次使用。",
        )


def _same_note(kinds: list[GgmlType], other: list[GgmlType]) -> Iterable[str]:
    same = " ".join(kind.name for kind in kinds if kind not in other)
    if same:
        yield say(
            f"Quantizer: fast kernels for {same}; on a sample their bytes are llama.cpp's.",
            f"量化器：{same} 使用快速内核；样本字节与 llama.cpp 一致。",
        )


def _other_note(other: list[GgmlType], is_asked: bool) -> Iterable[str]:
    names = " ".join(kind.name for kind in other)
    if names and is_asked:
        yield say(
            f"Warning: for {names} this build of llama.cpp rounds otherwise than the fast kernels; the file is equally good.",
            f"警告：对 {names}，此 llama.cpp 的舍入与快速内核不同；文件质量相当。",
        )
    elif names:
        yield say(
            f"Quantizer: llama.cpp's for {names}, where the fast kernels do not give its bytes on this machine.",
            f"量化器：{names} 使用 llama.cpp，因为快速内核在此机器上给出的字节不同。",
        )


def _high_note(kinds: list[GgmlType], other: list[GgmlType]) -> Iterable[str]:
    names = " ".join(kind.name for kind in kinds)
    yield say(f"Quantizer: fast kernels with effort high for {names}.", f"量化器：{names} 使用快速内核，精细程度高。")
    if other:
        raise RuntimeError(f"effort high does not lower the error of {other}")


def passes(kind: GgmlType, kernel: Kernel, effort: Effort) -> bool:
    """Whether a kernel gives ggml's bytes on the sample; with effort "high", whether its error is smaller."""
    wide = _sample(ggml.block_size(kind)[0])
    rows = kernel_calls.rows_in_memory(wide)
    packed = kernel_calls.quantize(kernel, kind, rows, None, lambda: wide, ROUNDS[effort])
    theirs = ggml.quantize(kind, wide)
    if packed is None or effort == "normal":
        return packed is not None and np.array_equal(packed, theirs)
    return _error(kind, packed, wide) < _error(kind, theirs, wide)


def _error(kind: GgmlType, packed: U8Array, wide: F32Array) -> float:
    return float(np.square(ggml.dequantize(kind, packed, wide.shape[1]) - wide, dtype=np.float64).sum())


def _sample(width: int) -> F32Array:
    """Rows of one block each: Gaussian, heavy-tailed, rounded to bfloat16, with an outlier."""
    rng = np.random.default_rng(0)
    shape = (_SAMPLE_BLOCKS, width)
    plain = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    heavy = (rng.standard_t(2, shape) * 0.02).astype(np.float32)
    coarse = (rng.standard_normal(shape, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    outlier = plain.copy()
    outlier[:, 7] *= 30
    return np.concatenate([plain, heavy, coarse, outlier])
