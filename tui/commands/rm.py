"""`bq rm`: models out of the library, with their files where those are bq's own."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.model_name import ModelName
from bq.tui.harmless import one_line
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.library.entry import Entry
    from bq.library.removal import Removal


@click.command(
    help=say(
        "Take models out of the library. The file is deleted if bq made it in its own folder or downloaded it, also into the Hugging "
        "Face cache, which other programs use too; any other stays, unless --delete-file. Says what goes and asks first.",
        "从模型库移除模型。由 bq 在自己的文件夹中生成的文件，以及由 bq 下载的文件（包括下载到与其他程序共用的 Hugging Face 缓存中的）"
        "会被删除；其他文件保留，除非使用 --delete-file。会先列出将删除的内容并询问。",
    )
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelName())
@click.option("--yes", is_flag=True, help=say("Do not ask.", "不询问。"))
@click.option("--delete-file", is_flag=True, help=say("Delete the file wherever it is.", "无论文件在何处都删除。"))
@click.option(
    "--checkpoint",
    is_flag=True,
    help=say("Delete the downloaded checkpoint it was made from, too.", "同时删除所用的已下载检查点。"),
)
def command(models: Sequence[str], yes: bool, delete_file: bool, checkpoint: bool) -> int:
    """Tell, ask, remove."""
    from bq.library.removal import plan_removal, remove

    chosen = {one.name: one for one in map(_entry, models)}
    plans = [plan_removal(one, delete_file, checkpoint) for one in chosen.values()]
    for plan in plans:
        for line in _lines(plan):
            print(line, file=sys.stderr)
    if not yes and not _agreed():
        print(say("Nothing was removed.", "没有移除任何内容。"), file=sys.stderr)
        return 1
    for plan in plans:
        remove(plan)
        click.echo(plan.entry.name)
    freed = sum(plan.bytes for plan in plans)
    print(say(f"Freed {size_text(freed)}.", f"释放了 {size_text(freed)}。"), file=sys.stderr)
    return 0


def _entry(text: str) -> "Entry":
    """The one model that is meant. Raises UsageError for none, and for several."""
    from bq.library.registry import matching

    found = matching(text)
    if not found:
        raise UsageError(
            say(f"There is no model {text} in the library.", f"模型库中没有 {text}。"),
            say("`bq list` shows those there are.", "`bq list` 列出已有的模型。"),
        )
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UsageError(
            say(f"{text} may be each of these: {names}.", f"{text} 可能指以下任何一个：{names}。"),
            say("Give the whole name.", "请给出完整名称。"),
        )
    return found[0]


def _lines(plan: "Removal") -> Iterator[str]:
    entry, path = plan.entry, one_line(str(plan.entry.path))
    size = size_text(entry.size_bytes)
    if entry.is_missing:
        yield say(f"{entry.name}: forgotten; its file is gone already.", f"{entry.name}：移除；文件已不存在。")
    elif plan.files:
        yield say(f"{entry.name}: deleted, {size}: {path}", f"{entry.name}：删除，{size}：{path}")
        yield from _cache_lines(entry.path)
    else:
        yield say(f"{entry.name}: forgotten; the file stays: {path}", f"{entry.name}：移除；文件保留：{path}")
    if plan.checkpoint is not None:
        yield from _checkpoint_lines(plan.checkpoint, entry)


def _checkpoint_lines(folder: Path, entry: "Entry") -> Iterator[str]:
    from bq.library.removal import made_from

    yield say(f"  and the checkpoint {one_line(str(folder))}", f"  以及检查点 {one_line(str(folder))}")
    yield from _cache_lines(folder)
    if others := ", ".join(one.name for one in made_from(folder, entry)):
        yield say(f"  from which {others} was made, too", f"  {others} 也由它生成")


def _cache_lines(path: Path) -> Iterator[str]:
    """A warning for what others may need."""
    from bq.library.downloads import is_in_cache

    if is_in_cache(path):
        yield say(
            "  It lies in the Hugging Face cache: other programs that use it there must download it again.",
            "  它在 Hugging Face 缓存中：使用它的其他程序将须重新下载。",
        )


def _agreed() -> bool:
    """Raises UsageError where there is no one to ask."""
    if not sys.stdin.isatty():
        raise UsageError(
            say("There is no terminal to ask on.", "没有可供询问的终端。"), say("Add --yes.", "请加上 --yes。")
        )
    return click.confirm(say("Go on?", "继续吗？"), err=True)
