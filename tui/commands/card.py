"""`bq card`: the model card of some files, with the licence texts of the release beside it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say
from bq.tui.commands.model_name import ModelName

if TYPE_CHECKING:
    from bq.library.card.card import Languages

_HERE = "-"


@click.command(
    help=say(
        "Write the model card of FILE, or of several mixtures of one model: front matter for the hub, sizes, measured quality, "
        "how to run it, licence. Prints the path; without -o, the card itself.",
        "写出 FILE（或同一模型的多种量化）的模型卡：供 Hub 读取的头部、大小、已测质量、运行方式与许可证。"
        "输出其路径；不给 -o 时直接输出模型卡。",
    )
)
@click.argument("names", metavar="FILE...", nargs=-1, required=True, type=ModelName())
@click.option("-o", "--output", help=say("The file to write, or its folder.", "输出文件，或其文件夹。"))
@click.option(
    "--checkpoint",
    metavar=say("FOLDER", "文件夹"),
    help=say(
        "Where the release's licence texts lie; they are copied beside the card.",
        "原版许可证文本所在的文件夹；会复制到模型卡旁边。",
    ),
)
@click.option(
    "--base-model",
    metavar="OWNER/NAME",
    help=say("The repository that was quantized, if the file does not say.", "被量化的仓库（当文件未注明时）。"),
)
@click.option(
    "--text",
    "languages",
    type=click.Choice(["both", "en", "zh"]),
    default="both",
    show_default=True,
    help=say("The language of the card.", "模型卡的语言。"),
)
@click.option("--force", is_flag=True, help=say("Replace existing files.", "覆盖已有文件。"))
def command(
    names: Sequence[str],
    output: str | None,
    checkpoint: str | None,
    base_model: str | None,
    languages: "Languages",
    force: bool,
) -> None:
    """The card goes to stdout or a file, what is missing for it to stderr."""
    from bq.library.card.card import render
    from bq.library.card.facts import read_facts
    from bq.library.sources.source import check_repository
    from bq.library.written import write_bytes, write_text

    paths = model_files(names)
    licences = licence_texts(paths[0], checkpoint)
    if base_model is not None:
        check_repository(base_model)
    facts = read_facts(paths, licences, base_model)
    text = render(facts, languages)
    if not facts.licence_files:
        note(no_licence_text())
    if output is None or output == _HERE:
        click.echo(text, nl=False)
        return
    out = _out(output)
    write_text(out, text, force)
    for path in facts.licence_files:
        beside = out.parent / path.name
        if not (beside.exists() and beside.samefile(path)):
            write_bytes(beside, path.read_bytes(), force)
            note(say(f"Licence text: {beside}", f"许可证文本：{beside}"))
    click.echo(str(out))


def model_files(names: Sequence[str]) -> list[Path]:
    """The files of these paths or names. Raises UsageError for a folder."""
    from bq.tui.chosen_model import model_named, refuse_folder

    paths = [model_named(name) for name in names]
    for path in paths:
        refuse_folder(path)
    return paths


def licence_texts(path: Path, checkpoint: str | None) -> tuple[Path, ...]:
    """The texts in the folder that was given, else where the model's own may lie. Raises UsageError if there is none there."""
    from bq.library.licence import licence_files
    from bq.library.model_licences import licences_of_model
    from bq.runtime.errors import UsageError
    from bq.tui.user_files import path_named

    if checkpoint is None:
        return licences_of_model(path)
    found = licence_files(path_named(checkpoint))
    if not found:
        raise UsageError(
            say(f"There is no licence text in {checkpoint}.", f"{checkpoint} 中没有许可证文本。"),
            say("Give the folder of the release with --checkpoint.", "请用 --checkpoint 给出原版的文件夹。"),
        )
    return found


def no_licence_text() -> str:
    """What is said where the licence's text is not on this computer."""
    return say(
        "No licence text was found beside the file or its checkpoint: the card goes without. --checkpoint FOLDER adds it.",
        "未在文件或其检查点旁找到许可证文本：模型卡将不附全文。可用 --checkpoint 文件夹 附上。",
    )


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def _out(given: str) -> Path:
    from bq.library.card.card import FILE_NAME
    from bq.tui.user_files import path_named

    path = path_named(given)
    return path / FILE_NAME if path.is_dir() else path
