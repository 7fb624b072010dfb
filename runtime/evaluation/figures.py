"""The measured quality of a model file, kept beside it as NAME.gguf.quality.json, so that lists can show it at once.

Figures of another content of that name are none: the file says which bytes it is about. Reading never fails, needs no
numpy and little of the disk; what the file claims is bounded and checked.

    {"format": 1, "model": {"bytes": size, "digest": BLAKE2b of its places}, "figures": [{...}, ...]}, the newest last
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bq.runtime.atomic_file import replacing
from bq.runtime.errors import BqError
from bq.runtime.language import say

SUFFIX = ".quality.json"
_FORMAT = 1
_MOST_BYTES, _MOST_FIGURES, _MOST_CHARACTERS = 1 << 20, 256, 400
# Places of the file that its digest covers: more than blocks of any release, so that none of them changes unseen.
_PLACES, _PLACE_BYTES = 64, 1024
_MOST = 1e300
_MANY = 1000  # from there on a perplexity is shown without decimals
_TEXTS = ("text", "text_sha256", "against", "measured", "version")
_COUNTS = ("tokens", "context")
_SHARES = ("top1", "top1_error")


@dataclass(frozen=True)
class Figures:
    """What was measured, by the definitions of bq.runtime.evaluation.score; None for what needs a reference.

    `text` and `against` are names ("bundled" for the sample text, "" for no reference). `tokens` were scored, in chunks of
    `context`. Each error is a standard error. `top1` is a share of 1; `perplexity_change` the ratio to the reference's.
    """

    perplexity: float
    perplexity_error: float
    tokens: int
    context: int
    text: str
    text_sha256: str
    against: str = ""
    kl_mean: float | None = None
    kl_mean_error: float | None = None
    kl_median: float | None = None
    kl_p99: float | None = None
    kl_max: float | None = None
    top1: float | None = None
    top1_error: float | None = None
    perplexity_change: float | None = None
    perplexity_change_error: float | None = None
    measured: str = ""  # the date, as 2025-11-25
    version: str = ""  # of bq


def figures_path(model: Path) -> Path:
    """Where the figures of a model file lie."""
    return model.with_name(model.name + SUFFIX)


def read_figures(model: Path) -> tuple[Figures, ...]:
    """The figures of a file, the newest last; () if there are none, or none that make sense or are of this content."""
    path = figures_path(model)
    try:
        if not path.is_file() or not model.is_file():  # a named pipe would wait for a writer
            return ()
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
        if not isinstance(found, dict) or found.get("format") != _FORMAT or found.get("model") != content_of(model):
            return ()
        return tuple(_sound(found.get("figures")))
    except (OSError, ValueError, RecursionError):
        return ()


def store_figures(model: Path, figures: Figures, measured: Mapping[str, Any] | None = None) -> None:
    """Keep figures beside the file, in place of older ones of the same text, tokens, context and reference.

    `measured` is the content that they are of, as `content_of` told it before the measuring. Raises BqError, for the caller to
    tell, if the file has another one by now, or the folder cannot be written: what was there before is whole then.
    """
    path = figures_path(model)
    try:
        content = content_of(model)
        if measured not in (None, content):
            raise BqError(
                say(
                    f"{model.name} was replaced while it was measured: the figures are not kept.",
                    f"{model.name} 在测量期间被替换：数据未保存。",
                )
            )
        with replacing(path) as part, part.open("wb") as file:  # read within: no other process adds figures meanwhile
            kept = [one for one in read_figures(model) if _kind(one) != _kind(figures)]
            entries = [asdict(one) for one in [*kept, figures][-_MOST_FIGURES:]]
            data = {"format": _FORMAT, "model": content, "figures": entries}
            file.write(json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BqError(
            say(
                f"The figures cannot be kept in {path}: {error.strerror}.",
                f"无法将数据保存到 {path}：{error.strerror}。",
            )
        ) from None


def best_figures(model: Path) -> Figures | None:
    """What a list shows: figures with a KL divergence before others, then those of most tokens, then the newest."""
    found = list(enumerate(read_figures(model)))
    best = max(found, key=lambda one: (one[1].kl_mean is not None, one[1].tokens, one[0]), default=None)
    return best[1] if best else None


def describe(figures: Figures) -> str:
    """The figures in a short line: "KL 0.0123, top-1 95.2%" beside a reference, else "perplexity 8.21 ± 0.05"."""
    if figures.kl_mean is not None:
        kl = f"KL {max(0.0, figures.kl_mean):.4f}"  # of a file and itself rounding may leave less than nothing
        return kl if figures.top1 is None else kl + say(f", top-1 {figures.top1:.1%}", f"，首选一致 {figures.top1:.1%}")
    digits = 2 if figures.perplexity < _MANY else 0
    perplexity = f"{figures.perplexity:,.{digits}f} ± {figures.perplexity_error:,.{digits}f}"
    return say(f"perplexity {perplexity}", f"困惑度 {perplexity}")


def bq_version() -> str:
    """The version of bq that measures now."""
    try:
        return version("baichuan-bq")
    except PackageNotFoundError:
        return ""


def _kind(figures: Figures) -> tuple[Any, ...]:
    return figures.text_sha256, figures.tokens, figures.context, figures.against


def content_of(model: Path) -> dict[str, Any]:
    """What tells this content from others: the size, and the digest of its beginning, its end and places in between."""
    digest = blake2b(digest_size=16)
    with model.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for i in range(_PLACES):
            file.seek(max(0, size - _PLACE_BYTES) * i // (_PLACES - 1))
            digest.update(file.read(_PLACE_BYTES))
    return {"bytes": size, "digest": digest.hexdigest()}


def _sound(entries: object) -> Iterator[Figures]:
    """The entries that are figures; a name that a newer bq may add is left out."""
    names = {one.name for one in fields(Figures)}
    for entry in entries[-_MOST_FIGURES:] if isinstance(entries, list) else ():
        values: dict[str, Any] = {name: entry.get(name) for name in names} if isinstance(entry, dict) else {}
        if values and all(_fits(name, value) for name, value in values.items()):
            yield Figures(**values)


def _fits(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str) and len(value) <= _MOST_CHARACTERS and value.isprintable()
    if value is None:
        return name not in ("perplexity", "perplexity_error", *_COUNTS)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if name in _COUNTS:
        return isinstance(value, int) and 0 < value < 1 << 40
    most = 1 if name in _SHARES else _MOST
    return (-_MOST if name.startswith("kl_") else 0) <= value <= most  # rounding may make a divergence negative
