"""The command line of llama.cpp's server for a model file, and the same as a section of its presets (--models-preset).

The options are those of llama.cpp as llama-cpp-python 0.3.36 carries it (common/arg.cpp; presets: common/preset.cpp and
tools/server/README.md). A value in a preset ends at a semicolon or a #, so what holds one is refused there.
"""

from collections.abc import Iterator, Sequence

from bq.library.export.settings import Settings
from bq.library.export.shell import Shell, command_line
from bq.runtime.errors import BqError
from bq.runtime.language import say

PROGRAM = "llama-server"
# Every option that is written here, by the name that the preset uses; on a command line with two dashes.
OPTIONS = (
    "model",
    "alias",
    "ctx-size",
    "predict",
    "parallel",
    "jinja",
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repeat-penalty",
    "repeat-last-n",
    "sampler-seq",
    "gpu-layers",
)
SEQUENCE = "etkp"  # SAMPLING_ORDER in the letters of common_sampler_type_to_chr
_FLAG = ""


def options(settings: Settings, gpu_layers: str = "auto") -> dict[str, str]:
    """The options and their values, "" for one that has none."""
    sampling = settings.sampling
    return {
        "model": str(settings.path),
        "alias": settings.slug,
        **({} if settings.form == "raw" else {"jinja": _FLAG}),
        "ctx-size": str(settings.context),
        "predict": str(settings.max_new_tokens),
        "parallel": "1",
        "temp": f"{sampling.temperature:g}",
        "top-k": str(sampling.top_k),
        "top-p": f"{sampling.top_p:g}",
        "min-p": "0",
        "repeat-penalty": f"{sampling.repeat_penalty:g}",
        "repeat-last-n": str(settings.context),
        "sampler-seq": SEQUENCE,
        "gpu-layers": gpu_layers,
    }


def server_command(settings: Settings, shell: Shell, gpu_layers: str = "auto") -> str:
    """The command line, ready to be pasted."""
    pairs = options(settings, gpu_layers).items()
    return command_line([[PROGRAM], *([f"--{name}", *([value] if value else [])] for name, value in pairs)], shell)


def preset(every: Sequence[Settings], gpu_layers: str = "auto") -> str:
    """The presets of some models, each under its own name."""
    return "\n".join(["version = 1", *(line for one in every for line in _section(one, gpu_layers))]) + "\n"


def _section(settings: Settings, gpu_layers: str) -> Iterator[str]:
    yield ""
    yield f"[{settings.slug}]"
    for name, value in options(settings, gpu_layers).items():
        if name != "alias":  # the server gives it: the section's name
            yield f"{name} = {_checked(value) or 'true'}"


def _checked(value: str) -> str:
    if not value.isprintable() or value != value.strip() or ";" in value or "#" in value:
        raise BqError(
            say(f"A preset of llama-server cannot hold {value!r}.", f"llama-server 的预设无法包含 {value!r}。"),
            say("Give the file another name or place.", "请为文件更换名称或位置。"),
        )
    return value


def limits(settings: Settings) -> list[str]:
    """What llama-server does otherwise than bq, a line each."""
    if settings.form == "raw":
        return [
            say(
                "A Base model goes on with a text: use /completion or /v1/completions, not the chat.",
                "Base 模型只会续写文本：请用 /completion 或 /v1/completions，而不是对话接口。",
            )
        ]
    piece = settings.user or "<|im_start|>"
    return [
        say(
            f"llama-server renders its prompt as text: a message that contains {piece} forges a role.",
            f"llama-server 把提示渲染为文本：消息中写入 {piece} 即可伪造角色。",
        ),
        say(
            "When the context is full it refuses or shifts; bq leaves out whole rounds, as the release does.",
            "上下文已满时它会拒绝或移动上下文；bq 则像原版一样略去整轮对话。",
        ),
    ]
