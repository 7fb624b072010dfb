"""Which release a GGUF file is: the one that its names mean, if the file has that release's shape too."""

import re
from dataclasses import dataclass

from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import Both, say
from bq.runtime.releases import Release, find_release

NAME_KEY = "general.name"
# What names of files have behind the model's: the mixture, and how files are called. One is taken off after the other, for a
# repetition of \w* takes exponential time.
_ENDING = re.compile(r"[-._ ](i?q\d\w*|tq\d\w*|b?f(16|32)|gguf|ggml|model|imat|i1|vocab|repaired|part)$", re.IGNORECASE)


@dataclass(frozen=True)
class Named:
    """The release that a file is, and what says so."""

    release: Release
    by: Both


def name_file(file: GgufFile, generation: int, wanted: str | None = None) -> Named | None:
    """The release of the user's, the file's or its metadata's name. Raises UsageError for a user's that does not fit."""
    if wanted is not None:
        release = find_release(wanted)
        if release is None:
            raise UsageError(
                say(f"There is no release {wanted}.", f"没有名为 {wanted} 的发布版。"),
                say("`bq models` lists them.", "`bq models` 列出全部发布版。"),
            )
        if not _fits(file, release, generation):
            raise UsageError(
                say(
                    f"{file.path.name} is no {release.name}: {_shape(file, generation)}.",
                    f"{file.path.name} 不是 {release.name}：{_shape(file, generation)}。",
                ),
                say("Leave --release out, or give the right one.", "请去掉 --release，或给出正确的发布版。"),
            )
        return Named(release, Both("--release", "--release"))
    for name, by in (
        (file.text(NAME_KEY), Both("general.name", "general.name")),
        (_bare(file.path.name), Both("the file's name", "文件名")),
    ):
        release = find_release(name)
        if release is not None and _fits(file, release, generation):
            return Named(release, by)
    return None


def _bare(name: str) -> str:
    """The name of a file without what says nothing of the model."""
    while ending := _ENDING.search(name):
        name = name[: ending.start()]
    return name


def _sizes(file: GgufFile) -> tuple[int, int, int, int]:
    hidden, blocks, ffn = map(file.shape_count, ("embedding_length", "block_count", "feed_forward_length"))
    pieces = file.metadata.get("tokenizer.ggml.tokens")
    return hidden, blocks, ffn, len(pieces) if isinstance(pieces, list) else 0


def _fits(file: GgufFile, release: Release, generation: int) -> bool:
    layout = release.layout
    return (
        layout is not None
        and _sizes(file) == (layout.hidden, layout.blocks, layout.ffn, layout.vocab)
        and (layout.architecture, layout.generation) == (file.architecture, generation)
    )


def _shape(file: GgufFile, generation: int) -> str:
    hidden, blocks, ffn, pieces = _sizes(file)
    return say(
        f"it is a Baichuan {generation} of {blocks} blocks, {hidden} × {ffn}, and {pieces:,} pieces",
        f"它是 Baichuan {generation}，{blocks} 块，{hidden} × {ffn}，{pieces:,} 个词元",
    )
