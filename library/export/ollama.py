"""A Modelfile for ollama: the file itself, the official prompt as template, stops, sampling, licence.

Format: docs/modelfile.mdx and parser/parser.go of ollama. A value in three quotes is taken as it is, up to the next three
quotes; characters that cannot be printed are dropped by ollama, so names that hold any are refused.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from bq.library.export.go_template import go_template
from bq.library.export.settings import Settings, slug
from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say

FILE_NAME = "Modelfile"
_QUOTES = '"""'
# What ollama takes as a model's name: [host/][namespace/]model[:tag] (types/model/name.go).
_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,79}/){0,2}[A-Za-z0-9][\w.-]{0,79}(?::[A-Za-z0-9_][\w.-]{0,79})?", re.ASCII)


def modelfile(settings: Settings, folder: Path, licence: str = "") -> str:
    """The text of a Modelfile that lies in `folder`. Raises BqError for a path that it cannot name."""
    lines = [
        f"# {slug(settings.name)} for ollama: ollama create {default_name(settings)} -f {FILE_NAME}",
        f"FROM {_from(settings.path, folder)}",
        f"TEMPLATE {_QUOTES}{go_template(settings)}{_QUOTES}",
        *(f"PARAMETER {name} {value}" for name, value in parameters(settings)),
        *([f"LICENSE {_QUOTES}{_without_quotes(licence)}{_QUOTES}"] if licence.strip() else []),
    ]
    return "\n".join(lines) + "\n"


def parameters(settings: Settings) -> list[tuple[str, str]]:
    """Names and values of PARAMETER lines.

    The penalty covers the whole context, as in the reference. ollama writes -1 for that, but llama.cpp's server, which newer
    versions of it run, takes -1 for none: the number says the same to both.
    """
    sampling = settings.sampling
    return [
        *(("stop", f'"{stop}"') for stop in settings.stops),
        ("temperature", f"{sampling.temperature:g}"),
        ("top_k", str(sampling.top_k)),
        ("top_p", f"{sampling.top_p:g}"),
        ("min_p", "0"),
        ("repeat_penalty", f"{sampling.repeat_penalty:g}"),
        ("repeat_last_n", str(settings.context)),
        ("num_ctx", str(settings.context)),
        ("num_predict", str(settings.max_new_tokens)),
    ]


def limits(settings: Settings) -> list[str]:
    """What ollama cannot do as bq does it, a line each."""
    found = [
        say(
            "ollama copies the weights into its own store when the model is created.",
            "创建模型时，ollama 会把权重复制到自己的存储中。",
        ),
        say(
            "When the context is full, ollama drops old messages one by one, not whole rounds, and keeps no room for the answer.",
            "上下文已满时，ollama 逐条丢弃旧消息而非整轮，也不为回答预留空间。",
        ),
    ]
    if settings.form != "raw":
        piece = settings.user or "<|im_start|>"
        found = [
            say(
                f"ollama's prompt is text: a message that contains {piece} forges a role. bq's own prompts cannot be forged.",
                f"ollama 的提示是文本：消息中写入 {piece} 即可伪造角色。bq 自己的提示无法伪造。",
            ),
            say(
                "ollama moves every system text to the beginning and joins messages of one role in a row.",
                "ollama 会把所有系统文本移到开头，并合并同一角色的连续消息。",
            ),
            *found,
        ]
    if settings.folds_spaces:
        found.append(
            say(
                "Runs of spaces in a text are not folded as the tokenizer asks.",
                "文本中连续的空格不会按分词器的要求合并。",
            )
        )
    return found


def default_name(settings: Settings) -> str:
    """NAME:MIXTURE in small letters, as ollama's own library names models."""
    return f"{slug(settings.name)[:80]}:{slug(settings.mixture)[:80]}".lower()


def check_name(name: str) -> str:
    """The name. Raises UsageError for one that ollama does not take."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            say(f"--name: {name!r} is no name of an ollama model.", f"--name：{name!r} 不是有效的 ollama 模型名。"),
            say(
                "Use letters, digits, dots, dashes, and one colon before a tag.",
                "请使用字母、数字、点、短横线，以及标签前的一个冒号。",
            ),
        )
    return name


def create(name: str, path: Path) -> None:
    """Have ollama make the model; it prints its own progress. Raises BqError if it is not here or fails."""
    program = shutil.which("ollama")
    if program is None:
        raise BqError(
            say("ollama is not installed, or not on PATH.", "未安装 ollama，或它不在 PATH 中。"),
            say(f"Install it, then: ollama create {name} -f {path}", f"安装后执行：ollama create {name} -f {path}"),
        )
    status = subprocess.run([program, "create", name, "-f", str(path)], check=False).returncode
    if status:
        raise BqError(
            say(f"ollama create ended with status {status}.", f"ollama create 以状态 {status} 结束。"),
            say("Its own message says why.", "原因见其自身的输出。"),
        )


def _from(path: Path, folder: Path) -> str:
    """The path of the weights: by name alone where they lie beside the Modelfile, so that the folder can be moved."""
    text = f".{os.sep}{path.name}" if path.parent == folder.absolute() else str(path)
    if not text.isprintable() or '"' in text or text != text.strip():
        raise BqError(
            say(f"A Modelfile cannot name the path {text!r}.", f"Modelfile 无法写入路径 {text!r}。"),
            say("Give the file another name or place.", "请为文件更换名称或位置。"),
        )
    return text


def _without_quotes(text: str) -> str:
    """The text so that its own quotes cannot end it."""
    return re.sub('"(?="|$)', "'", text.strip())
