"""An adapter's folder as PEFT saves it: its configuration, its pairs by module, and the tensors that it replaces whole.

Nothing is loaded: tensors stay in the file, read by the same readers as a checkpoint's, which execute nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bq.convert.adapter.config import CONFIG_NAME, AdapterConfig, read_config
from bq.convert.checkpoint import refuse_pointer
from bq.convert.safetensors_file import read_safetensors_file
from bq.convert.source import SourceTensor, aligned
from bq.convert.torch_file import read_torch_file
from bq.runtime import ggml
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
# MODULE.lora_A.weight, as get_peft_model_state_dict leaves it, or MODULE.lora_A.default.weight, as the model itself calls it; of
# an embedding MODULE.lora_embedding_A.
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(?:\.(?!weight$)[^.]+)?(?:\.weight)?")
# A module that is saved whole: as itself, or as one of its wrappers calls it.
_WHOLE = re.compile(r"(?P<module>.+?)(?:\.base_layer|\.modules_to_save(?:\.[^.]+)?)?\.weight")
_MOST_WEIGHT = 1e3
_CHECKED_ROWS = 1024


@dataclass(frozen=True)
class Pair:
    """The two factors of one module; of an embedding both are transposed."""

    a: SourceTensor
    b: SourceTensor
    is_embedding: bool

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True)
class Adapter:
    """An adapter that is to be added `weight` times. `pairs` are by module, `whole` by the name of the base's tensor."""

    folder: Path
    weight: float
    config: AdapterConfig
    pairs: Mapping[str, Pair]
    whole: Mapping[str, SourceTensor]
    file: Path = field(repr=False)

    @property
    def name(self) -> str:
        """The folder's name as text, without the colon that stands before a weight."""
        return self.folder.resolve().name.encode("utf-8", "replace").decode().replace(":", "-")

    @property
    def label(self) -> str:
        """NAME, or NAME:WEIGHT."""
        return self.name if self.weight == 1 else f"{self.name}:{repr(self.weight).removesuffix('.0')}"


def read_adapter(folder: Path, weight: float = 1.0) -> Adapter:
    """The adapter in a folder. Raises BqError for one that is damaged, or more than a LoRA."""
    if folder.name in (*_WEIGHTS, CONFIG_NAME) and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise _no_folder(folder)
    if not 0 < abs(weight) <= _MOST_WEIGHT:
        raise UsageError(
            say(
                f"The weight {weight:g} of {folder.name} makes no sense.", f"{folder.name} 的权重 {weight:g} 没有意义。"
            ),
            say("Give one like 0.5.", "请给出例如 0.5 的值。"),
        )
    config, path = read_config(folder), _weights_file(folder)
    pairs, whole = _sorted(path)
    if not pairs and not whole:
        raise _bad(path, say("it holds no adapter's tensors", "其中没有适配器的张量"))
    return Adapter(folder, weight, config, pairs, whole, path)


def _no_folder(path: Path) -> UsageError:
    if path.suffix == ".gguf" and path.is_file():
        return UsageError(
            say(
                f"{path.name} is a GGUF file; what is merged is read from PEFT's own files.",
                f"{path.name} 是 GGUF 文件；合并须用 PEFT 自己的文件。",
            ),
            say(
                f"Give the folder with {CONFIG_NAME}; an adapter's GGUF file goes to `bq run -m MODEL --adapter`.",
                f"请给出含 {CONFIG_NAME} 的文件夹；适配器的 GGUF 文件用于 `bq run -m 模型 --adapter`。",
            ),
        )
    return UsageError(
        say(f"{path} is not a folder.", f"{path} 不是文件夹。"),
        say(
            f"Give the folder of a LoRA adapter (the one with {CONFIG_NAME}).",
            f"请给出 LoRA 适配器的文件夹（含 {CONFIG_NAME}）。",
        ),
    )


def _weights_file(folder: Path) -> Path:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise BqError(
            say(
                f"{folder} holds neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}.",
                f"{folder} 中既无 {_WEIGHTS[0]} 也无 {_WEIGHTS[1]}。",
            ),
            say("Download the whole adapter.", "请下载完整的适配器。"),
        )
    refuse_pointer(path)
    return path


def _sorted(path: Path) -> tuple[dict[str, Pair], dict[str, SourceTensor]]:
    """The file's tensors as pairs and whole ones."""
    tensors = read_safetensors_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    halves: dict[tuple[str, bool], dict[str, SourceTensor]] = {}
    whole: dict[str, SourceTensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_float:
            raise _bad(
                path,
                say(
                    f"{name} is {tensor.dtype}, not bf16, f16 or f32",
                    f"{name} 为 {tensor.dtype}，而不是 bf16、f16 或 f32",
                ),
            )
        plain = name.removeprefix(_PREFIX)
        if pair := _PAIR.fullmatch(plain):
            key, place = (pair["module"], pair["embedding"] is not None), pair["part"]
            group: dict[str, SourceTensor] = halves.setdefault(key, {})
        elif ".lora_" not in plain and (module := _WHOLE.fullmatch(plain)):
            group, place = whole, module["module"] + ".weight"
        else:
            raise _bad(path, say(f"{name} is no part of a LoRA adapter", f"{name} 不是 LoRA 适配器的一部分"))
        if place in group:
            raise _bad(path, say(f"{name} stands there under two names", f"{name} 以两个名称重复出现"))
        group[place] = tensor
    return {module: _pair(path, module, found, is_embedding) for (module, is_embedding), found in halves.items()}, whole


def _pair(path: Path, module: str, found: Mapping[str, SourceTensor], is_embedding: bool) -> Pair:
    for part, other in ("AB", "BA"):
        if part not in found:
            raise _bad(
                path,
                say(f"{module} has lora_{other} and no lora_{part}", f"{module} 有 lora_{other} 而没有 lora_{part}"),
            )
    pair = Pair(found["A"], found["B"], is_embedding)
    if len(pair.a.shape) != 2 or len(pair.b.shape) != 2 or not pair.rank or pair.b.shape[1] != pair.rank:
        raise _bad(
            path,
            say(
                f"lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)} of {module} are no pair",
                f"{module} 的 lora_A {list(pair.a.shape)} 与 lora_B {list(pair.b.shape)} 不成对",
            ),
        )
    for tensor in (pair.a, pair.b):
        _check_finite(path, tensor)
    return pair


def _check_finite(path: Path, tensor: SourceTensor) -> None:
    for start in range(0, tensor.shape[0], _CHECKED_ROWS):
        rows = aligned(tensor.view()[start : start + _CHECKED_ROWS])
        wide = np.empty(rows.shape, np.float32)
        ggml.widen(rows, wide)
        if not np.isfinite(wide).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(wide))[0])
            raise _bad(
                path,
                say(
                    f"{tensor.name}, row {start + row}, column {column} is {wide[row, column]}",
                    f"{tensor.name} 第 {start + row} 行第 {column} 列为 {wide[row, column]}",
                ),
            )


def _bad(path: Path, what: str) -> BqError:
    return BqError(
        say(f"{path.name} in {path.parent}: {what}.", f"{path.parent} 中的 {path.name}：{what}。"),
        say(
            "Download the adapter again, or save it with PEFT's save_pretrained.",
            "请重新下载适配器，或用 PEFT 的 save_pretrained 保存。",
        ),
    )
