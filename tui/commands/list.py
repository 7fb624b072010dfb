"""`bq list`: the model files here, with sizes and measured quality. Only headers are read."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.examined import examine
from bq.tui.quality import as_data, listing
from bq.tui.user_files import path_named


@click.command(
    name="list",
    help=say(
        "List the GGUF models of some folders. [default: bq's own folder and the current one]",
        "列出文件夹中的 GGUF 模型。[默认：bq 自己的文件夹与当前文件夹]",
    ),
)
@click.argument("folders", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
def command(folders: Sequence[str], as_json: bool) -> None:
    """Print the table."""
    found = examine(_paths([path_named(one) for one in folders]))
    if as_json:
        click.echo(json.dumps([as_data(one) for one in found], ensure_ascii=False, indent=2))
    elif found:
        click.echo(listing(found))
    else:
        where = say("in these folders", "这些文件夹中") if folders else say("here", "这里")
        click.echo(
            say(
                f"There are no GGUF files {where}. `bq convert` makes one.",
                f"{where}没有 GGUF 文件。可用 `bq convert` 生成。",
            ),
            err=True,
        )


def _paths(folders: Sequence[Path]) -> list[Path]:
    from bq.tui.chosen_model import known_models

    here = [*known_models(), *_inside(Path())] if not folders else []
    paths = [*here, *(path for folder in folders for path in _inside(folder))]
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]  # the first name of each file


def _inside(folder: Path) -> list[Path]:
    """The GGUF files of a folder, in order; a file is its own. Raises UsageError for what is neither."""
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise UsageError(
                say(f"The folder {folder} may not be read.", f"无权读取文件夹 {folder}。"),
                say("Check its permissions.", "请检查其权限。"),
            )
        return sorted(path for path in folder.glob("*.gguf") if not path.is_dir())
    if folder.is_file():
        return [folder]
    raise UsageError(
        say(f"There is no folder {folder}.", f"没有文件夹 {folder}。"), say("Check the path.", "请检查路径。")
    )
