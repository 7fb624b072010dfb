"""The verdict on a file's weights: bit for bit what the checkpoint gives, within what their types allow, or wrong, and why."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bq.convert.convert import Conversion
from bq.convert.importance import Importance, column_weights
from bq.convert.plan import PlannedTensor
from bq.convert.quantizer import GGML, Effort, Quantizer, choose_quantizer
from bq.convert.verify.blas import one_thread_each
from bq.convert.verify.causes import Cause, find_cause
from bq.convert.verify.check import Check, failed, listed, make_again, mend, passed, warned
from bq.convert.verify.comparison import Compared, compare
from bq.convert.verify.limits import block_error, row_error
from bq.runtime.errors import UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say

_FRUITLESS = 12
_LINES = 6  # of damaged tensors that are named one by one
# Blocks of a tensor that differ from a fresh quantization while those of its other tensors do not: fewer are damage.
_DAMAGED_SHARE, _DAMAGED_BLOCKS = 0.01, 8
# Another build of llama.cpp rounds some blocks differently, in most tensors of a type; damage is in few.
_ROUNDING_SHARE, _ROUNDING_TENSORS = 0.5, 4


@dataclass(frozen=True)
class Weights:
    """All tensors of a file: those bit for bit, those within limits, the damaged and the wrong ones."""

    exact: tuple[Compared, ...]
    close: tuple[Compared, ...]
    damaged: tuple[Compared, ...]
    wrong: tuple[Compared, ...]


def weight_checks(
    file: GgufFile,
    conversion: Conversion,
    importance: Importance | None,
    threads: int,
    progress: Callable[[float, str], None],
) -> Iterator[Check]:
    """A line for what is right, and one for each fault. `importance` is the matrix that the file was made with, if known."""
    tensors = [_as_in_file(file, tensor, importance) for tensor in conversion.plan.tensors]
    quantizer = file_quantizer(file, tensors, lambda text: progress(0.0, text))
    weights = judge(list(compare(file, tensors, quantizer, threads, progress)))
    if weights.exact or weights.close:
        yield _right(weights)
    yield from _damage(weights.damaged)
    yield from _faults(_causes(file, weights.wrong, tensors), conversion)


def _causes(file: GgufFile, wrong: Sequence[Compared], tensors: Sequence[PlannedTensor]) -> list[Cause]:
    """The cause of each. Where some are like no tensor of the checkpoint, the others are not held against all of them."""
    found: list[Cause] = []
    with one_thread_each():  # adapters are multiplied for a row at a time
        for one in wrong:
            is_hopeless = sum(cause.kind == "unknown" for cause in found) >= _FRUITLESS
            found.append(find_cause(file, one, () if is_hopeless else tensors))
    return found


def _as_in_file(file: GgufFile, tensor: PlannedTensor, importance: Importance | None) -> PlannedTensor:
    """The tensor in the type that the file has it in."""
    kind = file.tensors[tensor.name].kind
    weights = column_weights(importance, tensor.name, tensor.column_shape, kind)
    return replace(tensor, kind=kind, importance=weights)


def file_quantizer(file: GgufFile, tensors: Sequence[PlannedTensor], begin: Callable[[str], None]) -> Quantizer:
    """What would make the file's bytes again, as far as this machine has it."""
    effort: Effort = "high" if file.text("bq.effort") == "high" else "normal"
    try:
        return choose_quantizer(tensors, "auto", effort, begin).quantizer
    except UsageError:  # without numba
        return GGML


def judge(every: Sequence[Compared]) -> Weights:
    """Sort the tensors by verdict."""
    rounded = {kind for kind in {one.entry.kind for one in every} if _rounds_otherwise(kind, every)}
    exact, close, damaged, wrong = [], [], [], []
    for one in every:
        if one.different == 0:
            exact.append(one)
        elif _differs_in_few(one, rounded):
            damaged.append(one)
        elif _is_wrong(one):
            wrong.append(one)
        elif _has_strays(one):
            damaged.append(one)
        else:
            close.append(one)
    return Weights(tuple(exact), tuple(close), tuple(damaged), tuple(wrong))


def _rounds_otherwise(kind: GgmlType, every: Iterable[Compared]) -> bool:
    """Whether most tensors of a type have a few blocks that this machine quantizes otherwise."""
    tried = [one.different > 0 for one in every if one.entry.kind == kind and one.different is not None]
    return len(tried) >= _ROUNDING_TENSORS and sum(tried) >= _ROUNDING_SHARE * len(tried)


def _is_wrong(one: Compared) -> bool:
    """More rows are too far away than damage of the disk would reach."""
    rows = one.planned.rows
    return _bad_rows(one) > max(_DAMAGED_SHARE * rows, min(_DAMAGED_BLOCKS, rows / 4))


def _bad_rows(one: Compared) -> int:
    return int((one.errors > row_error(one.entry.kind)).sum())


def _differs_in_few(one: Compared, rounded: set[GgmlType]) -> bool:
    few = one.different is not None and one.different <= max(_DAMAGED_BLOCKS, _DAMAGED_SHARE * one.blocks)
    return few and one.entry.kind not in rounded


def _has_strays(one: Compared) -> bool:
    """Rows or blocks that are further away than the type allows."""
    limit = block_error(one.entry.kind)
    return _bad_rows(one) > 0 or (limit is not None and one.worst.error > limit)


def _right(weights: Weights) -> Check:
    exact, close = weights.exact, weights.close
    every = len(exact) + len(close) + len(weights.damaged) + len(weights.wrong)
    parts = []
    if exact:
        parts.append(
            say(
                f"{len(exact)} of {every} tensors are bit for bit what this checkpoint gives",
                f"{every} 个张量中有 {len(exact)} 个与此检查点生成的结果逐位一致",
            )
        )
    if close:
        parts.append(
            say(
                f"{len(close)} of {every} are as near as their types allow ({_errors(close)})",
                f"{every} 个张量中有 {len(close)} 个的误差在其类型允许范围内（{_errors(close)}）",
            )
        )
    return passed(
        "weights",
        say("; ", "；").join(parts) + say(".", "。"),
        tensors=every,
        exact=len(exact),
        close=len(close),
        bits_per_weight=8
        * sum(one.entry.size_bytes for one in (*exact, *close))
        / sum(one.planned.weights for one in (*exact, *close)),
        errors={one.name: one.rms for one in (*exact, *close)},
        matrix_error=_root_mean_square([one.rms for one in (*exact, *close) if one.planned.is_matrix]),
    )


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else 0.0


def _errors(tensors: Sequence[Compared]) -> str:
    """The error of each type: the root of the mean square over its tensors, relative."""
    kinds = sorted({one.entry.kind for one in tensors})
    means = {kind: _root_mean_square([one.rms for one in tensors if one.entry.kind == kind]) for kind in kinds}
    return listed((f"{kind.name} {mean:.2g}" for kind, mean in means.items()), 8)


def _damage(damaged: Sequence[Compared]) -> Iterator[Check]:
    for one in damaged[:_LINES]:
        place = one.places[0] if one.places else one.worst
        more = (one.different or 1) - 1
        others = say(f" and {more} other{'s' * (more > 1)}", f" 等 {more + 1} 个块") if more else ""
        yield failed(
            "weights",
            say(
                f"{one.name} is damaged: row {place.row:,}, block {place.block:,}{others}.",
                f"{one.name} 已损坏：第 {place.row:,} 行第 {place.block:,} 块{others}。",
            ),
            make_again(),
            cause="damaged",
            tensor=one.name,
            row=place.row,
            block=place.block,
            blocks=one.different,
        )
    if len(damaged) > _LINES:
        more = len(damaged) - _LINES
        text = say(f"{more} more tensors are damaged.", f"还有 {more} 个张量已损坏。")
        names = [one.name for one in damaged[_LINES:]]
        yield failed("weights", text, make_again(), cause="damaged", tensors=names)


def _faults(causes: Sequence[Cause], conversion: Conversion) -> Iterator[Check]:
    """One line for each kind of cause, but one for each swapped tensor."""
    for kind in dict.fromkeys(cause.kind for cause in causes):
        group = [cause for cause in causes if cause.kind == kind]
        if kind == "other-tensor":
            yield from map(_other_tensor, group)
        elif kind == "experts":
            yield _experts(group)
        elif kind == "order":
            yield _order(group, conversion)
        else:
            yield _fault(kind, group)


def _other_tensor(cause: Cause) -> Check:
    return failed(
        "weights",
        say(
            f"{cause.tensor.name} holds what should be {cause.other}.",
            f"{cause.tensor.name} 中存放的是 {cause.other} 的内容。",
        ),
        make_again(),
        cause="other-tensor",
        tensor=cause.tensor.name,
        other=cause.other,
    )


def _experts(group: Sequence[Cause]) -> Check:
    names, (found, place) = [cause.tensor.name for cause in group], group[0].other.split()
    return failed(
        "weights",
        say(
            f"Experts are in another order: {listed(names)} (in {names[0]} the checkpoint's expert {found} stands as {place}).",
            f"专家的顺序不同：{listed(names)}（{names[0]} 中，检查点的专家 {found} 位于第 {place} 位）。",
        ),
        make_again(),
        cause="experts",
        tensors=names,
    )


def _order(group: Sequence[Cause], conversion: Conversion) -> Check:
    """With ALiBi the order of a head's rows says nothing, as long as q and k have the same."""
    names = [cause.tensor.name for cause in group]
    text = say(
        f"q and k are not reordered for llama.cpp: the rows of {listed(names)} stand as in the checkpoint.",
        f"q 和 k 未按 llama.cpp 的要求重排：{listed(names)} 的行仍是检查点的顺序。",
    )
    blocks = [name.rsplit(".", 2)[0] for name in names]
    if conversion.config.position == "alibi" and all(blocks.count(block) == 2 for block in blocks):
        return warned("weights", text + say(" With ALiBi that changes nothing.", "使用 ALiBi 时这没有影响。"))
    return failed("weights", text, make_again(), cause="order", tensors=names)


def _fault(kind: str, group: Sequence[Cause]) -> Check:
    names = [cause.tensor.name for cause in group]
    worst = max(group, key=lambda cause: cause.tensor.rms).tensor
    row = int(np.argmax(worst.errors))
    texts = {
        "zeros": (
            f"All zeros, where the checkpoint has weights: {listed(names)}.",
            f"全为零，而检查点中有权重：{listed(names)}。",
        ),
        "raw-head": (
            "NormHead is left out: output.weight is the checkpoint's lm_head with its rows not normalised.",
            "遗漏了 NormHead：output.weight 是检查点的 lm_head，各行未归一化。",
        ),
        "normalised-head": (
            "output.weight is normalised, and this checkpoint has no NormHead.",
            "output.weight 被归一化，而此检查点没有 NormHead。",
        ),
        "scaled": (
            f"Rows have the checkpoint's direction, but other lengths: {listed(names)}.",
            f"各行方向与检查点一致，但长度不同：{listed(names)}。",
        ),
        "rows": (
            f"Some rows are not the checkpoint's: {listed(names)} (row {row:,} of {worst.name} is off by {worst.errors[row]:.0%}).",
            f"部分行与检查点不符：{listed(names)}（{worst.name} 第 {row:,} 行误差 {worst.errors[row]:.0%}）。",
        ),
        "unknown": (
            f"{len(names)} tensors are not this checkpoint's: {listed(names)} (off by {worst.rms:.0%}).",
            f"{len(names)} 个张量不属于此检查点：{listed(names)}（误差 {worst.rms:.0%}）。",
        ),
    }
    remedy = mend() if kind == "raw-head" else make_again()
    return failed("weights", say(*texts[kind]), remedy, cause=kind, tensors=names)
