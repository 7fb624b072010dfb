"""The keys of a repaired file: those that `bq convert` writes, where the old file has none or wrong ones.

Its shape, file type and all that bq does not know stay as they are. Who the model is comes from its name, where
models.toml has that name and the file has the release's shape; else nothing is claimed of it.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from bq.convert.config import ModelConfig
from bq.convert.identity import DEFAULT_MAX_NEW_TOKENS, VARIANTS, Identity
from bq.convert.metadata import ARCHITECTURE, add_metadata
from bq.convert.mixture import DEFAULT_MIXTURE, find_mixture
from bq.convert.norm_head import NormHead
from bq.convert.repair.gguf_rewrite import ARRAY, encoded
from bq.convert.repair.vocabulary import RightVocabulary, role_ids
from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file
from bq.runtime.language import Both, say
from bq.runtime.releases import Release, find_release, releases
from bq.runtime.sampling import Sampling

TEMPLATE_KEY, EOT_KEY = "tokenizer.chat_template", "tokenizer.ggml.eot_token_id"
HEAD_KEYS = ("bq.norm_head", "bq.norm_head.reason")
_LAST = ("general.quantization_version", "general.file_type")  # llama.cpp's quantizer puts them at the end
_NAME_KEY = "general.name"
# What names of files have behind the model's: the mixture, and how files are called.
_ENDINGS = re.compile(r"([-._ ](i?q\d\w*|tq\d\w*|b?f(16|32)|gguf|ggml|model|imat|i1|vocab|repaired))+$", re.IGNORECASE)
_ANY_SHAPE = ModelConfig(1, 32, 1, 1, 1, 1, 1e-6, 1e4, False)  # the file's own is kept


@dataclass(frozen=True)
class Named:
    """The release that a file is, and what says so."""

    release: Release
    by: Both


def name_file(file: GgufFile, generation: int, wanted: str | None) -> Named | None:
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
                    _unfit(file, release, generation),
                ),
                say("Leave --release out, or give the right one.", "请去掉 --release，或给出正确的发布版。"),
            )
        return Named(release, Both("--release", "--release"))
    for name, by in (
        (file.text(_NAME_KEY), Both("general.name", "general.name")),
        (_ENDINGS.sub("", file.path.name.removesuffix(".gguf")), Both("the file's name", "文件名")),
    ):
        release = find_release(name)
        if release is not None and _fits(file, release, generation):
            return Named(release, by)
    return None


def _sizes(file: GgufFile) -> tuple[int, int, int, int]:
    keys = ("embedding_length", "block_count", "feed_forward_length")
    hidden, blocks, ffn = (file.count(f"{ARCHITECTURE}.{key}") for key in keys)
    return hidden, blocks, ffn, len(file.metadata["tokenizer.ggml.tokens"])


def _fits(file: GgufFile, release: Release, generation: int) -> bool:
    layout = release.layout
    return (
        layout is not None
        and _sizes(file) == (layout.hidden, layout.blocks, layout.ffn, layout.vocab)
        and (layout.generation == generation)
    )


def _shape(file: GgufFile, generation: int) -> str:
    hidden, blocks, ffn, pieces = _sizes(file)
    return say(
        f"it is a Baichuan {generation} of {blocks} blocks, {hidden} × {ffn}, and {pieces:,} pieces",
        f"它是 Baichuan {generation}，{blocks} 块，{hidden} × {ffn}，{pieces:,} 个词元",
    )


def _unfit(file: GgufFile, release: Release, generation: int) -> str:
    return f"{file.path.name} 不是 {release.name}：{_shape(file, generation)}。"


def identify_file(file: GgufFile, right: RightVocabulary, named: Named | None, variant: str | None) -> Identity:
    """Who the model is, with the sampling defaults of its release, else of its generation."""
    release = named.release if named else None
    defaults = release or next(one for one in releases() if one.layout and one.layout.generation == right.generation)
    chosen, reason = _variant(file, named, variant)
    return Identity(
        name=release.repository.split("/")[1] if release else describe_file(file).name,
        release=release,
        is_fine_tune=release is None,
        variant=chosen,
        variant_reason=reason,
        roles=role_ids(file),
        sampling=defaults.sampling or Sampling(),
        max_new_tokens=defaults.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
    )


def _variant(file: GgufFile, named: Named | None, asked: str | None) -> tuple[str, Both]:
    if asked is not None:
        return asked, Both("--variant", "--variant")
    if file.text("bq.variant") in VARIANTS:
        return file.text("bq.variant"), Both("bq.variant", "bq.variant")
    if named is not None:
        reason = Both(
            f"release {named.release.name}, by {named.by}", f"发布版 {named.release.name}，依据 {named.by.zh}"
        )
        return named.release.variant, reason
    names = f"{file.text(_NAME_KEY)} {file.path.stem}".lower()
    words = re.split(r"[^a-z]+", names)  # whole words: a "database" is no Base
    for variant in ("instruct", "chat", "base"):  # a name with two is of a tuned Base
        if variant in words:
            return variant, Both("the file's name", "文件名")
    return describe_file(file).variant, Both("nothing names another", "没有任何名称表明是其他类型")


def wanted_keys(right: RightVocabulary, identity: Identity, norm_head: NormHead) -> dict[str, bytes]:
    """What `bq convert` would write for such a model, but for its shape and its types."""
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(None, ARCHITECTURE)
    layout = identity.release.layout if identity.release else None
    add_metadata(
        writer,
        _ANY_SHAPE,
        right.vocabulary,
        identity,
        norm_head,
        right.generation,
        find_mixture(DEFAULT_MIXTURE),
        layout.weights if layout else 0,
        "",
        "normal",
    )
    dropped = ("general.architecture", "bq.quantizer", *_LAST, *([] if layout else _identity_keys(writer.kv_data[0])))
    return {
        key: encoded(int(one.type), one.value, int(GGUFValueType.get_type(one.value[0])) if one.type == ARRAY else None)
        for key, one in writer.kv_data[0].items()
        if key not in dropped and not key.startswith(f"{ARCHITECTURE}.")
    }


def _identity_keys(keys: Mapping[str, object]) -> Iterator[str]:
    """Those that only a known release has."""
    return (key for key in keys if key.startswith("general.") and not key.startswith("general.sampling."))


def new_keys(old: Mapping[str, bytes], wanted: Mapping[str, bytes], replaced: Set[str]) -> dict[str, bytes]:
    """The old keys with what they lack; those that are wrong, `replaced`, get the wanted value."""
    merged = {**old, **{key: value for key, value in wanted.items() if key in replaced or key not in old}}
    return dict(sorted(merged.items(), key=lambda item: _place(item[0])))


def _place(key: str) -> int:
    """Where a key stands among the groups of a file that bq made; within a group the order stays."""
    groups = ("general.", f"{ARCHITECTURE}.", "tokenizer.")
    if key in _LAST:
        return len(groups) + 2
    is_own = key.startswith("bq.")
    return next((i for i, group in enumerate(groups) if key.startswith(group)), len(groups) + is_own)


def replaced_names(named: Named | None) -> set[str]:
    """A release that is recognised gets its own name."""
    return {_NAME_KEY} if named else set()
