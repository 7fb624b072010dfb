"""What the folder of a checkpoint holds, and what a conversion would make of it, for looking at.

Whatever is wrong with it becomes a line among the problems, and the rest is shown all the same: shards that are missing, Git
LFS pointers in place of downloads, layouts that are not Baichuan's.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bq.convert.checkpoint import Checkpoint, open_checkpoint, read_json, refuse_pointer
from bq.convert.config import read_config
from bq.convert.convert import Conversion, in_mixture, prepare, with_importance
from bq.convert.identity import folder_roles
from bq.convert.importance import TO_COME
from bq.convert.inspect.model import ModelShape
from bq.convert.inspect.vocabulary import VocabularyReport, vocabulary_of_tokenizer
from bq.convert.mixture import ALL_MIXTURES, DEFAULT_MIXTURE
from bq.convert.model_config import POSITIONS, ModelConfig
from bq.convert.safetensors_file import read_safetensors_file
from bq.convert.source import ITEM_SIZES, SourceTensor
from bq.convert.torch_file import read_torch_file
from bq.convert.vocabulary import read_vocabulary
from bq.runtime.errors import BqError
from bq.runtime.language import Both
from bq.runtime.releases import Release, find_release
from bq.runtime.sampling import Sampling
from bq.runtime.unreadable import unreadable

T = TypeVar("T")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# What else of a release is read, in the order of its importance.
_COMPANIONS = (
    "config.json",
    "tokenizer.model",
    "tokenizer.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "modeling_baichuan.py",
    *_INDEXES,
)
_MOST_FILES = 1024  # a 235B release has some hundred shards
_MOST_BASE = 1e30


@dataclass(frozen=True)
class WeightFile:
    """A file of weights; `state` is "whole", "missing", "pointer" (of Git LFS), "empty" or "broken"."""

    name: str
    state: str
    size_bytes: int
    tensors: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the checkpoint stores it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str


@dataclass(frozen=True)
class Possible:
    """What a conversion to a mixture would make."""

    mixture: str
    size_bytes: int
    bits_per_weight: float
    needs_importance: bool


@dataclass(frozen=True)
class CheckpointReport:
    """A folder as far as it can be read. `generation`, `norm_head` and `possible` need a checkpoint that can be converted."""

    path: Path
    name: str
    architecture: str
    shape: ModelShape
    generation: int | None
    variant: str
    variant_reason: str
    release: str | None
    is_fine_tune: bool | None
    licence: str
    norm_head: bool | None
    norm_head_reasons: tuple[str, ...]
    sampling: Sampling | None
    max_new_tokens: int | None
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    companions: tuple[str, ...]
    files: tuple[WeightFile, ...]
    tensors: tuple[StoredTensor, ...]
    vocabulary: VocabularyReport | None
    possible: tuple[Possible, ...]
    problems: tuple[BqError, ...]

    @property
    def weights(self) -> int:
        """As the checkpoint stores them."""
        return sum(one.size_bytes // max(1, ITEM_SIZES.get(one.dtype, 1)) for one in self.tensors)


def inspect_checkpoint(folder: Path, name: str | None = None) -> CheckpointReport:
    """Look at a folder. `name` is what to call it, if not by its own name."""
    problems = _Problems()
    found = problems.of(lambda: read_json(folder / "config.json"))
    config = found or {}
    shape = problems.of(lambda: read_config(Checkpoint(folder, config, (), {})), is_quiet=found is None)
    is_foreign = shape is None
    conversion = problems.of(lambda: prepare(folder, DEFAULT_MIXTURE, name=name), is_foreign)
    checkpoint = conversion.checkpoint if conversion else problems.of(lambda: open_checkpoint(folder), is_foreign)
    stored = _tensors(folder, checkpoint)
    identity = conversion.identity if conversion else None
    release = identity.release if identity else find_release(name or folder.resolve().name)
    return CheckpointReport(
        path=folder,
        name=identity.name if identity else name or folder.resolve().name,
        architecture=_architecture(config),
        shape=_shape(config, shape),
        generation=conversion.generation if conversion else None,
        variant=identity.variant if identity else "",
        variant_reason=identity.variant_reason.here if identity else "",
        release=release.name if release else None,
        is_fine_tune=identity.is_fine_tune if identity else None,
        licence=_licence(release),
        norm_head=conversion.norm_head.fold if conversion else None,
        norm_head_reasons=tuple(_here(conversion.norm_head.reasons)) if conversion else (),
        sampling=identity.sampling if identity else None,
        max_new_tokens=identity.max_new_tokens if identity else None,
        config=config,
        generation_config=problems.of(lambda: _optional(folder / "generation_config.json"), is_foreign) or {},
        companions=tuple(companion for companion in _COMPANIONS if (folder / companion).is_file()),
        files=tuple(_files(folder, stored)),
        tensors=tuple(_lines(stored)),
        vocabulary=problems.of(lambda: _vocabulary(folder, config, conversion, is_foreign), is_foreign),
        possible=(problems.of(lambda: tuple(_possible(conversion))) or ()) if conversion else (),
        problems=tuple(problems.found),
    )


@dataclass
class _Problems:
    """Tries one thing after the other, and keeps each failure once."""

    found: list[BqError] = field(default_factory=list)

    def of(self, work: Callable[[], T], is_quiet: bool = False) -> T | None:
        """What the work gives, or None; quiet where the failure follows from one that was told."""
        try:
            return work()
        except BqError as error:
            problem = error
        except OSError as error:
            problem = unreadable(error.filename, error)
        if not is_quiet and all(str(problem) != str(one) for one in self.found):
            self.found.append(problem)
        return None


def _here(reasons: tuple[Both, ...]) -> Iterator[str]:
    return (reason.here for reason in reasons)


def _licence(release: Release | None) -> str:
    return release.licence if release else ""


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0] if isinstance(names, list) and names else config.get("model_type", ""))


def _shape(config: Mapping[str, Any], checked: ModelConfig | None) -> ModelShape:
    """The checked shape, or what config.json says of one that is not Baichuan's."""
    if checked is not None:
        base = checked.rope_base if checked.position == "rope" else None
        heads = checked.heads
        kv_heads, ffn = checked.kv_heads, checked.experts.ffn if checked.experts else checked.ffn
        sizes = checked.hidden, checked.blocks, heads, checked.head_width, kv_heads, ffn, checked.context
        experts = (checked.experts.total, checked.experts.used) if checked.experts else (0, 0)
        return ModelShape(*sizes, checked.position, base, *experts)

    def count(*keys: str) -> int:
        found = (config.get(key) for key in keys)
        return next((one for one in found if type(one) is int and 0 < one < 1 << 32), 0)

    hidden, blocks, heads = count("hidden_size"), count("num_hidden_layers"), count("num_attention_heads")
    base = config.get("rope_theta")
    theta = float(base) if isinstance(base, int | float) and abs(base) < _MOST_BASE else None
    return ModelShape(
        hidden,
        blocks,
        heads,
        count("head_dim") or (hidden // heads if heads else 0),
        count("num_key_value_heads", "num_attention_heads"),
        count("intermediate_size"),
        count("model_max_length", "max_position_embeddings"),
        "rope" if theta else POSITIONS.get(blocks, "") if config.get("model_type") == "baichuan" else "",
        theta,
        count("num_experts"),
        count("num_experts_per_tok"),
    )


def _vocabulary(
    folder: Path, config: Mapping[str, Any], conversion: Conversion | None, is_foreign: bool
) -> VocabularyReport | None:
    roles = None if is_foreign else folder_roles(folder)
    if conversion is not None:
        return vocabulary_of_tokenizer(conversion.vocabulary, roles)
    rows = config.get("vocab_size")
    if type(rows) is not int or not 0 < rows < 1 << 24:
        return None
    return vocabulary_of_tokenizer(read_vocabulary(folder, rows, folder_roles(folder)), roles)


def _tensors(folder: Path, checkpoint: Checkpoint | None) -> dict[str, dict[str, SourceTensor]]:
    """The tensors of each weight file that can be read, by file name."""
    found: dict[str, dict[str, SourceTensor]] = {}
    if checkpoint is not None:
        for tensor in checkpoint.tensors.values():
            found.setdefault(tensor.file.path.name, {})[tensor.name] = tensor
        return found
    for path in _weight_paths(folder):
        tensors = _Problems().of(partial(_read, path)) if path.is_file() else None
        if tensors is not None:
            found[path.name] = tensors
    return found


def _read(path: Path) -> dict[str, SourceTensor]:
    refuse_pointer(path)
    return read_safetensors_file(path) if path.suffix == ".safetensors" else read_torch_file(path)


def _weight_paths(folder: Path) -> list[Path]:
    """The weight files that are there, and those that an index names."""
    names = {path.name for pattern in _WEIGHTS for path in folder.glob(pattern)}
    for index in _INDEXES:
        weights = (_Problems().of(partial(_optional, folder / index)) or {}).get("weight_map")
        named = weights.values() if isinstance(weights, dict) else ()
        names |= {one for one in named if isinstance(one, str) and one and Path(one).name == one and "\0" not in one}
    return [folder / name for name in sorted(names)[:_MOST_FILES]]


def _files(folder: Path, stored: Mapping[str, Mapping[str, SourceTensor]]) -> Iterator[WeightFile]:
    for path in _weight_paths(folder):
        tensors = stored.get(path.name, {})
        dtypes = tuple(dict.fromkeys(tensor.dtype for tensor in tensors.values()))
        size = path.stat().st_size if path.is_file() else 0
        yield WeightFile(path.name, _state(path, size, bool(tensors)), size, len(tensors), dtypes)


def _state(path: Path, size: int, is_read: bool) -> str:
    if is_read:
        return "whole"
    if not path.is_file():
        return "missing"
    quiet = _Problems()
    quiet.of(lambda: refuse_pointer(path))
    return "empty" if size == 0 else "pointer" if quiet.found else "broken"


def _lines(stored: Mapping[str, Mapping[str, SourceTensor]]) -> Iterator[StoredTensor]:
    for file, tensors in stored.items():
        for tensor in tensors.values():
            size = math.prod(tensor.shape) * ITEM_SIZES.get(tensor.dtype, 1)
            yield StoredTensor(tensor.name, tensor.dtype, tensor.shape, size, file)


def _possible(conversion: Conversion) -> Iterator[Possible]:
    """Every mixture, but of bq's own only those that differ from llama.cpp's for this model."""
    with_matrix = with_importance(conversion, TO_COME)
    header_bytes = conversion.size_bytes - conversion.plan.data_bytes  # the same for each, but for some keys
    sizes: dict[str, int] = {}
    for name, mixture in ALL_MIXTURES.items():
        plan = in_mixture(with_matrix if mixture.needs_importance else conversion, mixture).plan
        sizes[name] = plan.data_bytes
        if not mixture.is_own or sizes[name] != sizes[mixture.file_type.name]:
            yield Possible(name, plan.data_bytes + header_bytes, plan.bits_per_weight, mixture.needs_importance)
