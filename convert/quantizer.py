"""Who quantizes: bq's kernels where they make llama.cpp's bytes, llama.cpp's own functions for everything else.

Whether they make the same bytes is not believed but tried, at each start and for each type, on a sample of blocks of every
kind: llama.cpp may have been compiled to contract multiplications and additions, which rounds otherwise.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bq.convert import kernel_calls
from bq.convert.kernel_calls import HAVE_KERNELS, F32Array, Kernel, U8Array
from bq.convert.plan import Plan, PlannedTensor
from bq.convert.rows import rows_of, wide_rows
from bq.runtime import ggml
from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.language import say

WISHES = ("auto", "fast", "ggml")
# Fewer weights than this llama.cpp's functions do before the kernels are compiled (a dozen seconds, once).
WORTH_IT = 300_000_000
_SAMPLE_BLOCKS = 64  # of each kind


@dataclass(frozen=True)
class Quantizer:
    """Turns rows into packed bytes; types without a kernel go to ggml."""

    kernels: Mapping[GgmlType, Kernel] = field(default_factory=dict)

    def name_for(self, plan: Plan) -> str:
        """Who quantizes such a file, for its metadata."""
        return "fast" if any(tensor.kind in self.kernels for tensor in plan.tensors) else "ggml"

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

        packed = kernel_calls.quantize(kernel, tensor.kind, rows_of(tensor, start, stop), None, widen)
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
    wish: str, tensors: Iterable[PlannedTensor], begin: Callable[[str], None] = lambda _: None
) -> Choice:
    """The quantizer for these tensors by the user's wish, one of WISHES. `begin` hears of work that takes a while.

    Raises UsageError for "fast" where it is not possible.
    """
    weights: dict[GgmlType, int] = {}
    for tensor in tensors:
        weights[tensor.kind] = weights.get(tensor.kind, 0) + tensor.weights
    kinds = sorted(HAVE_KERNELS & weights.keys())
    if wish == "ggml" or not kinds or (wish == "auto" and sum(weights[kind] for kind in kinds) < WORTH_IT):
        return Choice(GGML)
    names = " ".join(kind.name for kind in kinds)
    if not kernel_calls.is_installed():
        return _without(wish, say("numba is not installed", "没有安装 numba"))
    begin(say(f"Preparing the fast kernels for {names}", f"正在准备快速内核：{names}"))
    try:
        loaded = kernel_calls.load_kernels(kinds)
    except Exception as error:  # numba or LLVM on a machine that they do not serve raise all sorts of things
        return _without(wish, say(f"numba does not work here ({error})", f"numba 在此无法工作（{error}）"))
    other = [kind for kind, kernel in loaded.kernels.items() if not makes_the_same(kind, kernel)]
    kernels = loaded.kernels
    if wish == "auto":
        kernels = {kind: kernel for kind, kernel in loaded.kernels.items() if kind not in other}
    return Choice(Quantizer(kernels), "\n".join(_notes(loaded, kernels, other, wish)))


def _without(wish: str, why: str) -> Choice:
    remedy = say("pip install 'baichuan-bq[fast]' makes this several times faster", "pip install 'baichuan-bq[fast]' 可快数倍")
    if wish == "fast":
        raise UsageError(
            say(f"There are no fast kernels: {why}.", f"无法使用快速内核：{why}。"),
            say("pip install 'baichuan-bq[fast]', or leave --quantizer out.", "请 pip install 'baichuan-bq[fast]'，或去掉 --quantizer。"),
        )
    return Choice(GGML, say(f"Quantizer: llama.cpp's; {why}: {remedy}.", f"量化器：llama.cpp；{why}：{remedy}。"))


def _notes(
    loaded: kernel_calls.Loaded, kernels: Mapping[GgmlType, Kernel], other: Iterable[GgmlType], wish: str
) -> Iterable[str]:
    if loaded.compiled:
        yield say(
            f"Kernels compiled for this processor in {loaded.seconds:.1f} s and kept for the next time.",
            f"已为此处理器编译内核，用时 {loaded.seconds:.1f} 秒，并留作下次使用。",
        )
    same = " ".join(kind.name for kind in kernels if kind not in other)
    if same:
        yield say(
            f"Quantizer: fast kernels for {same}; their bytes are llama.cpp's on a sample.",
            f"量化器：{same} 使用快速内核；样本字节与 llama.cpp 一致。",
        )
    different = " ".join(kind.name for kind in other)
    if different and wish == "fast":
        yield say(
            f"Warning: for {different} this build of llama.cpp rounds otherwise than the fast kernels; the files are equally good.",
            f"警告：对 {different}，此 llama.cpp 的舍入与快速内核不同；文件质量相当。",
        )
    elif different:
        yield say(
            f"Quantizer: llama.cpp's for {different}, whose bytes the fast kernels do not give here.",
            f"量化器：{different} 使用 llama.cpp，因为快速内核在此给出的字节不同。",
        )


def makes_the_same(kind: GgmlType, kernel: Kernel) -> bool:
    """Whether a kernel gives ggml's bytes on the sample."""
    wide = _sample(ggml.block_size(kind)[0])
    packed = kernel_calls.quantize(kernel, kind, kernel_calls.rows_in_memory(wide), None, lambda: wide)
    return packed is not None and np.array_equal(packed, ggml.quantize(kind, wide))


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
