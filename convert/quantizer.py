"""Who quantizes: bq's kernels where they make llama.cpp's bytes, llama.cpp's own functions for everything else.

Whether they make the same bytes is not believed but tried, at each start and for each type, on a sample of blocks of several
kinds: llama.cpp may have been compiled to contract multiplications and additions, which rounds differently. With effort "high"
the kernels look for better scales than llama.cpp's; then the sample tells that they find them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from bq.convert import kernel_calls
from bq.convert.kernel_calls import HAVE_KERNELS, F32Array, Kernel, U8Array
from bq.convert.plan import Plan, PlannedTensor
from bq.convert.rows import check_size, rows_of, wide_rows
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

        Raises BqError for a weight that is not finite, or too large for its type.
        """

        def widen() -> F32Array:
            wide_rows(tensor, start, stop, wide)
            return wide

        return self.pack(tensor, start, stop, widen)

    def pack(self, tensor: PlannedTensor, start: int, stop: int, widen: Callable[[], F32Array]) -> U8Array:
        """The same, where `widen` gives the rows in float32: called only if they are needed.

        Raises BqError for a weight that is not finite, or too large for its type.
        """
        parts = list(tensor.parts(start, stop))
        if len(parts) == 1:
            return self._pack_one(*parts[0], widen)
        packed, done = [], 0
        for one, first, after in parts:  # each expert has rows, and an importance, of its own
            packed.append(self._pack_one(one, first, after, _some(widen, done, done + after - first)))
            done += after - first
        return np.concatenate(packed)

    def _pack_one(self, tensor: PlannedTensor, start: int, stop: int, widen: Callable[[], F32Array]) -> U8Array:
        """The same for rows of one source."""
        kernel = self.kernels.get(tensor.kind)
        if kernel is None:
            wide = widen()
            check_size(tensor, wide)
            return ggml.quantize(tensor.kind, wide, tensor.importance)
        rows = rows_of(tensor, start, stop)
        packed = kernel_calls.quantize(kernel, tensor.kind, rows, tensor.importance, widen, ROUNDS[self.effort])
        if packed is None:
            widen()  # says which weight it is
            raise RuntimeError(f"a kernel found {tensor.name} not finite, numpy did not")
        return packed


def _some(widen: Callable[[], F32Array], start: int, stop: int) -> Callable[[], F32Array]:
    return lambda: widen()[start:stop]


GGML = Quantizer()


@dataclass(frozen=True)
class Choice:
    """A quantizer, and what to tell about it, None if nothing."""

    quantizer: Quantizer
    note: str | None = None


def check_wishes(tensors: Iterable[PlannedTensor], wish: Wish, effort: Effort) -> None:
    """Raises UsageError for wishes that contradict each other or do nothing for these tensors."""
    if effort == "high" and wish == "ggml":
        raise UsageError(
            say("llama.cpp's own functions have no --effort high.", "llama.cpp 自身的函数没有 --effort high。"),
            say("Leave out --quantizer ggml.", "请去掉 --quantizer ggml。"),
        )
    if effort == "high" and not HAVE_KERNELS & {tensor.kind for tensor in tensors}:
        names = " ".join(kind.name for kind in sorted(HAVE_KERNELS))
        raise UsageError(
            say("--effort high has no effect on any type here.", "--effort high 对这里的任何类型都不起作用。"),
            say(f"It serves {names}.", f"它适用于 {names}。"),
        )


def choose_quantizer(
    tensors: Sequence[PlannedTensor],
    wish: Wish = "auto",
    effort: Effort = "normal",
    begin: Callable[[str], None] = lambda _: None,
) -> Choice:
    """The quantizer for these tensors by the user's wishes. `begin` hears of work that takes a while.

    Raises UsageError for "fast" or "high" where they are not possible.
    """
    check_wishes(tensors, wish, effort)
    weights: dict[GgmlType, int] = {}
    for tensor in tensors:
        weights[tensor.kind] = weights.get(tensor.kind, 0) + tensor.weights
    kinds = sorted(HAVE_KERNELS & weights.keys())
    is_asked = wish == "fast" or effort == "high"
    if not kinds and is_asked:
        return Choice(
            GGML, say("Quantizer: llama.cpp's, fast for these types.", "量化器：llama.cpp，对这些类型已足够快。")
        )
    if wish == "ggml" or not (is_asked or sum(weights[kind] for kind in kinds) >= WORTH_IT):
        return Choice(GGML)
    if not kernel_calls.is_installed():
        return _without(is_asked, say("numba is not installed", "没有安装 numba"), "pip install numba")
    begin(say(f"Preparing the fast kernels for {_names(kinds)}", f"正在准备快速内核：{_names(kinds)}"))
    calls = _calls(tensors, kinds)
    try:
        loaded = [kernel_calls.load_kernels(some, use, ROUNDS[effort]) for use, some in calls.items()]
    except Exception as error:  # numba or LLVM on a machine that they do not serve raise all sorts of things
        first = str(error).partition("\n")[0] or type(error).__name__
        return _without(is_asked, say(f"numba does not work here ({first})", f"numba 在此无法工作（{first}）"))
    kernels = {kind: kernel for part in loaded for kind, kernel in part.kernels.items()}
    verdicts = {
        kind: _worst(judge(kind, kernels[kind], effort, use) for use, some in calls.items() if kind in some)
        for kind in kinds
    }
    least = "good" if wish == "fast" else "same"
    kept = [kind for kind in kinds if verdicts[kind] in ("better", "same", least)]
    notes = [*_compiled_note(loaded), *_notes(kinds, kept, verdicts)]
    return Choice(Quantizer({kind: kernels[kind] for kind in kept}, effort), "\n".join(notes))


def _calls(tensors: Iterable[PlannedTensor], kinds: Iterable[GgmlType]) -> Mapping[bool, Sequence[GgmlType]]:
    """Which types are quantized without an importance, and which with one: machine code is compiled for each way of its own."""
    ways = {(tensor.importance is not None, tensor.kind) for tensor in tensors}
    found = {use: [kind for kind in kinds if (use, kind) in ways] for use in (False, True)}
    return {use: some for use, some in found.items() if some}


def _names(kinds: Iterable[GgmlType]) -> str:
    return " ".join(kind.name for kind in kinds)


def _without(is_asked: bool, why: str, remedy: str = "") -> Choice:
    if is_asked:
        leave_out = say("leave out --quantizer and --effort", "去掉 --quantizer 与 --effort")
        raise UsageError(
            say(f"There are no fast kernels: {why}.", f"无法使用快速内核：{why}。"),
            say(
                f"Run `{remedy}`, or {leave_out}." if remedy else f"{leave_out[0].upper()}{leave_out[1:]}.",
                f"请运行 `{remedy}`，或{leave_out}。" if remedy else f"请{leave_out}。",
            ),
        )
    more = say(f" `{remedy}` makes this several times faster.", f"运行 `{remedy}` 可快数倍。") if remedy else ""
    return Choice(GGML, say(f"Quantizer: llama.cpp's; {why}.", f"量化器：llama.cpp；{why}。") + more)


def _compiled_note(loaded: Sequence[kernel_calls.Loaded]) -> Iterable[str]:
    if any(part.compiled for part in loaded):
        seconds = sum(part.seconds for part in loaded)
        yield say(
            f"Kernels compiled for this processor, once, in {seconds:.1f} s.",
            f"已为此处理器编译内核（仅此一次），用时 {seconds:.1f} 秒。",
        )


def _notes(
    kinds: Sequence[GgmlType], kept: Sequence[GgmlType], verdicts: Mapping[GgmlType, "Verdict"]
) -> Iterable[str]:
    if better := [kind for kind in kept if verdicts[kind] == "better"]:
        yield say(
            f"Quantizer: fast kernels, --effort high, for {_names(better)}.",
            f"量化器：{_names(better)} 使用快速内核与精细搜索（--effort high）。",
        )
    if same := [kind for kind in kept if verdicts[kind] == "same"]:
        yield say(
            f"Quantizer: fast kernels for {_names(same)}; on a sample their bytes are llama.cpp's.",
            f"量化器：{_names(same)} 使用快速内核；样本字节与 llama.cpp 一致。",
        )
    if good := [kind for kind in kept if verdicts[kind] == "good"]:
        yield say(
            f"Warning: for {_names(good)} this llama.cpp rounds differently from the fast kernels; the errors are equal.",
            f"警告：对 {_names(good)}，此 llama.cpp 的舍入与快速内核不同；误差相当。",
        )
    if left := [kind for kind in kinds if kind not in kept]:
        yield say(
            f"Quantizer: llama.cpp's for {_names(left)}, where a sample shows that the kernels do otherwise here.",
            f"量化器：{_names(left)} 使用 llama.cpp，因为样本表明内核在此机器上结果不同。",
        )


Verdict = Literal["better", "same", "good", "bad"]
_WORSE: Sequence[Verdict] = ("better", "same", "good", "bad")
_ROUNDING = 1.001  # errors of the same search, rounded differently, are closer than that


def judge(kind: GgmlType, kernel: Kernel, effort: Effort, with_importance: bool = False) -> Verdict:
    """What a kernel gives on the sample: with effort "high" a smaller error than ggml's ("better"), else ggml's bytes ("same")
    or other ones with the same error ("good").
    """
    wide = _sample(ggml.block_size(kind)[0])
    importance = _sample_importance(wide.shape[1]) if with_importance else None
    rows = kernel_calls.rows_in_memory(wide)
    packed = kernel_calls.quantize(kernel, kind, rows, importance, lambda: wide, ROUNDS[effort])
    theirs = ggml.quantize(kind, wide, importance)
    if packed is None:
        return "bad"
    ours_off, theirs_off = (_error(kind, one, wide, importance) for one in (packed, theirs))
    if effort == "high":
        return "better" if ours_off < theirs_off else "bad"
    if np.array_equal(packed, theirs):
        return "same"
    return "good" if ours_off < _ROUNDING * theirs_off else "bad"


def _worst(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=_WORSE.index)


def _error(kind: GgmlType, packed: U8Array, wide: F32Array, importance: F32Array | None) -> float:
    squares = np.square(ggml.dequantize(kind, packed, wide.shape[1]) - wide, dtype=np.float64)
    return float((squares if importance is None else squares * importance).sum())


def _sample_importance(width: int) -> F32Array:
    """Of columns whose inputs differ by orders of magnitude, as those of a model do, some of them always zero."""
    rng = np.random.default_rng(1)
    found: F32Array = np.exp(3 * rng.standard_normal(width)).astype(np.float32)
    found[rng.random(width) < 0.1] = 0
    return found


def _sample(width: int) -> F32Array:
    """Rows of one block each: Gaussian, heavy-tailed, rounded to bfloat16, with an outlier, of one sign, constant, zero."""
    rng = np.random.default_rng(0)
    shape = (_SAMPLE_BLOCKS, width)
    plain = rng.standard_normal(shape, np.float32) * np.float32(0.02)
    heavy = (rng.standard_t(2, shape) * 0.02).astype(np.float32)
    coarse = (rng.standard_normal(shape, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    outlier = plain.copy()
    outlier[:, 7] *= 30
    flat = np.array([[0.01], [-0.01], [0]], np.float32) * np.ones((3, width), np.float32)
    return np.concatenate([plain, heavy, coarse, outlier, np.abs(plain), -np.abs(plain), flat])
