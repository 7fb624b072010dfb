"""What a LoRA adapter's GGUF file changes: the matrices, the ranks of their pairs, and how much of each product is added."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bq.convert.inspect.gguf_remains import Remains, TensorLine
from bq.runtime.adapters import ALPHA_KEY, EMBEDDING, LORA_A, LORA_B
from bq.runtime.errors import BqError
from bq.runtime.language import say

TYPE = "adapter"  # general.type of such a file


@dataclass(frozen=True)
class ChangedMatrix:
    """A matrix of the model that a pair is added to, the pair's rank, and the type that it is stored in."""

    name: str
    rank: int
    kind: str


@dataclass(frozen=True)
class AdapterReport:
    """`base` is the model it was trained for, as the file names it; what is added is weight * alpha / rank * B @ A."""

    path: Path
    size_bytes: int
    name: str
    architecture: str
    base: str
    alpha: float
    weights: int
    matrices: tuple[ChangedMatrix, ...]
    problems: tuple[BqError, ...]


def describe_adapter(remains: Remains) -> AdapterReport:
    """The report of a file that was read already."""
    file = remains.file
    return AdapterReport(
        path=file.path,
        size_bytes=file.size_bytes,
        name=file.text("general.name"),
        architecture=file.text("general.architecture"),
        base=file.text("general.base_model.0.name") or file.text("general.base_model.0.repo_url"),
        alpha=file.number(ALPHA_KEY, 0.0),
        weights=sum(one.weights for one in remains.tensors),
        matrices=tuple(_matrices(remains.tensors)),
        problems=tuple(_problems(remains)),
    )


def _matrices(tensors: tuple[TensorLine, ...]) -> Iterator[ChangedMatrix]:
    """By what stands before `.lora_a`, which is [rank, columns], but [rows, rank] for embeddings (bq.convert.adapter.gguf)."""
    second = {one.name.removesuffix(LORA_B) for one in tensors if one.name.endswith(LORA_B)}
    for one in tensors:
        name = one.name.removesuffix(LORA_A)
        if one.name.endswith(LORA_A) and name in second:
            yield ChangedMatrix(name, one.shape[-1 if name == EMBEDDING else 0] if one.shape else 0, one.kind)


def _problems(remains: Remains) -> Iterator[BqError]:
    if remains.fault is not None:
        yield remains.fault
    elif remains.file.text("adapter.type") != "lora":
        kind = remains.file.text("adapter.type")
        yield BqError(say(f"It is an adapter of the type {kind!r}, not lora.", f"适配器类型为 {kind!r}，而不是 lora。"))
