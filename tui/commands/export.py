"""`bq export`: what ollama, LM Studio and llama-server need to run a model as its release means it."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.card import model_files
from bq.tui.commands.model_name import ModelName

if TYPE_CHECKING:
    from bq.library.export.settings import Settings
    from bq.library.export.shell import Shell

F = TypeVar("F", bound=Callable[..., Any])


def _file_argument(function: F) -> F:
    return click.argument("name", metavar="FILE", type=ModelName())(function)


def _json_option(function: F) -> F:
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help=say(
            "Print all settings as JSON for any program, write nothing.",
            "以 JSON 输出全部设置供任何程序使用，不写文件。",
        ),
    )(function)


def _force_option(function: F) -> F:
    return click.option("--force", is_flag=True, help=say("Replace existing files.", "覆盖已有文件。"))(function)


def _folder_option(english: str, chinese: str) -> Callable[[F], F]:
    return click.option("-o", "--output", "folder", metavar=say("FOLDER", "文件夹"), help=say(english, chinese))


@click.group(
    name="export",
    help=say(
        "Give a model to another program: FILE is linked to, never copied, and the prompt, stops and sampling of its release go "
        "with it.",
        "把模型交给其他程序：只链接 FILE，不复制；并附上其发布版的提示格式、停止词与采样参数。",
    ),
)
def command() -> None:
    """The programs are its subcommands."""


@command.command(
    "ollama",
    help=say(
        "Write a Modelfile for ollama and print its path.",
        "写出 ollama 的 Modelfile，并输出其路径。",
    ),
)
@_file_argument
@_folder_option(
    "The folder to write into. [default: NAME-ollama here]", "写入的文件夹。[默认：当前文件夹下的 名称-ollama]"
)
@click.option("--name", "model", help=say("What ollama will call the model.", "模型在 ollama 中的名称。"))
@click.option(
    "--create", "is_created", is_flag=True, help=say("Call `ollama create` afterwards.", "随后执行 `ollama create`。")
)
@_force_option
@_json_option
def ollama_command(
    name: str, folder: str | None, model: str | None, is_created: bool, force: bool, as_json: bool
) -> None:
    """The Modelfile names the file; ollama copies it when the model is created."""
    from bq.library.export import ollama

    settings = _settings(name)
    chosen = ollama.check_name(model or ollama.default_name(settings))
    licence = _licence(settings.path)
    if as_json:
        _print_json(settings, ollama={"name": chosen, "modelfile": ollama.modelfile(settings, Path("/"), licence)})
        return
    out = _folder(folder, f"{settings.slug}-ollama") / ollama.FILE_NAME
    _write(out, ollama.modelfile(settings, out.parent, licence), force)
    _tell([*settings.warnings, *ollama.limits(settings)])
    if is_created:
        ollama.create(chosen, out)
    _next(_typed("ollama", "run", chosen) if is_created else _typed("ollama", "create", chosen, "-f", out))
    click.echo(str(out))


@command.command(
    "lmstudio",
    help=say(
        "Lay the model out as LM Studio wants it, with a preset, and print the preset's path. `-o ~/.lmstudio` puts both where "
        "LM Studio looks.",
        "按 LM Studio 的要求放置模型并写出预设，输出预设的路径。`-o ~/.lmstudio` 会直接放到 LM Studio 查找的位置。",
    ),
)
@_file_argument
@_folder_option(
    "LM Studio's home folder, or one to move from. [default: NAME-lmstudio here]",
    "LM Studio 的主文件夹，或供之后移动的文件夹。[默认：当前文件夹下的 名称-lmstudio]",
)
@_force_option
@_json_option
def lmstudio_command(name: str, folder: str | None, force: bool, as_json: bool) -> None:
    """A link below models/, a preset below config-presets/."""
    from bq.library.export import lmstudio
    from bq.library.export.link import link

    settings = _settings(name)
    preset = lmstudio.preset(settings)
    if as_json:
        _print_json(settings, lmstudio={"place": lmstudio.model_place(settings), "preset": preset})
        return
    home = _folder(folder, f"{settings.slug}-lmstudio")
    out = home / lmstudio.preset_place(settings)
    _refuse_existing(out, force)
    link(settings.path, home / lmstudio.model_place(settings))
    _write(out, json.dumps(preset, ensure_ascii=False, indent=2) + "\n", force)
    _tell([*settings.warnings, *lmstudio.limits(settings)])
    _next(
        say(
            f"LM Studio: load {settings.slug}, choose the preset {settings.slug}",
            f"LM Studio：加载 {settings.slug}，选择预设 {settings.slug}",
        )
    )
    click.echo(str(out))


@command.command(
    "llama-server",
    help=say(
        "Print the command line of llama.cpp's server, ready to be pasted; with -o, write its presets (--models-preset) for one "
        "or several FILEs.",
        "输出 llama.cpp 服务器的命令行，可直接粘贴；给出 -o 时，把一个或多个 FILE 写成其预设（--models-preset）。",
    ),
)
@click.argument("names", metavar="FILE...", nargs=-1, required=True, type=ModelName())
@click.option("-o", "--output", metavar="INI", help=say("The file of presets to write instead.", "改为写出预设文件。"))
@click.option(
    "--shell",
    type=click.Choice(["bash", "powershell"]),
    help=say("Whose quoting to use. [default: this system's]", "使用哪种 shell 的引号规则。[默认：本系统的]"),
)
@click.option(
    "--gpu-layers",
    default="auto",
    metavar=say("N|auto|all", "N|auto|all"),
    show_default=True,
    help=say("Layers on the GPU; older versions want a number.", "放到 GPU 的层数；旧版本需要数字。"),
)
@_force_option
@_json_option
def server_command(
    names: Sequence[str], output: str | None, shell: "Shell | None", gpu_layers: str, force: bool, as_json: bool
) -> None:
    """The command goes to stdout alone, notes to stderr."""
    from bq.library.export import llama_server

    _check_layers(gpu_layers)
    if len(names) > 1 and not output:
        raise UsageError(
            say("A command line is for one FILE.", "命令行只针对一个 FILE。"),
            say("Write presets for several with -o.", "多个文件请用 -o 写成预设。"),
        )
    every = [_settings(name) for name in names]
    if as_json:
        for one in every:
            _print_json(one, llama_server={"options": llama_server.options(one, gpu_layers)})
        return
    text = llama_server.preset(every, gpu_layers) if output else ""
    line = "" if output else llama_server.server_command(every[0], shell or _shell(), gpu_layers)
    _tell(list(dict.fromkeys(line for one in every for line in (*one.warnings, *llama_server.limits(one)))))
    if output:
        out = _path(output)
        _write(out, text, force)
        _next(_typed("llama-server", "--models-preset", out))
    click.echo(str(out) if output else line)


def _check_layers(text: str) -> None:
    if text not in ("auto", "all") and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise UsageError(
            say(f"--gpu-layers: {text!r} is no number.", f"--gpu-layers：{text!r} 不是数字。"),
            say("Give a number, auto or all.", "请给出数字、auto 或 all。"),
        )


def _settings(name: str) -> "Settings":
    """The settings of a file, or of a model of the library by its name."""
    from bq.library.export.settings import read_settings

    return read_settings(*model_files([name]))


def _path(text: str) -> Path:
    from bq.tui.user_files import path_named

    return path_named(text)


def _licence(path: Path) -> str:
    """The licence's text where it lies on this computer, else its name and where it is explained."""
    from bq.library.licence import licence_of, licence_text
    from bq.library.model_licences import licences_of_model
    from bq.runtime.gguf_file import read_gguf

    licence = licence_of(read_gguf(path))
    return licence_text(licences_of_model(path)) or " ".join(part for part in (licence.name, licence.link) if part)


def _folder(given: str | None, default: str) -> Path:
    return (_path(given) if given else Path(default)).absolute()


def _shell() -> "Shell":
    return "powershell" if os.name == "nt" else "bash"


def _refuse_existing(out: Path, force: bool) -> None:
    from bq.runtime.output_path import refuse_existing

    if not force:
        refuse_existing(out)


def _write(out: Path, text: str, force: bool) -> None:
    """Write a file whole or not at all, its folder made if need be."""
    from bq.library.written import write_text

    write_text(out, text, force)


def _print_json(settings: "Settings", **program: dict[str, Any]) -> None:
    """The settings for any program, and what is this one's own."""
    from bq.library.export.settings import as_data

    click.echo(json.dumps({**as_data(settings), **program}, ensure_ascii=False, indent=2))


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"- {line}", file=sys.stderr)


def _typed(*arguments: object) -> str:
    """A command to type, its arguments quoted for this system's shell."""
    from bq.library.export.shell import command_line

    return command_line([list(map(str, arguments))], _shell())


def _next(line: str) -> None:
    print(say("Next: ", "接下来：") + line, file=sys.stderr)
