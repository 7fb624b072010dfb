"""What a card says, read from the headers of the files and the figures beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from bq.library.export.settings import Settings, settings_of
from bq.library.licence import Licence, licence_of, printable
from bq.library.registry import at
from bq.runtime.adapters import merged_adapters
from bq.runtime.errors import UsageError
from bq.runtime.evaluation.figures import Figures, best_figures
from bq.runtime.gguf_file import GgufFile, read_gguf
from bq.runtime.known import generation_of
from bq.runtime.language import say
from bq.runtime.releases import find_release
from bq.runtime.structure import check_structure

_HUB = "https://huggingface.co/"
_MOST_LANGUAGES, _LONGEST_LANGUAGE = 16, 12
_MOST_ADAPTERS = 16


@dataclass(frozen=True)
class FileFacts:
    """One file. `imatrix` is the name of the importance matrix it was made with, "" for none."""

    path: Path
    mixture: str
    size_bytes: int
    bits_per_weight: float
    imatrix: str
    quantizer: str
    effort: str
    figures: Figures | None


@dataclass(frozen=True)
class CardFacts:
    """`settings` are those of the first file. `base_model` is a repository, `relation` what these files are to it.

    `norm_head` is "folded", "none" or "" where the file does not say. `made_by` is the version of bq, "" for other programs.
    `adapters` were merged into the weights, NAME or NAME:WEIGHT each.
    """

    settings: Settings
    generation: int | None
    files: tuple[FileFacts, ...]
    weights: int
    languages: tuple[str, ...]
    licence: Licence
    licence_files: tuple[Path, ...]
    base_model: str
    relation: str
    norm_head: str
    norm_head_reason: str
    made_by: str
    adapters: tuple[str, ...] = ()


def read_facts(paths: Sequence[Path], licences: Sequence[Path], base_model: str | None = None) -> CardFacts:
    """Raises UsageError for files of different models, BqError for what is no model that bq runs."""
    files = [_read(path) for path in paths]
    every = [settings_of(file) for file in files]
    first, settings = files[0], every[0]
    _refuse_mixed(files, every)
    base, relation = _base(first)
    adapters = _adapters(first)
    return CardFacts(
        settings=settings,
        generation=generation_of(first) if settings.architecture == "baichuan" else None,
        files=tuple(_facts(file, one.mixture) for file, one in zip(files, every, strict=True)),
        weights=_weights(first),
        languages=_languages(first),
        licence=licence_of(first),
        licence_files=tuple(licences),
        base_model=base_model or base,
        relation="finetune" if adapters else "quantized" if base_model else relation,
        norm_head=first.text("bq.norm_head") if first.text("bq.norm_head") in ("folded", "none") else "",
        norm_head_reason=printable(first.text("bq.norm_head.reason")),
        made_by=printable(first.text("bq.version")),
        adapters=adapters,
    )


def _adapters(file: GgufFile) -> tuple[str, ...]:
    return tuple(map(printable, merged_adapters(file)[:_MOST_ADAPTERS]))


def _refuse_mixed(files: Sequence[GgufFile], every: Sequence[Settings]) -> None:
    """Raises UsageError for files that are not one model in several mixtures."""
    kinds = [
        (one.name, one.variant, one.form, one.architecture, one.user, _weights(file), _adapters(file))
        for file, one in zip(files, every, strict=True)
    ]
    for one, kind in zip(every, kinds, strict=True):
        if kind != kinds[0]:
            raise UsageError(
                say(
                    f"{one.path.name} ({one.name}) and {every[0].path.name} ({every[0].name}) are different models.",
                    f"{one.path.name}（{one.name}）与 {every[0].path.name}（{every[0].name}）是不同的模型。",
                ),
                say("One card is for one model in several mixtures.", "一张模型卡只针对同一模型的不同量化。"),
            )


def _weights(file: GgufFile) -> int:
    return sum(prod(one.shape) for one in file.tensors.values())


def _read(path: Path) -> GgufFile:
    file = read_gguf(path)
    check_structure(file)
    return file


def _facts(file: GgufFile, mixture: str) -> FileFacts:
    bits = 8 * sum(one.size_bytes for one in file.tensors.values()) / max(1, _weights(file))
    return FileFacts(
        path=file.path,
        mixture=mixture,
        size_bytes=file.size_bytes,
        bits_per_weight=bits,
        imatrix=printable(Path(file.text("quantize.imatrix.file").replace("\\", "/")).name),
        quantizer=printable(file.text("bq.quantizer")),
        effort=printable(file.text("bq.effort")),
        figures=best_figures(file.path),
    )


def _base(file: GgufFile) -> tuple[str, str]:
    """The repository of the weights that were quantized, which the library knows of what was pulled; of a fine-tune without one
    that of the model it was tuned from.
    """
    own = _repository(file.text("general.source.repo_url")) or _pulled_from(file.path)
    if own:
        return own, "quantized"
    tuned = _repository(file.text("general.base_model.0.repo_url"))
    if tuned:
        return tuned, "finetune"
    release = find_release(file.text("general.name")) if not file.text("bq.version") else None
    return (release.repository, "quantized") if release else ("", "")


def _pulled_from(path: Path) -> str:
    """The repository of the hub whose checkpoint was pulled and converted, "" if none was."""
    entry = at(path)
    origin = entry.source if entry is not None else None
    is_converted = origin is not None and origin.source == "hf" and origin.file is None
    return _repository(f"{_HUB}{origin.repository}") if origin is not None and is_converted else ""


def _repository(address: str) -> str:
    """OWNER/NAME of an address of the hub, "" for any other."""
    name = address.removeprefix(_HUB)
    parts = name.split("/")
    is_plain = all(part and set(part) <= _IN_NAMES and len(part) < 97 and part[0].isalnum() for part in parts)
    return name if name != address and len(parts) == 2 and is_plain else ""


_IN_NAMES = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def _languages(file: GgufFile) -> tuple[str, ...]:
    found = file.metadata.get("general.languages")
    texts = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    codes = [one.lower() for one in texts if one.isascii() and one.isalpha() and len(one) <= _LONGEST_LANGUAGE]
    return tuple(codes[:_MOST_LANGUAGES]) or ("zh", "en")
