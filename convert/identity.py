"""Who a checkpoint is: name, release, variant, sampling defaults, as far as its own files and models.toml tell."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.convert.added_tokens import added_tokens
from bq.convert.chat_template import read_template
from bq.convert.checkpoint import Checkpoint, read_json
from bq.convert.model_card import licence_named
from bq.convert.model_config import BAICHUAN_M1, QWEN2, QWEN3MOE, ModelConfig
from bq.runtime.errors import BqError
from bq.runtime.language import Both, say
from bq.runtime.prompt_format import IM_START, M1_ASSISTANT, M1_USER, Roles
from bq.runtime.releases import Release, find_release, releases
from bq.runtime.sampling import Sampling

FAMILIES = {BAICHUAN_M1: "m1", QWEN2: "m2", QWEN3MOE: "m3"}  # the generation of models.toml by architecture
VARIANTS = ("base", "chat", "instruct")
DEFAULT_MAX_NEW_TOKENS = 2048


@dataclass(frozen=True)
class Identity:
    """`release` is the entry of models.toml, or the one a fine-tune names as its origin if `is_fine_tune`.

    `licence` is what a fine-tune's own card says, as the hub identifies it, "" if it says nothing.
    """

    name: str
    release: Release | None
    is_fine_tune: bool
    variant: str
    variant_reason: Both
    roles: tuple[int, int]
    sampling: Sampling
    max_new_tokens: int
    licence: str = ""


def identify(
    checkpoint: Checkpoint, config: ModelConfig, generation: int | None, variant: str | None, name: str | None
) -> Identity:
    """Read generation_config.json and match the folder's name. Raises BqError for values that make no sense."""
    path = checkpoint.folder / "generation_config.json"
    settings = read_json(path) if path.is_file() else {}
    folder = name or _folder_name(checkpoint.folder.resolve())
    family = FAMILIES.get(config.architecture) or ("baichuan2" if generation == 2 else "baichuan")
    own = _fitting(find_release(folder), config, family)
    if own and own.layout and own.layout.vocab != config.vocab:
        own = None  # a fine-tune with tokens of its own
    origin = own or _fitting(find_release(str(checkpoint.config.get("_name_or_path", ""))), config, family)
    has_template = family in FAMILIES.values() and bool(read_template(checkpoint.folder))
    chosen, reason = _variant(variant, own, settings, folder, has_template)
    defaults = next(one for one in releases() if one.generation == family)
    return Identity(
        name=own.repository.split("/")[1] if own else folder,
        release=origin,
        is_fine_tune=own is None,
        variant=chosen,
        variant_reason=reason,
        roles=folder_roles(checkpoint.folder),
        sampling=_sampling(settings, defaults.sampling or Sampling()),
        max_new_tokens=int(_setting(settings, "max_new_tokens", defaults.max_new_tokens or DEFAULT_MAX_NEW_TOKENS, 1)),
        licence=licence_named(checkpoint.folder),
    )


def read_roles(settings: Mapping[str, Any]) -> tuple[int, int]:
    """The ids that begin a user's and an assistant's message, those of every release where none are given."""
    usual = Roles()
    return (
        int(_setting(settings, "user_token_id", usual.user, 0)),
        int(_setting(settings, "assistant_token_id", usual.assistant, 0)),
    )


def folder_roles(folder: Path) -> tuple[int, int]:
    """The ids that begin messages in a checkpoint's prompts, by the names of its added tokens or by `read_roles`.

    In ChatML both roles begin with the same piece.
    """
    path = folder / "generation_config.json"
    usual = read_roles(read_json(path) if path.is_file() else {})
    added = {token: number for token, (number, _) in added_tokens(folder).items()}
    if (folder / "tokenizer.model").exists():
        return (added.get(M1_USER, usual[0]), added.get(M1_ASSISTANT, usual[1])) if M1_USER in added else usual
    return (added[IM_START], added[IM_START]) if IM_START in added else usual


def _folder_name(folder: Path) -> str:
    """The folder's name, or in the Hugging Face cache (models--OWNER--NAME/snapshots/HASH) that of the repository."""
    cache = folder.parent.parent.name
    name = cache.split("--")[-1] if folder.parent.name == "snapshots" and cache.startswith("models--") else folder.name
    return name.encode("utf-8", "replace").decode()  # a file name may hold bytes that are no text


def _fitting(release: Release | None, config: ModelConfig, family: str) -> Release | None:
    """The release, if the checkpoint has its shape and is of its generation."""
    layout = release.layout if release else None
    if release is None or layout is None or release.generation != family:
        return None
    return release if (layout.hidden, layout.blocks, layout.ffn) == (config.hidden, config.blocks, config.ffn) else None


def _variant(
    asked: str | None, own: Release | None, settings: Mapping[str, Any], folder: str, has_template: bool
) -> tuple[str, Both]:
    if asked is not None:
        return asked, Both("--variant", "--variant")
    if own is not None:
        return own.variant, Both(f"release {own.name}", f"发布版 {own.name}")
    words = re.split(r"[^a-z]+", folder.lower())  # whole words: a "database" is no Base
    for variant in ("instruct", "chat", "base"):  # a name with two is of a tuned Base
        if variant in words:
            return variant, Both("folder name", "文件夹名称")
    if "user_token_id" in settings:
        return "chat", Both("generation_config.json has user_token_id", "generation_config.json 中有 user_token_id")
    if has_template:
        return "chat", Both("it has a chat template", "它带有对话模板")
    return "base", Both("nothing names it Chat or Instruct", "没有任何内容表明它是 Chat 或 Instruct")


def _sampling(settings: Mapping[str, Any], default: Sampling) -> Sampling:
    return Sampling(
        temperature=_setting(settings, "temperature", default.temperature, 0),
        top_k=int(_setting(settings, "top_k", default.top_k, 0)),
        top_p=_setting(settings, "top_p", default.top_p, 0),
        repeat_penalty=_setting(settings, "repetition_penalty", default.repeat_penalty, 0.01),
    )


def _setting(settings: Mapping[str, Any], key: str, default: float, least: float) -> float:
    value = settings.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e6:
        raise BqError(
            say(f"generation_config.json: {key} is {value!r}.", f"generation_config.json：{key} 为 {value!r}。"),
            say("Download generation_config.json again.", "请重新下载 generation_config.json。"),
        )
    return float(value)
