"""The group of commands. Each is imported only when it is called, so that `bq --help` starts at once."""

import importlib
import keyword

import click

from bq.runtime.language import say

# Command -> its line in the help; the module of the same name in bq.tui.commands holds it as `command` (see module_of).
COMMANDS = {
    "models": (
        "Every Baichuan release, its sizes, and which to choose.",
        "列出 Baichuan 的全部发布版、大小与选择建议。",
    ),
    "pull": ("Download a release, convert it, check it.", "下载一个发布版，转换并检查。"),
    "convert": ("Convert a checkpoint to a quantized GGUF file.", "把检查点转换为量化的 GGUF 文件。"),
    "verify": ("Prove that a GGUF file says what its checkpoint says.", "证明 GGUF 文件与其检查点一致。"),
    "eval": (
        "Measure a file's quality: perplexity, and KL divergence from a reference.",
        "测量文件质量：困惑度，以及相对参考的 KL 散度。",
    ),
    "imatrix": ("Gather an importance matrix for better small files.", "收集重要性矩阵，使小文件质量更好。"),
    "search": ("Find the best types for a size.", "为给定大小寻找最佳量化类型。"),
    "repair": ("Mend a GGUF file that another program made wrong.", "修复其他程序生成的有误的 GGUF 文件。"),
    "inspect": ("Show what is in a GGUF file or a checkpoint.", "查看 GGUF 文件或检查点的内容。"),
    "list": ("The models here, with sizes and measured quality.", "列出这里的模型、大小与已测质量。"),
    "import": ("Put model files into the library, where they lie.", "把模型文件登记到模型库，文件留在原处。"),
    "path": ("Print the path of a model's file.", "输出模型文件的路径。"),
    "rm": ("Take models out of the library.", "从模型库移除模型。"),
    "export": ("Give a model to ollama, LM Studio or llama-server.", "把模型交给 ollama、LM Studio 或 llama-server。"),
    "card": ("Write a model card for publishing.", "写出供发布的模型卡。"),
    "publish": ("Put models on Hugging Face, after a look.", "确认后把模型发布到 Hugging Face。"),
    "run": ("Give one instruction, get one answer.", "给出一条指令，得到一个回答。"),
    "complete": ("Let a Base model go on with a text.", "让 Base 模型续写文本。"),
    "chat": ("Talk to a model in the terminal.", "在终端中与模型对话。"),
    "worker": ("Lend this machine to a model on another one.", "把本机借给另一台机器上的模型。"),
    "doctor": ("What this machine has, and how models would be loaded.", "查看本机配置，以及模型会如何加载。"),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bq.tui.commands.{module_of(name)}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(say("Commands", "命令")):
            formatter.write_dl([(name, say(*texts)) for name, texts in COMMANDS.items()])


def module_of(name: str) -> str:
    """The module of a command: of its name, with a line behind it where that is a word of Python's own."""
    return f"{name}_" if keyword.iskeyword(name) else name


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=say(
        "Convert a Baichuan checkpoint to a quantized GGUF file, check it, and talk to it. Offline, no server.",
        "把 Baichuan 检查点转换为量化的 GGUF 文件，检查它，并与它对话。离线运行，无需服务器。",
    ),
)
@click.version_option(package_name="baichuan-bq", prog_name="bq")
@click.option("--lang", type=click.Choice(["en", "zh"]), help=say("The language of all texts.", "界面语言。"))
@click.option(
    "--debug", is_flag=True, help=say("Show llama.cpp's log and full traces.", "显示 llama.cpp 日志与完整错误。")
)
def cli(lang: str | None, debug: bool) -> None:
    """The options are taken in bq.tui.main, wherever they stand; here they only appear in the help."""
