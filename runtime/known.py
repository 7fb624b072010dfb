"""What a GGUF file says of itself, and what is known to be wrong with files that other programs made."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bq.runtime import ggml
from bq.runtime.errors import UsageError
from bq.runtime.gguf_file import GgufFile, TensorEntry
from bq.runtime.language import say
from bq.runtime.prompt import Roles
from bq.runtime.releases import find_release, role_generation, vocabulary_generation

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types
_LONGEST_NAME = 100
# Rows of output.weight that are looked at: runs of neighbours, so that a disk is read in few places.
_RUNS, _ROWS_OF_A_RUN = 16, 16
# How far quantization moves the norm of a row of norm 1: at most 0.012 for 4 bits and more, 0.1 for those listed
# (measured over normal and heavy-tailed rows, tests/runtime/test_known.py). Coarser types say nothing.
_NOISE, _COARSE_NOISE = 0.03, 0.11
_COARSE = (ggml.GgmlType.Q2_K, ggml.GgmlType.Q3_K, ggml.GgmlType.IQ3_S)


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


def roles_of(file: GgufFile) -> Roles:
    """The ids that begin a message: the file's own, else those of every release."""
    usual = Roles()
    return Roles(
        file.count("bq.role.user_id", usual.user),
        file.count("bq.role.assistant_id", usual.assistant),
    )


def file_warnings(file: GgufFile) -> tuple[str, ...]:
    """What is wrong with a file that llama.cpp runs, a line each with what to do; empty for a file as bq makes them."""
    generation, name = generation_of(file), _printable(file.path.name)
    found = [*_output_faults(file, generation)]
    if not file.text("bq.variant"):
        found += [*_vocabulary_faults(file), *_role_faults(file), *_prompt_faults(file)]
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
    """1 or 2: the file's own word, else by the names of the role pieces, else by the size of the vocabulary."""
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
    if types and _USER_DEFINED not in types:
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
    types, roles = _list(file, "tokenizer.ggml.token_type"), roles_of(file)
    role_types = {types[token] for token in (roles.user, roles.assistant) if token < len(types)}
    if _USER_DEFINED in role_types:
        yield (
            say(
                "its role pieces are user-defined, so a message that contains one forges a role.",
                "其角色词元为用户自定义类型，消息中写入它即可伪造角色。",
            )
            + _for_other_programs()
        )
    elif role_types - {_CONTROL}:
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
    if file.count("tokenizer.ggml.eot_token_id", -1) != roles_of(file).user:
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
    norms = _row_norms(file)
    if not len(norms):
        return
    low, high = np.quantile(norms, (0.05, 0.95))
    if not math.isfinite(norms.sum()):
        yield (
            say("its output.weight is damaged: values that are no numbers.", "其 output.weight 已损坏：含有非数值。")
            + _convert_again()
        )
        return
    noise = _noise(file.tensors["output.weight"])
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
    if is_normalised and noise == _NOISE and not claim and generation == 1:
        yield (
            say(
                "its output.weight is normalised as only Baichuan 2 needs it, so its answers are wrong.",
                "其 output.weight 被归一化，而只有 Baichuan 2 需要如此，因此回答是错的。",
            )
            + _convert_again()
        )


def _noise(output: TensorEntry) -> float | None:
    """How far from 1 the norm of a normalised row may be after quantization; None where that says nothing."""
    if output.kind in _COARSE:
        return _COARSE_NOISE
    weights, size = ggml.block_size(output.kind)
    return _NOISE if 8 * size >= 4 * weights else None


def _row_norms(file: GgufFile) -> npt.NDArray[np.float64]:
    """L2 norms of rows spread over output.weight; rows of zeros, which padding has, are left out."""
    output = file.tensors.get("output.weight")
    if output is None or len(output.shape) != 2:
        return np.empty(0)
    rows, columns = output.shape
    row_bytes = output.size_bytes // rows
    starts = sorted(set(np.linspace(0, max(0, rows - _ROWS_OF_A_RUN), _RUNS, dtype=int).tolist()))
    found: list[npt.NDArray[np.float64]] = []
    with file.path.open("rb") as source:
        for start, after in pairwise((*starts, rows)):
            source.seek(output.start + start * row_bytes)
            data = source.read(min(_ROWS_OF_A_RUN, after - start) * row_bytes)
            packed = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)
            found.append(np.linalg.norm(ggml.dequantize(output.kind, packed, columns).astype(np.float64), axis=1))
    norms: npt.NDArray[np.float64] = np.concatenate(found)
    return norms[np.flatnonzero(norms)]
