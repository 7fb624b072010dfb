"""The options that `run`, `complete` and `chat` share, and what they turn into."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bq.runtime.language import say
from bq.runtime.prompt_format import THINK_MODES
from bq.runtime.values import EVERY_LAYER
from bq.tui.commands.model_name import ModelName

if TYPE_CHECKING:
    from bq.runtime.sampling import Sampling
    from bq.runtime.values import LoadOptions

F = TypeVar("F", bound=Callable[..., Any])
LOADING = (
    "ctx",
    "threads",
    "gpu_layers",
    "cpu_experts",
    "kv",
    "device",
    "rpc",
    "mlock",
    "force_fit",
)  # as LoadOptions has them
SAMPLING = ("temp", "top_k", "top_p", "repeat_penalty", "seed", "greedy")


class Number(click.FloatRange):
    """A number of a range; NaN and infinity, which every range of click's lets through, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(say(f"{value!r} is no number.", f"{value!r} 不是数字。"), param, ctx)
        return number


class LayerCount(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.2
    """A number of layers, or "all", "none" or "auto"."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        words = {"auto": None, "none": 0, "all": EVERY_LAYER}
        text = str(value).strip().lower()
        if text in words:
            return words[text]
        if not text.isascii() or not text.isdecimal() or len(text) > 4:
            self.fail(say(f"{value!r} is no number of layers.", f"{value!r} 不是层数。"), param, ctx)
        return int(text)


def _note_too_many(context: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """Say that more threads than cores wait for each other, at each of a model's matrices."""
    from bq.runtime.cpu import usable_cores

    if value is not None and value > usable_cores():
        there = usable_cores()
        click.echo(
            say(
                f"Warning: --threads {value} on {there} core{'s' * (there > 1)}: they wait for each other, which is slow.",
                f"警告：--threads {value}，而可用核心只有 {there} 个：线程会互相等待，速度很慢。",
            ),
            err=True,
        )
    return value


_THREADS = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    callback=_note_too_many,
    help=say("Threads. [default: by cores and model size]", "线程数。[默认：按核心数与模型大小]"),
)
_GPU_LAYERS = click.option(
    "--gpu-layers",
    type=click.IntRange(0),
    help=say(
        "Layers on the GPU, the output as one more. [default: as many as fit]",
        "放到 GPU 的层数，输出层另计一层。[默认：能放多少放多少]",
    ),
)
_CPU_EXPERTS = click.option(
    "--cpu-experts",
    type=LayerCount(),
    metavar="N|all|none|auto",
    help=say(
        "Of a mixture of experts (Baichuan-M3): layers whose experts stay in main memory while the rest of them is on the GPU. "
        "[default: auto, as few as have to]",
        "混合专家模型（Baichuan-M3）：有多少层的专家留在内存中，而这些层的其余部分在 GPU 上。[默认：auto，尽量少]",
    ),
)
_DEVICE = click.option(
    "--device",
    metavar="NAMES",
    help=say(
        "GPUs to use, e.g. CUDA0,CUDA1, or cpu. [default: all]",
        "使用的 GPU，如 CUDA0,CUDA1，或 cpu。[默认：全部]",
    ),
)
_RPC = click.option(
    "--rpc",
    metavar=say("HOST:PORT,…", "主机:端口,…"),
    help=say(
        "Spread the model over other machines, where `bq worker` runs; needs a build with RPC (`make RPC=1`).",
        "把模型分布到运行 `bq worker` 的其他机器上；需要带 RPC 的构建（`make RPC=1`）。",
    ),
)
# In the order of the help.
_LOADING_OPTIONS = (
    click.option(
        "-m",
        "--model",
        type=ModelName(),
        help=say(
            "A GGUF file, or a model's name (`bq list`). [default: the last used, else the bundled one]",
            "GGUF 文件，或模型名称（`bq list`）。[默认：上次使用的，否则内置模型]",
        ),
    ),
    click.option(
        "--ctx",
        type=click.IntRange(64),
        help=say(
            "Context in tokens. [default: the model's, or less if memory is short]",
            "上下文长度（词元）。[默认：模型的长度，内存不足时缩短]",
        ),
    ),
    _THREADS,
    _GPU_LAYERS,
    _CPU_EXPERTS,
    click.option(
        "--kv",
        type=click.Choice(["f16", "q8_0"]),
        help=say(
            "How keys and values are kept. [default: f16, or q8_0 if memory is short]",
            "KV 缓存的类型。[默认：f16，内存不足时为 q8_0]",
        ),
    ),
)
_MORE_LOADING_OPTIONS = (
    _DEVICE,
    _RPC,
    click.option(
        "--no-mmap",
        is_flag=True,
        help=say("Read the file instead of mapping it.", "读入文件而不是映射文件。"),
    ),
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar=say("FILE[:WEIGHT]", "文件[:权重]"),
        help=say(
            "A LoRA adapter for this model, as `bq convert --adapter-gguf` writes it; several times for several.",
            "用于此模型的 LoRA 适配器（由 `bq convert --adapter-gguf` 写出）；可多次给出。",
        ),
    ),
    click.option("--mlock", is_flag=True, help=say("Keep the weights in RAM.", "把权重锁定在内存中。")),
    click.option(
        "--force-fit",
        is_flag=True,
        help=say("Load even if memory seems too short.", "即使内存似乎不足也加载。"),
    ),
)
_SAMPLING_OPTIONS = (
    click.option("--max-tokens", type=click.IntRange(1), help=say("Longest answer in tokens.", "回答的最大词元数。")),
    click.option("--temp", type=Number(0), help=say("Temperature; 0 is greedy.", "温度；0 即贪心。")),
    click.option(
        "--top-k",
        type=click.IntRange(0),
        help=say("Draw from this many likeliest tokens.", "只从概率最高的若干词元中抽取。"),
    ),
    click.option(
        "--top-p",
        type=Number(0, 1),
        help=say("Draw from the likeliest tokens of this total probability.", "只从累计概率达到此值的词元中抽取。"),
    ),
    click.option(
        "--repeat-penalty",
        type=Number(0, min_open=True),
        help=say("Repetition penalty; 1 is none.", "重复惩罚；1 表示不惩罚。"),
    ),
    click.option("--seed", type=click.IntRange(0, 2**32 - 2), help=say("Seed of the random draws.", "随机种子。")),
    click.option("--greedy", is_flag=True, help=say("Always the likeliest token.", "总是取最可能的词元。")),
)


def _with_options(function: F, options: Sequence[Callable[[F], F]]) -> F:
    """A command with options that the help lists in this order."""
    for option in reversed(options):
        function = option(function)
    return function


def model_options(function: F) -> F:
    """-m and how to load it."""
    return _model_options(function, "--batch-size")


def model_options_alone(function: F) -> F:
    """The same where no other option is called --batch."""
    return _model_options(function, "--batch", "--batch-size")


def _model_options(function: F, *batch_names: str) -> F:
    batch = click.option(
        *batch_names,
        "batch_size",
        type=click.IntRange(1, 16384),
        help=say("Tokens of the prompt read at once. [default: 512]", "一次读入的提示词元数。[默认：512]"),
    )
    return _with_options(function, (*_LOADING_OPTIONS, batch, *_MORE_LOADING_OPTIONS))


def device_options(function: F) -> F:
    """--threads, --gpu-layers, --cpu-experts and --device, for commands that read texts with a model and answer nothing."""
    return _with_options(function, (_THREADS, _GPU_LAYERS, _CPU_EXPERTS, _DEVICE))


def rpc_option(function: F) -> F:
    """--rpc alone."""
    return _RPC(function)


def sampling_options(function: F) -> F:
    """How the next token is drawn; what is not given is as the release has it."""
    return _with_options(function, _SAMPLING_OPTIONS)


def stop_option(function: F) -> F:
    """--stop."""
    return click.option(
        "--stop",
        multiple=True,
        help=say("End the answer before this text; may be given several times.", "在此文本之前结束回答；可多次指定。"),
    )(function)


def draft_option(function: F) -> F:
    """--no-draft."""
    return click.option(
        "--no-draft",
        is_flag=True,
        help=say(
            "Never guess ahead what an answer may repeat; the answer is the same either way.",
            "不预先猜测回答中可能重复的内容；回答本身不变。",
        ),
    )(function)


def think_option(function: F) -> F:
    """--think."""
    return click.option(
        "--think",
        type=click.Choice(THINK_MODES),
        help=say(
            "Whether the model thinks before it answers (Baichuan-M2 and M3). [default: auto, as the model decides]",
            "模型回答前是否思考（Baichuan-M2 与 M3）。[默认：auto，由模型决定]",
        ),
    )(function)


def session_option(function: F) -> F:
    """--session."""
    return click.option(
        "--session",
        metavar="FILE",
        help=say(
            "Go on with the conversation in this file, and keep it there with what the model has read.",
            "接着此文件中的对话，并把对话与模型已读的内容保存在其中。",
        ),
    )(function)


def load_options(given: dict[str, Any]) -> "LoadOptions":
    """The LoadOptions of the command's arguments."""
    from bq.runtime.adapters import given_adapter
    from bq.runtime.values import LoadOptions

    same = {name: given[name] for name in LOADING}
    adapters = tuple(given_adapter(text).text for text in given["adapters"])
    return LoadOptions(**same, batch=given["batch_size"], mmap=False if given["no_mmap"] else None, adapters=adapters)


def sampling(given: dict[str, Any], default: "Sampling") -> "Sampling":
    """The release's sampling with what the command's arguments change."""
    names = {
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "repeat_penalty": "repeat_penalty",
        "seed": "seed",
    }
    changes = {field: given[name] for name, field in names.items() if given[name] is not None}
    if given["greedy"]:
        changes["temperature"] = 0.0
    return replace(default, **changes)
