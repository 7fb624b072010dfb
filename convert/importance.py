"""An importance matrix on its way into a conversion: what each column's errors weigh, for every tensor that it knows.

A matrix that does not fit is refused with the tensor's name. What llama.cpp lets pass, passes, and `notes` tells it: matrices
without an entry where the type can do without, entries for tensors that are not in the model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.imatrix_file import ImportanceMatrix
from bq.runtime.ggml import GgmlType
from bq.runtime.language import say

F32Array = npt.NDArray[np.float32]
# ggml multiplies and adds in float32: where that overflows, the searches below 3 bits end the process (GGML_ASSERT(scale >= 0)).
# Means of squares of activations are far below.
_MOST = 1e12
_EMBEDDING = "token_embd.weight"  # llama.cpp passes over an entry of another length here


@dataclass(frozen=True)
class Importance:
    """An importance matrix and the name it was given by, which the file will carry.

    `matrix` is None while it is still to be gathered: types are chosen as with one.
    """

    matrix: ImportanceMatrix | None = None
    file: str = ""


TO_COME = Importance()


def column_weights(importance: Importance | None, name: str, shape: tuple[int, ...], kind: GgmlType) -> F32Array | None:
    """What the errors of each column of a tensor weigh, [columns] or [experts, columns]; None if nothing is known.

    Raises BqError for an entry that does not fit.
    """
    if importance is None or importance.matrix is None or kind == GgmlType.F32:
        return None
    found = importance.matrix.importance(name)
    if found is None or (name == _EMBEDDING and found.size != prod(shape)):
        return None
    if found.size != prod(shape):
        experts = f"{shape[0]} × " if len(shape) > 1 else ""
        raise _misfit(
            importance,
            say(
                f"{name} has rows of {experts}{shape[-1]:,}, and its entry there has {found.size:,}",
                f"{name} 的行宽为 {experts}{shape[-1]:,}，而其中对应的条目为 {found.size:,}",
            ),
        )
    if not ((found >= 0) & (found <= _MOST)).all():
        raise _misfit(
            importance,
            say(
                f"its entry for {name} has values that no mean of squares has",
                f"其中 {name} 的条目含有均方值不可能有的数值",
            ),
        )
    return np.ascontiguousarray(found, np.float32).reshape(shape)


def refuse_without(importance: Importance | None, name: str, kind: GgmlType) -> None:
    """Raises the error for a tensor of a type that is no use without an importance of its columns."""
    if importance is None:
        raise UsageError(
            say(
                f"{name} would be {kind.name}, which is no use without an importance matrix.",
                f"{name} 将为 {kind.name}，该类型没有重要性矩阵就不可用。",
            ),
            say(
                "Make one with `bq imatrix` and give it with --imatrix, or let --calibrate do both.",
                "请用 `bq imatrix` 生成并以 --imatrix 给出，或用 --calibrate 一步完成。",
            ),
        )
    if importance.matrix is not None:
        raise _misfit(
            importance,
            say(
                f"it has no entry for {name}, which would be {kind.name}",
                f"它没有 {name} 的条目，而该张量将为 {kind.name}",
            ),
        )


def refuse_strange(importance: Importance | None, names: Sequence[str]) -> None:
    """Raises BqError for an importance matrix that has nothing for any of these tensors."""
    if importance is None or importance.matrix is None or set(names) & set(importance.matrix.entries):
        return
    first = next(iter(importance.matrix.entries), "")
    raise _misfit(
        importance,
        say(
            f"none of its tensors is in this model, the first is {first!r}",
            f"其中的张量都不在此模型中，第一个是 {first!r}",
        ),
    )


def notes(importance: Importance | None, names: Iterable[str]) -> list[str]:
    """What is told of an importance matrix that does not know all of these matrices, or more."""
    if importance is None or importance.matrix is None:
        return []
    wanted = [name for name in names if name not in ("output.weight", _EMBEDDING)]  # gathered by no one as a rule
    without = [name for name in wanted if name not in importance.matrix.entries]
    idle = sorted(set(importance.matrix.entries) - {*wanted, "output.weight", _EMBEDDING})
    found = []
    if without:
        found.append(
            say(
                f"{importance.file} knows nothing of {len(without)} matrices, the first is {without[0]}: they are quantized "
                "without it.",
                f"{importance.file} 中没有 {len(without)} 个矩阵的条目，第一个是 {without[0]}：这些矩阵的量化不使用它。",
            )
        )
    if idle:
        found.append(
            say(
                f"{importance.file} has {len(idle)} entries for tensors that this model has not, the first is {idle[0]!r}.",
                f"{importance.file} 有 {len(idle)} 个条目不属于此模型的张量，第一个是 {idle[0]!r}。",
            )
        )
    return found


def _misfit(importance: Importance, what: str) -> BqError:
    return BqError(
        say(f"{importance.file} does not fit: {what}.", f"{importance.file} 不适用：{what}。"),
        say("Make one from a file of this very model with `bq imatrix`.", "请用 `bq imatrix` 从此模型自己的文件生成。"),
    )
