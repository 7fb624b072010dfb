"""LoRA adapters in GGUF files, added to a model while it runs: looked at in Python before C sees them, then set on its context.

llama.cpp computes W·x + scale * B·(A·x) for each matrix that an adapter changes, with scale = weight * alpha / rank; the model's
own file stays as it is, and what the KV cache holds is of the model with the adapters.
"""

import ctypes
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError, UsageError
from bq.runtime.ggml import GgmlType
from bq.runtime.gguf_file import GgufFile, TensorEntry, read_gguf
from bq.runtime.language import say
from bq.runtime.llama import errors_of, library, listening
from bq.runtime.session import ModelSource
from bq.runtime.session_file import Fingerprint

ADAPTERS_KEY = "bq.adapters"  # of a model's file: the adapters that were merged into it, NAME or NAME:WEIGHT
LORA_A, LORA_B = ".lora_a", ".lora_b"
ALPHA_KEY = "adapter.lora.alpha"
EMBEDDING = "token_embd.weight"
_INVOCATION_KEY = "adapter.alora.invocation_tokens"
_MOST_WEIGHT = 1e3
_KINDS = (GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0)  # that programs write adapters in


@dataclass(frozen=True)
class GivenAdapter:
    """An adapter as the user gives it, PATH or PATH:WEIGHT: a GGUF file to run with, or a folder to merge."""

    path: Path
    weight: float = 1.0

    @property
    def text(self) -> str:
        """The same for a process in another folder."""
        return f"{self.path.absolute()}:{self.weight!r}"


def given_adapter(text: str) -> GivenAdapter:
    """PATH or PATH:WEIGHT. Raises UsageError for a weight that is none."""
    path, colon, weight = text.rpartition(":")
    if not colon or not path or Path(text).expanduser().exists() or weight.startswith(("/", "\\")):
        return GivenAdapter(Path(text).expanduser())
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < abs(value) <= _MOST_WEIGHT:
        raise UsageError(
            say(f"{weight!r} is no weight for {path}.", f"{weight!r} 不是 {path} 的有效权重。"),
            say("Give PATH:WEIGHT, such as my-adapter:0.5.", "请写作 路径:权重，例如 my-adapter:0.5。"),
        )
    return GivenAdapter(Path(path).expanduser(), value)


def merged_adapters(file: GgufFile) -> tuple[str, ...]:
    """The labels of the adapters that were merged into a model's file when it was made."""
    labels = file.metadata.get(ADAPTERS_KEY)
    return tuple(label for label in labels if isinstance(label, str)) if isinstance(labels, list) else ()


def check_adapters(adapters: Sequence[GivenAdapter], base: GgufFile) -> None:
    """Raises BqError for a file that is no adapter, or none for this model."""
    for adapter in adapters:
        check_adapter(read_adapter(adapter.path), base)


def attach(model: Any, context: Any, base: GgufFile, adapters: Sequence[GivenAdapter]) -> None:
    """Set the adapters on a context of llama.cpp's `model`, which frees them when it is freed.

    Raises BqError for a file that is no adapter, or none for this model.
    """
    if not adapters:
        return
    check_adapters(adapters, base)
    lib, count = library(), len(adapters)
    with listening() as heard:
        loaded = [lib.llama_adapter_lora_init(model, os.fsencode(adapter.path)) for adapter in adapters]
        pointers = (lib.llama_adapter_lora_p_ctypes * count)(*loaded)
        scales = (ctypes.c_float * count)(*(adapter.weight for adapter in adapters))
        is_set = all(loaded) and lib.llama_set_adapters_lora(context, pointers, count, scales) == 0
    if not is_set:
        names, said = ", ".join(adapter.path.name for adapter in adapters), errors_of(heard)
        raise BqError(
            say(f"llama.cpp could not use {names}: {said}.", f"llama.cpp 无法使用 {names}：{said}。"),
            say("`--debug` shows llama.cpp's log.", "`--debug` 可显示 llama.cpp 的日志。"),
        )


def read_adapter(path: Path) -> GgufFile:
    """An adapter's file, not checked yet. Raises BqError for a folder, and for what is no GGUF file."""
    if path.is_dir():
        raise UsageError(
            say(
                f"{path} is a folder; an adapter for a model that runs is a GGUF file.",
                f"{path} 是文件夹；运行时的适配器须为 GGUF 文件。",
            ),
            say(
                f"Make it of PEFT's folder: `bq convert BASE --adapter {path.name} --adapter-gguf`.",
                f"可由 PEFT 的文件夹生成：`bq convert 基座 --adapter {path.name} --adapter-gguf`。",
            ),
        )
    return read_gguf(path)


def fingerprint_of(adapters: Sequence[GivenAdapter]) -> Fingerprint:
    """What a state that was computed with these adapters depends on; nothing without any."""
    found = []
    for adapter in adapters:
        file = ModelSource.of(read_adapter(adapter.path), "").fingerprint()
        found.append(f"{file.get('metadata')}-{file.get('weights')}:{adapter.weight!r}")
    return {"adapters": " ".join(sorted(found))} if found else {}


def check_adapter(adapter: GgufFile, base: GgufFile) -> None:
    """Raises BqError unless the file is a LoRA adapter for the model `base`."""
    kind, lora = adapter.text("general.type"), adapter.text("adapter.type")
    if (kind, lora) != ("adapter", "lora"):
        raise _refused(
            adapter,
            say("it is no LoRA adapter", "它不是 LoRA 适配器"),
            say(
                "`bq convert BASE --adapter DIR --adapter-gguf` makes one.",
                "可用 `bq convert 基座 --adapter 文件夹 --adapter-gguf` 生成。",
            ),
        )
    if adapter.architecture != base.architecture:
        raise _refused(
            adapter,
            say(
                f"it is for the architecture {adapter.architecture}, the model is {base.architecture}",
                f"它用于架构 {adapter.architecture}，而模型是 {base.architecture}",
            ),
        )
    if _INVOCATION_KEY in adapter.metadata:
        raise _refused(adapter, say("it is an activated LoRA, which bq does not run", "它是 aLoRA，bq 不支持"))
    for name in adapter.tensors:
        _check_pair(adapter, base, name)


def _check_pair(adapter: GgufFile, base: GgufFile, name: str) -> None:
    matrix = name.removesuffix(LORA_A).removesuffix(LORA_B)
    a, b = adapter.tensors.get(matrix + LORA_A), adapter.tensors.get(matrix + LORA_B)
    if matrix == name or a is None or b is None:
        raise _refused(adapter, say(f"{name} is not one of a pair", f"{name} 不成对"))
    if a.kind not in _KINDS or b.kind not in _KINDS:
        raise _refused(
            adapter, say(f"{matrix} has factors of another type than floats", f"{matrix} 的因子不是浮点类型")
        )
    if matrix not in base.tensors:
        raise _refused(adapter, say(f"the model has no {matrix}", f"模型没有 {matrix}"))
    if _shape(a, b, matrix == EMBEDDING) != base.tensors[matrix].shape:
        raise _refused(
            adapter,
            say(
                f"{a.name} {list(a.shape)} and {b.name} {list(b.shape)} do not fit {matrix} {list(base.tensors[matrix].shape)}",
                f"{a.name} {list(a.shape)} 与 {b.name} {list(b.shape)} 不符合 {matrix} {list(base.tensors[matrix].shape)}",
            ),
        )


def _shape(a: TensorEntry, b: TensorEntry, is_embedding: bool) -> tuple[int, ...]:
    """Of the matrix that a pair is added to: A is [rank, columns], B [rows, rank]; of the embedding A is [rows, rank], B
    [columns, rank] (llama-adapter.cpp)."""
    if len(a.shape) != 2 or len(b.shape) != 2:
        return ()
    if is_embedding:
        return (a.shape[0], b.shape[0]) if a.shape[1] == b.shape[1] else ()
    return (b.shape[0], a.shape[1]) if a.shape[0] == b.shape[1] else ()


def _refused(adapter: GgufFile, what: str, remedy: str | None = None) -> BqError:
    name = adapter.path.name
    return BqError(
        say(f"{name} cannot be added to this model: {what}.", f"{name} 不能加到此模型上：{what}。"),
        remedy or say("Give an adapter of this model.", "请给出此模型的适配器。"),
    )
