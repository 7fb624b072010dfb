"""`bq list`: the models of the library, and the model files of folders, with sizes and measured quality. Only headers are read."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.examined import examine
from bq.tui.quality import as_data, listing
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.library.registry import Scan
    from bq.tui.library_list import Kept


@click.command(
    name="list",
    help=say(
        "List the models of the library, and other GGUF files of bq's own folder and the current one; or those of some FOLDERS.",
        "列出模型库中的模型，以及 bq 自己的文件夹与当前文件夹中的其他 GGUF 文件；或列出指定文件夹中的文件。",
    ),
)
@click.argument("folders", nargs=-1)
@click.option(
    "--rescan",
    is_flag=True,
    help=say(
        "Look first for models in bq's own folder and in FOLDERS, and for moved ones also here and beside those that are known.",
        "先在 bq 自己的文件夹与 FOLDERS 中查找模型，并在当前文件夹与已知模型旁查找移动过的文件。",
    ),
)
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
def command(folders: Sequence[str], rescan: bool, as_json: bool) -> None:
    """Print the tables."""
    from bq.tui.library_list import library, library_data, library_text

    paths = [path_named(one) for one in folders]
    if rescan:
        _rescan(paths)
    kept = library() if rescan or not folders else []
    others = examine(_others(kept) if not folders else [] if rescan else _once(paths))
    if as_json:
        data = [*map(library_data, kept), *map(as_data, others)]
        click.echo(json.dumps(data, ensure_ascii=False, indent=2))
        return
    parts = [library_text(kept)] if kept else []
    if others:
        parts += [_heading() + "\n" + listing(others) if kept else listing(others)]
    if parts:
        click.echo("\n\n".join(parts))
    else:
        _tell_nothing(bool(folders))


def _heading() -> str:
    return say("Not in the library (`bq import FILE` adds one):", "不在模型库中（`bq import 文件` 可登记）：")


def _rescan(folders: Sequence[Path]) -> None:
    from bq.library.registry import rescan

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(say(f"There is no folder {folder}.", f"没有文件夹 {folder}。"))
    _tell(rescan(folders, beside=[Path()]))


def _tell(scan: "Scan") -> None:
    moved, added, missing = len(scan.moved), len(scan.added), len(scan.missing)
    print(
        say(
            f"Found {added} new and {moved} moved; {missing} missing.",
            f"新增 {added} 个，找回 {moved} 个移动过的；缺失 {missing} 个。",
        ),
        file=sys.stderr,
    )


def _tell_nothing(are_given: bool) -> None:
    where = say("in these folders", "这些文件夹中") if are_given else say("here", "这里")
    click.echo(
        say(
            f"There are no GGUF files {where}. `bq pull` downloads a release, `bq convert` makes one of a checkpoint.",
            f"{where}没有 GGUF 文件。`bq pull` 可下载发布版，`bq convert` 可转换检查点。",
        ),
        err=True,
    )


def _others(kept: "Sequence[Kept]") -> list[Path]:
    """The files of bq's own folder and the current one that are not in the library."""
    from bq.library.home import models_folder

    known = {os.path.realpath(one.entry.path) for one in kept}
    own = [models_folder()] if models_folder().is_dir() else []
    return [path for path in _once([*own, Path()]) if os.path.realpath(path) not in known]


def _once(folders: Sequence[Path]) -> list[Path]:
    """The files of folders, each by the first of its names."""
    found: dict[str, Path] = {}
    for path in (path for folder in folders for path in _inside(folder)):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


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
