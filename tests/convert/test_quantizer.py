"""Who quantizes: by size, by wish, and by what a sample shows; a missing or broken numba is a line, never a failure of auto."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bq.convert import kernel_calls, quantizer
from bq.convert.checkpoint import open_checkpoint
from bq.convert.config import read_config
from bq.convert.convert import convert, demo_checkpoint, prepare
from bq.convert.kernel_calls import HAVE_KERNELS, Loaded, load_kernels, rows_in_memory
from bq.convert.mixture import find_mixture
from bq.convert.plan import PlannedTensor, make_plan
from bq.convert.quantizer import GGML, ROUNDS, choose_quantizer, judge
from bq.runtime import ggml
from bq.runtime.gguf_file import read_gguf
from tests.conftest import ROOT
from tests.support.blocks import WEIGHTS
from tests.support.refusals import refusal

needs_numba = pytest.mark.skipif(not kernel_calls.is_installed(), reason="numba (the extra `fast`) is not installed")
KINDS = sorted(HAVE_KERNELS)


def tensors(mixture: str = "Q4_K_M") -> Sequence[PlannedTensor]:
    checkpoint = open_checkpoint(demo_checkpoint())
    return make_plan(checkpoint, read_config(checkpoint), find_mixture(mixture), True).tensors


def test_a_small_model_is_left_to_ggml_in_silence() -> None:
    choice = choose_quantizer(tensors())
    assert (choice.quantizer, choice.note) == (GGML, None)


def test_llama_cpp_is_used_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "WORTH_IT", 1)
    assert choose_quantizer(tensors(), "ggml").quantizer is GGML


@needs_numba
def test_a_large_model_gets_the_kernels_that_its_types_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "WORTH_IT", 1_000_000)
    begun = list[str]()
    choice = choose_quantizer(tensors(), begin=begun.append)
    assert [kind.name for kind in choice.quantizer.kernels] == ["Q4_K", "Q6_K"]
    assert begun == ["Preparing the fast kernels for Q4_K Q6_K"]
    assert "fast kernels for Q4_K Q6_K; on a sample their bytes are llama.cpp's" in str(choice.note)
    assert choose_quantizer(tensors("Q8_0")).quantizer is GGML


@needs_numba
def test_a_type_whose_bytes_differ_is_left_to_ggml_by_auto_and_warned_of_by_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where llama.cpp was compiled to contract multiplications and additions."""
    real = ggml.quantize

    def contracted(kind: ggml.GgmlType, rows: Any, importance: Any = None) -> Any:
        packed = real(kind, rows, importance)
        if kind == ggml.GgmlType.Q6_K:
            packed[-1, -1] ^= 1
        return packed

    monkeypatch.setattr(quantizer, "WORTH_IT", 1)
    monkeypatch.setattr(ggml, "quantize", contracted)
    auto, fast = choose_quantizer(tensors()), choose_quantizer(tensors(), "fast")
    assert [kind.name for kind in auto.quantizer.kernels] == ["Q4_K"]
    assert "llama.cpp's for Q6_K" in str(auto.note)
    assert [kind.name for kind in fast.quantizer.kernels] == ["Q4_K", "Q6_K"]
    assert "Warning: for Q6_K this llama.cpp rounds differently" in str(fast.note)


def test_without_numba_auto_says_so_and_a_wish_for_the_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "WORTH_IT", 1)
    monkeypatch.setattr(kernel_calls, "is_installed", lambda: False)
    choice = choose_quantizer(tensors())
    assert choice.quantizer is GGML
    assert "numba is not installed. `pip install numba` makes this several times faster" in str(choice.note)
    for wishes in ({"wish": "fast"}, {"effort": "high"}):
        assert "There are no fast kernels: numba is not installed" in refusal(choose_quantizer, tensors(), **wishes)


def test_a_numba_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Loaded:
        raise ImportError("Numba needs NumPy 2.3 or less\nand more lines")

    monkeypatch.setattr(quantizer, "WORTH_IT", 1)
    monkeypatch.setattr(kernel_calls, "is_installed", lambda: True)
    monkeypatch.setattr(kernel_calls, "load_kernels", fail)
    choice = choose_quantizer(tensors())
    assert choice.quantizer is GGML
    assert choice.note == "Quantizer: llama.cpp's; numba does not work here (Numba needs NumPy 2.3 or less)."


@pytest.mark.parametrize(
    ("mixture", "wish", "says"),
    [
        ("Q4_K_M", "ggml", "llama.cpp's own functions have no --effort high"),
        ("Q8_0", "auto", "--effort high has no effect on any type here"),
    ],
)
def test_an_effort_that_cannot_be_made_is_refused(mixture: str, wish: str, says: str) -> None:
    assert says in refusal(choose_quantizer, tensors(mixture), wish, "high")


@needs_numba
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kernel_that_errs_is_found_out(kind: ggml.GgmlType, weighed: bool) -> None:
    kernel = load_kernels([kind], with_importance=weighed).kernels[kind]

    def wrong(*arguments: Any, last: int) -> bool:
        is_finite = kernel(*arguments)
        arguments[6][-last:] ^= 0x55
        return is_finite

    half = ggml.row_bytes(kind, ggml.block_size(kind)[0]) * 300
    assert judge(kind, kernel, "normal", weighed) == "same"
    assert judge(kind, partial(wrong, last=1), "normal", weighed) in ("good", "bad")
    assert judge(kind, partial(wrong, last=half), "normal", weighed) == "bad"


@needs_numba
def test_a_kernel_that_errs_with_an_importance_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = kernel_calls.quantize

    def wrong(kernel: Any, kind: ggml.GgmlType, rows: Any, importance: Any, *more: Any) -> Any:
        return real(kernel, kind, rows, None, *more)

    weighed = [replace(one, importance=np.arange(one.columns, dtype=np.float32)) for one in tensors() if one.rows > 1]
    assert [kind.name for kind in choose_quantizer(weighed, "fast").quantizer.kernels] == ["Q4_K", "Q6_K"]
    monkeypatch.setattr(kernel_calls, "quantize", wrong)
    choice = choose_quantizer([*tensors(), *weighed], "fast")
    assert not choice.quantizer.kernels
    assert "llama.cpp's for Q4_K Q6_K" in str(choice.note)
    assert choose_quantizer(tensors(), "fast").quantizer.kernels.keys() == {ggml.GgmlType.Q4_K, ggml.GgmlType.Q6_K}


@needs_numba
@pytest.mark.parametrize("weighed", [False, True])
def test_effort_high_is_better_with_an_importance_too(weighed: bool) -> None:
    kind = ggml.GgmlType.Q6_K  # compiles fastest
    kernel = load_kernels([kind], weighed, ROUNDS["high"]).kernels[kind]
    assert judge(kind, kernel, "high", weighed) == "better"


@needs_numba
def test_a_kernel_that_is_bad_is_used_by_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantizer, "judge", lambda kind, *_: "bad" if kind == ggml.GgmlType.Q4_K else "same")
    choice = choose_quantizer(tensors(), "fast")
    assert [kind.name for kind in choice.quantizer.kernels] == ["Q6_K"]
    assert "llama.cpp's for Q4_K, where a sample shows that the kernels do otherwise" in str(choice.note)


@needs_numba
@pytest.mark.parametrize("weights", ["gaussian", "heavy-tailed", "bf16-rounded", "sparse"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_effort_high_lowers_the_error_in_the_same_format(kind: ggml.GgmlType, weights: str) -> None:
    kernel = load_kernels([kind], effort=ROUNDS["high"]).kernels[kind]
    rows = WEIGHTS[weights](np.random.default_rng(2), (64, 512))
    packed = kernel_calls.quantize(kernel, kind, rows_in_memory(rows), None, lambda: rows, ROUNDS["high"])
    assert packed is not None

    def error(one: "np.typing.NDArray[np.uint8]") -> float:
        return float(np.square(ggml.dequantize(kind, one, 512) - rows, dtype=np.float64).sum())

    assert error(packed) < error(ggml.quantize(kind, rows))


@needs_numba
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_effort_high_survives_every_weight(kind: ggml.GgmlType, weights: str) -> None:
    """What a reader gets is finite wherever ggml's is, and no block is farther away: the search begins with ggml's result."""
    kernel = load_kernels([kind], effort=ROUNDS["high"]).kernels[kind]
    rows = WEIGHTS[weights](np.random.default_rng(6), (37, 256))
    packed = kernel_calls.quantize(kernel, kind, rows_in_memory(rows), None, lambda: rows, ROUNDS["high"])
    assert packed is not None
    with np.errstate(all="ignore"):
        ours = np.square(ggml.dequantize(kind, packed, 256).astype(np.float64) - rows).sum(axis=1)
        theirs = np.square(ggml.dequantize(kind, ggml.quantize(kind, rows), 256).astype(np.float64) - rows).sum(axis=1)
    assert not (np.isfinite(theirs) & ~np.isfinite(ours)).any()
    # The search adds up in float32, and a reader's d * q is rounded once more.
    assert (ours <= (1 + 1e-5) * theirs + 1e-40)[np.isfinite(theirs)].all()


@needs_numba
def test_the_file_says_who_made_it(tmp_path: Path) -> None:
    def keys(name: str, mixture: str = "Q4_K_M", **wishes: Any) -> tuple[str, str]:
        conversion = prepare(demo_checkpoint(), mixture, name=name)
        choice = choose_quantizer(conversion.plan.tensors, **wishes)
        convert(conversion, tmp_path / name, 2, quantizer=choice.quantizer)
        file = read_gguf(tmp_path / name)
        return file.text("bq.quantizer"), file.text("bq.effort")

    assert keys("a") == ("ggml", "")
    assert keys("b", wish="fast") == ("fast", "")
    assert keys("c", effort="high") == ("fast", "high")
    assert keys("d", mixture="Q8_0", wish="fast") == ("ggml", "")
    assert abs((tmp_path / "c").stat().st_size - (tmp_path / "b").stat().st_size) < 100  # a key more


@needs_numba
def test_a_damaged_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of its files are cut, in the place of the others are folders."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert in_a_new_process(tmp_path) == "compiled"
    assert in_a_new_process(tmp_path) == "cached"
    kept = [path for path in kernel_calls.cache_folder().rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert kept
    for number, path in enumerate(sorted(kept)):
        data = path.read_bytes()
        path.unlink()
        if number % 2:
            path.mkdir()
        else:
            path.write_bytes(data[: len(data) // 2])
    assert in_a_new_process(tmp_path) == "compiled"


class Failing:
    """A kernel whose cache makes it fail until it is made anew ("flush"), done without ("disable"), or for ever."""

    def __init__(self, until: str) -> None:
        self._cache, self.stats, self.done = self, self, list[str]()
        self.cache_misses, self.until = dict[str, int](), until

    def flush(self) -> None:
        self.done.append("flush")
        raise OSError(28, "No space left on device")

    def disable(self) -> None:
        self.done.append("disable")

    def __call__(self, *_: object) -> bool:
        if self.until not in self.done:
            raise OSError(28, "No space left on device")
        return True


def test_a_kernel_is_called_again_without_its_cache_and_an_error_that_stays_is_raised() -> None:
    def make_ready(kernel: Failing) -> bool:
        return kernel_calls._make_ready(kernel, ggml.GgmlType.Q4_K, False, None)

    assert not make_ready(flushed := Failing("flush"))
    assert flushed.done == ["flush"]
    assert make_ready(disabled := Failing("disable"))
    assert disabled.done == ["flush", "disable"]
    with pytest.raises(OSError, match="No space"):
        make_ready(Failing("never"))


@needs_numba
def test_a_cache_that_cannot_be_written_is_done_without_and_the_sources_folder_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kernels").write_text("not a folder")
    assert in_a_new_process(tmp_path) == "compiled"
    sources = ROOT / "tests" / "support"
    assert not [path for path in sources.rglob("*") if path.suffix in (".nbi", ".nbc")]


def in_a_new_process(cache: Path) -> str:
    """Load tests.support.quick_kernel as a kernel is loaded, and use it."""
    import os
    import subprocess
    import sys

    code = (
        "import numpy as np; from bq.convert import kernel_calls as calls; from bq.runtime.ggml import GgmlType as T;"
        "calls._PACKAGE, calls._MODULES = 'tests.support', {T.Q6_K: 'quick_kernel'};"
        "found = calls.load_kernels([T.Q6_K]); rows = calls.rows_in_memory(np.zeros((3, 512), np.float32));"
        "assert (calls.quantize(found.kernels[T.Q6_K], T.Q6_K, rows, None, lambda: None) == 512 % 251).all();"
        "print('compiled' if found.compiled else 'cached')"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_imports_numba_before_it_is_needed() -> None:
    import subprocess
    import sys

    code = (
        "import sys, bq.convert.convert, bq.convert.quantizer, bq.tui.commands.convert; print('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
