"""`bq rm`: models out of the library, with their files where those are bq's own."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.model_name import ModelName
from bq.tui.harmless import clean
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.library.entry import Entry
    from bq.library.removal import Removal


@click.command(
    help=say(
        "Take models out of the library. The file is deleted if bq made or downloaded it into its own folder; any other stays, "
        "unless --delete-file. Asks first.",
        "从模型库移除模型。由 bq 生成或下载到自己文件夹中的文件会被删除；其他文件保留，除非使用 --delete-file。会先询问。",
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


def _lines(plan: "Removal") -> list[str]:
    entry, path = plan.entry, clean(str(plan.entry.path))
    size = size_text(entry.size_bytes)
    if entry.is_missing:
        lines = [say(f"{entry.name}: forgotten; its file is gone already.", f"{entry.name}：移除；文件已不存在。")]
    elif plan.files:
        lines = [say(f"{entry.name}: deleted, {size}: {path}", f"{entry.name}：删除，{size}：{path}")]
    else:
        lines = [say(f"{entry.name}: forgotten; the file stays: {path}", f"{entry.name}：移除；文件保留：{path}")]
    if plan.checkpoint is not None:
        lines.append(say(f"  and the checkpoint {plan.checkpoint}", f"  以及检查点 {plan.checkpoint}"))
    return lines


def _agreed() -> bool:
    """Raises UsageError where there is no one to ask."""
    if not sys.stdin.isatty():
        raise UsageError(
            say("There is no terminal to ask on.", "没有可供询问的终端。"), say("Add --yes.", "请加上 --yes。")
        )
    return click.confirm(say("Go on?", "继续吗？"), err=True)
