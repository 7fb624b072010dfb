"""How prompts are written for a file: by its own word, or by what architecture and vocabulary it has."""

from bq.runtime.errors import BqError, UsageError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say
from bq.runtime.prompt_format import (
    BAICHUAN,
    CHATML,
    M1,
    PROMPT_KEY,
    PromptFormat,
    Roles,
    Think,
    baichuan_format,
    chatml_format,
    m1_format,
)


def prompt_format(file: GgufFile) -> PromptFormat:
    """How prompts are written for this file: as it says itself, else in the way of its architecture.

    Raises BqError if its vocabulary lacks a piece that its prompts are made with.
    """
    name, pieces = prompt_name(file), file.metadata.get("tokenizer.ggml.tokens")
    if name == BAICHUAN:
        return baichuan_format(roles_of(file))
    known = pieces if isinstance(pieces, list) else []
    try:
        return m1_format(known) if name == M1 else chatml_format(known)
    except KeyError as error:
        piece = error.args[0]
        raise BqError(
            say(
                f"{_name(file)} has no piece {piece}, which its prompts are written with.",
                f"{_name(file)} 的词表中没有构造提示所需的 {piece}。",
            ),
            say(
                "It is no Baichuan model, or another program broke its vocabulary: convert the release again.",
                "它不是 Baichuan 模型，或词表已被其他程序破坏：请重新转换原版发布。",
            ),
        ) from None


def prompt_name(file: GgufFile) -> str:
    """BAICHUAN, M1 or CHATML."""
    own, architecture = file.text(PROMPT_KEY), file.text("general.architecture")
    if own in (BAICHUAN, M1, CHATML):
        return own
    if architecture.replace("-", "_") == "baichuan_m1":
        return M1
    return CHATML if file.text("tokenizer.ggml.model") == "gpt2" else BAICHUAN


def roles_of(file: GgufFile) -> Roles:
    """The ids that begin a message: the file's own, else those of every release."""
    usual = Roles()
    return Roles(
        file.count("bq.role.user_id", usual.user),
        file.count("bq.role.assistant_id", usual.assistant),
    )


def think_refusal(name: str) -> UsageError:
    """The error for a model of this name that is told whether to think and knows nothing of it."""
    return UsageError(
        say(
            f"{name} has no thinking mode: it answers at once.",
            f"{name} 没有思考模式：它会直接回答。",
        ),
        say("Leave --think out, or use Baichuan-M2 or M3.", "请去掉 --think，或使用 Baichuan-M2 或 M3。"),
    )


def check_think(file: GgufFile, think: Think | None, name: str) -> None:
    """Raise UsageError if a file, a model of this name, is told whether to think and knows nothing of it."""
    if think not in (None, "auto") and prompt_format(file).thinking is None:
        raise think_refusal(name)


def _name(file: GgufFile) -> str:
    """The file's name without what could control the terminal."""
    return "".join(filter(str.isprintable, file.path.name[:100]))
