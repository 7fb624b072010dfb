"""`bq import`: model files from anywhere into the library, where they lie."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.tui.harmless import one_line
from bq.tui.user_files import path_named


@click.command(
    name="import",
    help=say(
        "Put GGUF files into the library, and those of a FOLDER and the folders in it. They stay where they are, nothing is copied. "
        "A file that was moved keeps its name. What is known to be wrong with a file is said. Prints the names.",
        "把 GGUF 文件登记到模型库；给出文件夹时包括其子文件夹。文件留在原处，不复制。移动过的文件保留原名称。会说明文件的已知问题。"
        "输出名称。",
    ),
)
@click.argument("paths", metavar="FILE|FOLDER...", nargs=-1, required=True)
@click.option("--name", help=say("A name of your own, for one file.", "自定名称，用于单个文件。"))
def command(paths: Sequence[str], name: str | None) -> int:
    """Register each; the exit status is 1 if one is no model."""
    found = _once(_files([path_named(one) for one in paths]))
    if name is not None and len(found) != 1:
        raise UsageError(
            say(f"--name is for one file; these are {len(found)}.", f"--name 只用于一个文件；这里有 {len(found)} 个。"),
            say("Leave --name out.", "请去掉 --name。"),
        )
    if not found:
        _note(say("There are no GGUF files there.", "那里没有 GGUF 文件。"))
    failed = [path for path in found if not _import(path, name)]
    return int(bool(failed))


def _once(paths: Iterable[Path]) -> list[Path]:
    """Each file by one name: by its own before those of links to it."""
    found: dict[str, Path] = {}
    for path in sorted(paths, key=Path.is_symlink):
        found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files to register. Raises UsageError for a path where nothing is."""
    from bq.library.registry import gguf_files

    for path in paths:
        if path.is_dir():
            yield from gguf_files(path)
        elif path.is_file():
            yield path
        else:
            raise UsageError(
                say(f"There is no file or folder {path}.", f"没有文件或文件夹 {path}。"),
                say("Check the path.", "请检查路径。"),
            )


def _import(path: Path, name: str | None) -> bool:
    """Register a file and tell what is wrong with it; whether it is a model. Raises UsageError for a name that it cannot have."""
    from bq.library.registry import register
    from bq.runtime.known import file_warnings
    from bq.tui.model_file import read_model

    try:
        file = read_model(path)
    except BqError as error:
        _note(f"{one_line(str(path))}: {error}")
        return False
    click.echo(register(path, name).name)
    for warning in file_warnings(file):
        _note(say("Warning: ", "警告：") + one_line(warning))
    return True


def _note(text: str) -> None:
    print(text, file=sys.stderr)
