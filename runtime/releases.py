"""models.toml as values: every Baichuan release, what it is, and what its quantizations weigh."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bq.runtime.language import say
from bq.runtime.sampling import Sampling

MODELS_TOML = Path(__file__).resolve().parent.parent / "models.toml"
KV_BYTES_PER_ELEMENT = 2  # f16


@dataclass(frozen=True)
class Layout:
    """The shape shared by the releases of one size and generation; `sizes` are bytes by mixture.

    `generation` is 1 or 2, None for Baichuan-M1 to M3; `keys` the elements of one token's keys in one block, where
    grouped heads make them fewer than `hidden`.
    """

    hidden: int
    blocks: int
    ffn: int
    vocab: int
    weights: int
    sizes: Mapping[str, int]
    architecture: str = "baichuan"  # llama.cpp's name
    generation: int | None = None
    keys: int | None = None

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of an f16 KV cache: keys and values of every block."""
        return 2 * self.blocks * (self.keys or self.hidden) * KV_BYTES_PER_ELEMENT * tokens


@dataclass(frozen=True)
class Release:
    """One release. `layout` is None where bq cannot convert it. Where it is not `supported`, because it cannot be converted
    or llama.cpp cannot run it, `reason` and `remedy` say why (en, zh).
    """

    name: str
    repository: str
    revision: str
    generation: str
    variant: str
    size: str
    layout: Layout | None
    layout_name: str
    context: int | None
    licence: str
    licence_id: str
    languages: tuple[str, ...]
    supported: bool
    sampling: Sampling | None
    max_new_tokens: int | None
    reason: tuple[str, str]
    remedy: tuple[str, str]


@cache
def releases() -> tuple[Release, ...]:
    """Every release of models.toml, in its order."""
    data = _read(MODELS_TOML)
    layouts = {name: Layout(**values) for name, values in data["layouts"].items()}
    return tuple(_release(entry, layouts, data) for entry in data["releases"])


@cache
def role_pieces() -> Mapping[int, tuple[str, str]]:
    """The names of the user's and the assistant's role piece, by generation."""
    return {one["generation"]: (one["user_piece"], one["assistant_piece"]) for one in _read(MODELS_TOML)["roles"]}


def role_generation(user_piece: str, assistant_piece: str) -> int | None:
    """1 or 2 by the names of the pieces at the role ids, None if they are others."""
    pair = (user_piece, assistant_piece)
    return next((generation for generation, pieces in role_pieces().items() if pieces == pair), None)


def vocabulary_generation(size: int) -> int | None:
    """1 or 2 by the number of tokens that its releases have, None for any other number."""
    return next((one.layout.generation for one in releases() if one.layout and one.layout.vocab == size), None)


def find_release(text: str) -> Release | None:
    """The release that a repository name, folder name or model name means, if it means one."""
    wanted = _plain(text.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1])
    by_name = {_plain(one.repository.split("/")[1]): one for one in reversed(releases())}
    by_name |= {_plain(download_folder(one)): one for one in reversed(releases())}
    by_name |= {_plain(one.name): one for one in releases()}
    return by_name.get(wanted)


def how_to_get(release: Release) -> str:
    """What to do for a release that is not here: the command that fetches and converts it, or why there is none."""
    if not release.supported:
        return say(f"{release.reason[0]} {release.remedy[0]}", release.reason[1] + release.remedy[1])
    return say(f"Fetch and convert it: bq pull {release.name}", f"下载并转换：bq pull {release.name}")


def download_folder(release: Release) -> str:
    """A folder of its own for each release, other revisions of a repository included."""
    name = release.repository.split("/")[1]
    return name if release.revision == "main" else f"{name}-{release.revision}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return data


def _release(entry: Mapping[str, Any], layouts: Mapping[str, Layout], data: Mapping[str, Any]) -> Release:
    sampling = dict(data["sampling"].get(entry.get("sampling"), {}))
    max_new_tokens = sampling.pop("max_new_tokens", None)
    licence = data["licences"][entry["licence"]]
    return Release(
        name=entry["name"],
        repository=entry["repository"],
        revision=entry["revision"],
        generation=entry["generation"],
        variant=entry["variant"],
        size=entry["size"],
        layout=layouts.get(entry.get("layout", "")),
        layout_name=entry.get("layout", ""),
        context=entry.get("context"),
        licence=licence["name"],
        licence_id=licence["spdx"],
        languages=tuple(entry["languages"]),
        supported=entry["supported"],
        sampling=Sampling(**sampling) if sampling else None,
        max_new_tokens=max_new_tokens,
        reason=(entry.get("reason", ""), entry.get("reason_zh", "")),
        remedy=(entry.get("remedy", ""), entry.get("remedy_zh", "")),
    )
