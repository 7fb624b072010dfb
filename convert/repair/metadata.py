"""The keys of a repaired file: those that `bq convert` writes, where the old file has none or wrong ones.

Its shape, file type and all that bq does not know stay as they are. Who the model is comes from its name, where
models.toml has that name and the file has the release's shape; else nothing is claimed of it.
"""

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from bq.convert.config import ModelConfig
from bq.convert.identity import DEFAULT_MAX_NEW_TOKENS, VARIANTS, Identity
from bq.convert.metadata import ARCHITECTURE, add_metadata
from bq.convert.mixture import DEFAULT_MIXTURE, find_mixture
from bq.convert.named_release import NAME_KEY, Named
from bq.convert.norm_head import NormHead
from bq.convert.repair.gguf_rewrite import ARRAY, encoded
from bq.convert.repair.vocabulary import RightVocabulary, role_ids
from bq.runtime.gguf_file import GgufFile
from bq.runtime.known import describe_file
from bq.runtime.language import Both
from bq.runtime.releases import releases
from bq.runtime.sampling import Sampling

TEMPLATE_KEY, EOT_KEY = "tokenizer.chat_template", "tokenizer.ggml.eot_token_id"
HEAD_KEYS = ("bq.norm_head", "bq.norm_head.reason", "bq.norm_head.reason.zh")
_LAST = ("general.quantization_version", "general.file_type")  # llama.cpp's quantizer puts them at the end
_ANY_SHAPE = ModelConfig("baichuan", 1, 32, 1, 1, 1, 1, 1, 1, 1e-6, 1e4)  # the file's own is kept
_REPEATED_KEY = "general.sampling.penalty_last_n"
_USUAL_CONTEXT = 4096


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
    names = f"{file.text(NAME_KEY)} {file.path.stem}".lower()
    words = re.split(r"[^a-z]+", names)  # whole words: a "database" is no Base
    for variant in ("instruct", "chat", "base"):  # a name with two is of a tuned Base
        if variant in words:
            return variant, Both("the file's name", "文件名")
    if file.text("general.finetune").lower() in VARIANTS:
        return file.text("general.finetune").lower(), Both("general.finetune", "general.finetune")
    return describe_file(file).variant, Both("nothing names another", "没有任何名称表明是其他类型")


def wanted_keys(
    file: GgufFile, right: RightVocabulary, identity: Identity, norm_head: NormHead | None
) -> dict[str, bytes]:
    """What `bq convert` would write for such a model as the file's, but for its shape, its types, and a NormHead that is not known."""
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(None, ARCHITECTURE)
    layout = identity.release.layout if identity.release else None
    add_metadata(
        writer,
        replace(_ANY_SHAPE, context=file.count(f"{ARCHITECTURE}.context_length", _USUAL_CONTEXT)),
        right.vocabulary,
        identity,
        norm_head or NormHead(False, ()),
        right.generation,
        find_mixture(DEFAULT_MIXTURE),
        layout.weights if layout else 0,
        "",
        "normal",
    )
    dropped = {
        *("general.architecture", "bq.quantizer", *_LAST),
        *(() if layout else _identity_keys(writer.kv_data[0])),
        *(() if norm_head else HEAD_KEYS),
    }
    return {
        key: encoded(key, one.type, one.value, GGUFValueType.get_type(one.value[0]) if one.type == ARRAY else None)
        for key, one in writer.kv_data[0].items()
        if key not in dropped and not key.startswith(f"{ARCHITECTURE}.")
    }


def _identity_keys(keys: Mapping[str, object]) -> Iterator[str]:
    """Those that only a known release has."""
    return (key for key in keys if key.startswith("general.") and not key.startswith("general.sampling."))


def new_keys(old: Mapping[str, bytes], wanted: Mapping[str, bytes], replaced: Set[str]) -> dict[str, bytes]:
    """The old keys with what they lack; those that are wrong, `replaced`, get the wanted value, or go if there is none."""
    kept = {key: value for key, value in old.items() if key in wanted or key not in replaced}
    merged = {**kept, **{key: value for key, value in wanted.items() if key in replaced or key not in old}}
    return dict(sorted(merged.items(), key=lambda item: _place(item[0])))


def _place(key: str) -> int:
    """Where a key stands among the groups of a file that bq made; within a group the order stays."""
    groups = ("general.", f"{ARCHITECTURE}.", "tokenizer.")
    if key in _LAST:
        return len(groups) + 2
    is_own = key.startswith("bq.")
    return next((i for i, group in enumerate(groups) if key.startswith(group)), len(groups) + is_own)


def replaced_keys(file: GgufFile, named: Named | None) -> set[str]:
    """A release that is recognised gets its own name, and a penalty over "the whole context" the number that means it."""
    names = {NAME_KEY} if named else set()
    return names | ({_REPEATED_KEY} if file.number(_REPEATED_KEY, 0) < 0 else set())
