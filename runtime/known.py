"""What a GGUF file says of itself, and what is known to be wrong with files that other programs made."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from bq.runtime.errors import UsageError
from bq.runtime.file_prompt import check_think as check_think  # where they are looked for
from bq.runtime.file_prompt import prompt_format as prompt_format
from bq.runtime.file_prompt import prompt_name
from bq.runtime.file_prompt import roles_of as roles_of
from bq.runtime.file_prompt import think_refusal as think_refusal
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.output_rows import NOISE, noise_of, row_norms
from bq.runtime.prompt_format import BAICHUAN
from bq.runtime.releases import Release, find_release, releases, role_generation, vocabulary_generation
from bq.runtime.token_type import TokenType
from bq.runtime.values import Sampling

_LONGEST_NAME = 100

# The name of a mixture or plan of types that llama.cpp does not know, and how those mixtures end.
MIXTURE_KEY, OWN_SUFFIX = "bq.mixture", "_NL"


class FileType(IntEnum):
    """llama.cpp's file types (enum llama_ftype): those of bq's mixtures, and those that only files from elsewhere have."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q8_0 = 7
    Q5_0 = 8
    Q5_1 = 9
    Q2_K = 10
    Q3_K_S = 11
    Q3_K_M = 12
    Q3_K_L = 13
    Q4_K_S = 14
    Q4_K_M = 15
    Q5_K_S = 16
    Q5_K_M = 17
    Q6_K = 18
    IQ2_XXS = 19
    IQ2_XS = 20
    Q2_K_S = 21
    IQ3_XS = 22
    IQ3_XXS = 23
    IQ1_S = 24
    IQ4_NL = 25
    IQ3_S = 26
    IQ3_M = 27
    IQ2_S = 28
    IQ2_M = 29
    IQ4_XS = 30
    IQ1_M = 31
    BF16 = 32
    TQ1_0 = 36
    TQ2_0 = 37


DEFAULT_ANSWER_TOKENS = 2048  # max_new_tokens of every Chat release of Baichuan 1 and 2
_GENERATIONS = {"qwen2": "m2", "qwen3moe": "m3"}  # the releases' by the architecture of a file
VARIANTS = ("base", "chat", "instruct")


@dataclass(frozen=True)
class KnownFile:
    """A file's name, variant ("base", "chat" or "instruct") and mixture."""

    name: str
    variant: str
    mixture: str


def describe_file(file: GgufFile) -> KnownFile:
    """From the file's metadata, and from models.toml where that says nothing."""
    name = _printable(file.text("general.name")).strip() or _printable(file.path.stem)
    variant = file.text("bq.variant")
    if variant not in VARIANTS:
        release = find_release(name) or find_release(file.path.stem)
        variant = release.variant if release else file.text("general.finetune").lower()
    if variant not in VARIANTS:
        variant = "base" if "base" in name.lower() else "chat"
    number = file.count("general.file_type", -1)
    mixture = FileType(number).name if number in FileType.__members__.values() else "?"
    return KnownFile(name, variant, _printable(file.text(MIXTURE_KEY)).strip() or mixture)


def base_refusal(name: str, instead: str = "`bq complete`") -> UsageError:
    """The error for a Base model of this name that is asked to answer; `instead` is what to use with it."""
    return UsageError(
        say(
            f"{name} is a Base model: it goes on with a text and answers no one.",
            f"{name} 是 Base 模型：它只会续写文本，不会对话。",
        ),
        say(f"Use {instead}, or a Chat release.", f"请使用 {instead}，或改用 Chat 版本。"),
    )


def answer_tokens(file: GgufFile) -> int:
    """The longest answer in tokens that the file or the releases of its kind ask for."""
    release = _release_like(file)
    known = release.max_new_tokens if release else None
    return max(0, file.count("bq.max_new_tokens")) or known or DEFAULT_ANSWER_TOKENS


def default_sampling(file: GgufFile) -> Sampling:
    """The sampling of the releases of the file's kind."""
    release = _release_like(file)
    return release.sampling if release and release.sampling else Sampling()


def _release_like(file: GgufFile) -> Release | None:
    """A release of the same generation, for a Baichuan-M2 or M3."""
    generation = _GENERATIONS.get(file.text("general.architecture"))
    return next((one for one in releases() if one.generation == generation), None)


def file_warnings(file: GgufFile) -> tuple[str, ...]:
    """What is wrong with a file that llama.cpp runs, a line each with what to do; empty for a file as bq makes them."""
    generation, name = generation_of(file), _printable(file.path.name)
    found = [*_output_faults(file, generation)]
    if not file.text("bq.variant"):
        is_own = prompt_name(file) == BAICHUAN
        found += [*(_vocabulary_faults(file) if is_own else ()), *_role_faults(file), *_prompt_faults(file)]
    return tuple(f"{name}: {fault}" for fault in found)


def _printable(text: str) -> str:
    """A name without what could control the terminal, and no longer than a line takes."""
    return "".join(filter(str.isprintable, text[:_LONGEST_NAME]))


def _convert_again() -> str:
    return say(" Convert the release again with `bq convert`.", "请用 `bq convert` 重新转换原版发布。")


def _repair() -> str:
    return say(" `bq repair` mends it.", "可用 `bq repair` 修复。")


def _for_other_programs() -> str:
    return say(
        " bq does without; for other programs, `bq repair` mends it.",
        "bq 会自行处理；若用于其他程序，可用 `bq repair` 修复。",
    )


def generation_of(file: GgufFile) -> int | None:
    """1 or 2: the file's own word, else by the names of the role pieces, else by the size of the vocabulary.

    None for what is neither, Baichuan-M1 to M3 among it.
    """
    if prompt_name(file) != BAICHUAN:
        return None
    pieces, roles, own = _list(file, "tokenizer.ggml.tokens"), roles_of(file), file.count("bq.generation")
    if own in (1, 2):
        return own
    if len(pieces) <= max(roles.user, roles.assistant):
        return None
    return role_generation(pieces[roles.user], pieces[roles.assistant]) or vocabulary_generation(len(pieces))


def _list(file: GgufFile, key: str) -> list[Any]:
    value = file.metadata.get(key)
    return value if isinstance(value, list) else []


def _vocabulary_faults(file: GgufFile) -> Iterator[str]:
    """What makes token ids wrong."""
    types = _list(file, "tokenizer.ggml.token_type")
    if types and TokenType.USER_DEFINED not in types:
        yield (
            say(
                "its user-defined pieces are typed as ordinary ones, so texts get wrong token ids.",
                "其用户自定义词元被标为普通词元，文本的词元 id 会出错。",
            )
            + _repair()
        )
    if file.flag("tokenizer.ggml.add_space_prefix", True):  # llama.cpp's default for this kind of vocabulary
        yield (
            say(
                "it lets llama.cpp put spaces into a text that the release does not have.",
                "它让 llama.cpp 在文本中加入原版没有的空格。",
            )
            + _for_other_programs()
        )


def _role_faults(file: GgufFile) -> Iterator[str]:
    """Role pieces that a text can forge, or that no text can name."""
    types = _list(file, "tokenizer.ggml.token_type")
    role_types = {types[token] for token in prompt_format(file).role_ids if token < len(types)}
    if TokenType.USER_DEFINED in role_types:
        yield (
            say(
                "its role pieces are user-defined, so a message that contains one forges a role.",
                "其角色词元为用户自定义类型，消息中写入它即可伪造角色。",
            )
            + _for_other_programs()
        )
    elif role_types - {TokenType.CONTROL}:
        yield (
            say(
                "its role pieces are typed as ordinary ones, so a prompt written as text marks no roles.",
                "其角色词元被标为普通词元，以文本写成的提示无法标记角色。",
            )
            + _for_other_programs()
        )


def _prompt_faults(file: GgufFile) -> Iterator[str]:
    """What other programs lack to talk with the model."""
    if describe_file(file).variant == "base":
        return
    if prompt_name(file) == BAICHUAN and file.count("tokenizer.ggml.eot_token_id", -1) != roles_of(file).user:
        yield (
            say(
                "no stop is set at the user's role, so answers run on into a made-up question.",
                "没有在用户角色处设置停止，回答会续写出虚构的提问。",
            )
            + _for_other_programs()
        )
    if not file.text("tokenizer.chat_template"):
        yield say("it has no chat template.", "它没有对话模板。") + _for_other_programs()


def _output_faults(file: GgufFile, generation: int | None) -> Iterator[str]:
    """Whether NormHead was folded where it must be, by the row norms of output.weight."""
    norms = row_norms(file)
    if not len(norms):
        return
    low, high = np.quantile(norms, (0.05, 0.95))
    if not math.isfinite(norms.sum()):
        yield (
            say("its output.weight is damaged: values that are no numbers.", "其 output.weight 已损坏：含有非数值。")
            + _convert_again()
        )
        return
    noise = noise_of(file.tensors["output.weight"])
    is_normalised = noise is not None and 1 - noise < low <= high < 1 + noise
    claim = file.text("bq.norm_head")
    measured = f"{low:.2f} … {high:.2f}"
    if noise is not None and not is_normalised and (claim == "folded" or (not claim and generation == 2)):
        yield (
            say(
                f"NormHead is not folded into output.weight (row norms {measured} instead of 1), so its answers are wrong.",
                f"NormHead 未折入 output.weight（行范数为 {measured}，应为 1），因此回答是错的。",
            )
            + _repair()
        )
    if is_normalised and noise == NOISE and not claim and generation == 1:
        yield (
            say(
                "its output.weight is normalised as only Baichuan 2 needs it, so its answers are wrong.",
                "其 output.weight 被归一化，而只有 Baichuan 2 需要如此，因此回答是错的。",
            )
            + _convert_again()
        )
