"""A GGUF file held against the checkpoint that it was made from: every tensor, the vocabulary, and what it computes.

No torch, and no more memory than some chunks of rows: checkpoint and file are mapped.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bq.convert.adapter.read import Adapter
from bq.convert.convert import Conversion, prepare
from bq.convert.importance import Importance
from bq.convert.plan import PlannedTensor
from bq.convert.verify.check import Check, failed, listed, passed
from bq.convert.verify.logit_checks import logit_checks
from bq.convert.verify.oracle import oracle_of
from bq.convert.verify.token_checks import token_checks
from bq.convert.verify.weight_checks import weight_checks
from bq.runtime.adapters import merged_adapters
from bq.runtime.errors import BqError, UsageError
from bq.runtime.evaluation.texts import sample_text
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.language import say
from bq.runtime.structure import check_structure, has_no_graph
from bq.runtime.values import LoadOptions

DEFAULT_TOKENS = 64
_LONGEST_NAME = 4096  # of a file; longer ones are words


@dataclass(frozen=True)
class Against:
    """How to compare. `text` is the user's own, None the bundled one; `tokens` 0 leaves the logits out; `importance`
    is the matrix that the file was made with, if it is at hand, `adapters` are those that were merged into it.

    `progress` hears the part of a step that is done, and what is worked on.
    """

    threads: int
    tokens: int = DEFAULT_TOKENS
    text: str | None = None
    load: LoadOptions | None = None
    importance: Importance | None = None
    adapters: tuple[Adapter, ...] = ()
    progress: Callable[[float, str], None] = lambda part, what: None


def check_against(path: Path, folder: Path, how: Against) -> Iterator[Check]:
    """A line for each step. Raises BqError for a checkpoint that cannot be read, and for a file without sound structure."""
    file = read_gguf(path)
    if not has_no_graph(file):
        check_structure(file)
    refuse_other_adapters(path, how.adapters)
    conversion = prepare(folder, "F32", adapters=how.adapters)
    shapes = _shapes(file, conversion.plan.tensors)
    yield shapes
    if not has_no_graph(file):
        yield from token_checks(path, file, conversion)
    if shapes.verdict == "failure":
        return
    weight_error, are_right = 0.0, True
    for check in weight_checks(file, conversion, how.importance, how.threads, how.progress):
        weight_error = check.details.get("matrix_error", weight_error)
        are_right &= check.verdict != "failure"
        yield check
    texts = probe_ids(conversion, how.tokens, how.text)
    if texts and not has_no_graph(file):
        yield from logit_checks(path, conversion, texts, weight_error, are_right, how.load, how.progress)


def refuse_other_adapters(path: Path, adapters: Sequence[Adapter]) -> None:
    """Raises UsageError for a file that was merged with adapters, unless as many are given, of the same weights: beside the base
    alone, or with others, it would be wrong without a fault of its own. Their names may be others.
    """
    try:
        merged = merged_adapters(read_gguf(path))
    except BqError:  # the checks of the file say what is wrong with it
        return
    if merged and [_weight(label) for label in merged] != [adapter.weight for adapter in adapters]:
        given = " ".join(f"--adapter {label}" for label in merged)
        raise UsageError(
            say(
                f"{path.name} was merged with {', '.join(merged)}: its weights are not those of the base alone.",
                f"{path.name} 合并了 {'、'.join(merged)}：其权重并非基座本身的权重。",
            ),
            say(f"Give the adapters' folders too, as then: {given}.", f"请像当时一样给出适配器的文件夹：{given}。"),
        )


def _weight(label: str) -> float:
    """The weight of NAME or NAME:WEIGHT."""
    try:
        return float(label.rpartition(":")[2])
    except ValueError:
        return 1.0


def _shapes(file: GgufFile, tensors: Sequence[PlannedTensor]) -> Check:
    planned = {tensor.name: list(tensor.shape) for tensor in tensors}
    found = {entry.name: list(entry.shape) for entry in file.tensors.values()}
    wrong = [
        f"{name} {found.get(name, '—')} ({planned.get(name, '—')})"
        for name in {**planned, **found}
        if planned.get(name) != found.get(name)
    ]
    if wrong:
        return failed(
            "tensors",
            say(
                f"{len(wrong)} tensors have another shape than the checkpoint's (in brackets): {listed(wrong)}.",
                f"{len(wrong)} 个张量的形状与检查点（括号内）不同：{listed(wrong)}。",
            ),
            say("Give the checkpoint that the file was made from.", "请给出生成此文件的检查点。"),
            different=wrong,
        )
    return passed(
        "tensors",
        say(f"{len(planned)} tensors have the checkpoint's shapes.", f"{len(planned)} 个张量的形状与检查点一致。"),
        tensors=len(planned),
    )


def probe_ids(conversion: Conversion, tokens: int, text: str | None) -> list[list[int]]:
    """The ids that are computed with: the beginning of the user's text, or of both halves of the bundled one (zh and en)."""
    ids = oracle_of(conversion.vocabulary).encode(sample_text("evaluation") if text is None else text)
    tokens = min(tokens, len(ids), conversion.config.context)
    if text is not None or tokens < 2:
        return [ids[:tokens]] if tokens else []
    first, middle = tokens - tokens // 2, len(ids) // 2
    return [ids[:first], ids[middle : middle + tokens // 2]]


def read_text(given: str) -> str:
    """The text that the user means: a file's, or the words themselves. Raises UsageError if there is none."""
    path = Path(given).expanduser()
    is_file = len(given) < _LONGEST_NAME and os.path.isfile(path)
    text = path.read_text(encoding="utf-8", errors="replace") if is_file else given
    if not text.strip():
        raise UsageError(
            say("The text is empty.", "文本为空。"), say("Give some words, or a file.", "请给出文字或文件。")
        )
    return text
