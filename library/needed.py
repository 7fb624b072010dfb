"""Which files of a repository a conversion needs, and which GGUF files it has ready. Everything else stays where it is.

A release may hold its weights twice (safetensors and .bin), a draft model in `draft/`, states of an optimizer, ONNX,
pictures: tens of gigabytes that nobody asked for. Only files at the top belong to the model.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bq.library.sources.source import MOST_FILES, Listing, RemoteFile
from bq.runtime.errors import BqError
from bq.runtime.language import say

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# modeling_baichuan.py is read as text: NormHead is looked for in it.
_NAMES = {
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "modeling_baichuan.py",
    "README.md",
}
SETTINGS = frozenset((*_NAMES, *_INDEXES))  # what a conversion may read besides weights
_LICENCE = re.compile(r"(.*licen[sc]e.*|.*许可.*|notice)(\.txt|\.md|\.pdf)?", re.IGNORECASE)
_MOST_LICENCE_BYTES = 8 << 20
# In the order that converting prefers them: index, single file, start and end of the name of a shard.
_KINDS = (
    (_INDEXES[0], "model.safetensors", "model-", ".safetensors"),
    (_INDEXES[1], "pytorch_model.bin", "pytorch_model-", ".bin"),
)
_GGUF_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_MIXTURE = re.compile(
    r"(?:^|[-._])((?:IQ[1-4]_(?:XXS|XS|S|M|NL)|TQ[12]_0|Q[2-6]_K_(?:XL|[SML])|Q[2-8]_K|Q[458]_[01]|MXFP4(?:_MOE)?|BF16|F16|F32)"
    r"(?:_NL)?)(?=[-._]|$)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"(mmproj|imatrix)", re.IGNORECASE)


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file of a repository. `mixture` as its name tells, None if it does not."""

    file: RemoteFile
    mixture: str | None
    is_split: bool

    @property
    def reason(self) -> str | None:
        """Why it cannot be pulled, None if it can."""
        if not self.is_split:
            return None
        return say("It is one part of a split file, which bq does not join.", "它是拆分文件的一部分，bq 不能合并。")


def conversion_files(listing: Listing) -> tuple[RemoteFile, ...]:
    """What a conversion needs. Raises BqError if there is no config.json, or no whole set of weights."""
    top = {file.path: file for file in listing.files if "/" not in file.path}
    if "config.json" not in top:
        raise _lacking(listing, "config.json")
    weights = _weights(listing, top)
    others = [file for name, file in top.items() if name in _NAMES or _is_licence(file)]
    return (*sorted(others, key=lambda file: file.path), *weights)


def _is_licence(file: RemoteFile) -> bool:
    return file.size <= _MOST_LICENCE_BYTES and _LICENCE.fullmatch(file.path) is not None


def _weights(listing: Listing, top: Mapping[str, RemoteFile]) -> list[RemoteFile]:
    """The first whole set of weights: shards with their index, or a single file."""
    missing: list[str] = []
    for index, single, start, end in _KINDS:
        shards, lacking = _shards(top, start, end)
        if index in top and shards and not lacking:
            return [top[index], *shards]
        if single in top:
            return [top[single]]
        if shards:
            missing += lacking or [index]
    if missing:
        raise _lacking(listing, ", ".join(missing[:4]) + (", …" if len(missing) > 4 else ""))
    raise _lacking(
        listing,
        say("weights (model.safetensors or pytorch_model.bin)", "权重（model.safetensors 或 pytorch_model.bin）"),
    )


def _shards(top: Mapping[str, RemoteFile], start: str, end: str) -> tuple[list[RemoteFile], list[str]]:
    """The shards START00001-of-00003END that are there, of the set with the most of them, and the names of those that lack."""
    pattern = re.compile(rf"{re.escape(start)}[0-9]{{5}}-of-([0-9]{{5}}){re.escape(end)}")
    counts = Counter(match[1] for match in map(pattern.fullmatch, top) if match)
    if not counts:
        return [], []
    count = counts.most_common(1)[0][0]
    numbers = range(1, min(int(count), MOST_FILES) + 1)
    names = [f"{start}{number:05}-of-{count}{end}" for number in numbers]
    return [top[name] for name in names if name in top], [name for name in names if name not in top]


def gguf_files(listing: Listing) -> tuple[GgufFile, ...]:
    """The GGUF files of models in a repository, in any folder, by size. Those that are split are named as such."""
    found = [
        GgufFile(file, mixture_of(file.path), _GGUF_PART.search(file.path) is not None)
        for file in listing.files
        if file.path.lower().endswith(".gguf") and not _NO_MODEL.search(file.path.rsplit("/", 1)[-1])
    ]
    return tuple(sorted(found, key=lambda one: (one.file.size, one.file.path)))


def mixture_of(path: str) -> str | None:
    """The mixture that a GGUF file's name tells, the last one named."""
    name = _GGUF_PART.sub("", path.rsplit("/", 1)[-1])
    found = _MIXTURE.findall(name.removesuffix(".gguf"))
    return found[-1].upper() if found else None


def _lacking(listing: Listing, what: str) -> BqError:
    has_gguf = bool(gguf_files(listing))
    return BqError(
        say(
            f"{listing.repository} ({listing.source}) lacks {what}.",
            f"{listing.repository}（{listing.source}）缺少 {what}。",
        ),
        say("It holds GGUF files: pull one of those.", "它含有 GGUF 文件：请拉取其中之一。")
        if has_gguf
        else say("Pull a release as it was published, or another source.", "请拉取完整的原始发布，或换一个来源。"),
    )
