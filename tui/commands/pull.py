"""`bq pull`: from a release's name to a model that is converted, verified and in the library."""

import sys
from pathlib import Path

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.user_files import path_named


@click.command(
    help=say(
        "Download a release (`bq models`) or a repository OWNER/NAME, convert it, verify it against what was downloaded, and put it "
        "into the library. NAME:Q8_0 is the same as --quant Q8_0; of a repository with ready GGUF files it takes that one, checks it "
        "and offers to repair it. Shows sizes and licence and asks first. Stopped at any moment, the same command goes on. Prints "
        "the model's name.",
        "下载一个发布版（`bq models`）或仓库 OWNER/NAME，转换，与下载内容核对，并登记到模型库。NAME:Q8_0 等同于 --quant Q8_0；"
        "对于含有现成 GGUF 文件的仓库，则下载该文件，检查并提供修复。会先显示大小与许可并询问。随时中断，再次运行同一命令即可继续。"
        "输出模型名称。",
    )
)
@click.argument("name", metavar="NAME|OWNER/NAME")
@click.option(
    "--revision",
    help=say("A branch, tag or commit. [default: the release's]", "分支、标签或提交。[默认：发布版所用的]"),
)
@click.option(
    "--quant",
    "-q",
    metavar="MIXTURE",
    help=say(
        "The mixture of types. [default: Q4_K_M, or what fits this machine's memory]",
        "量化方式。[默认：Q4_K_M，或本机内存可容纳的]",
    ),
)
@click.option(
    "--from",
    "source",
    default="hf",
    show_default=True,
    metavar="hf|modelscope|FOLDER",
    help=say("Where from: a hub, or a folder or stick with a copy.", "来源：模型网站，或存有副本的文件夹或 U 盘。"),
)
@click.option("--offline", is_flag=True, help=say("Use what is on this computer alone.", "只使用本机已有的内容。"))
@click.option("--yes", is_flag=True, help=say("Do not ask.", "不询问。"))
@click.option(
    "--delete-checkpoint",
    is_flag=True,
    help=say("Remove the download when it is no longer needed.", "完成后删除下载的检查点。"),
)
@click.option(
    "--repair/--no-repair",
    default=None,
    help=say(
        "Repair a faulty GGUF file, or take it as it is. [default: ask]",
        "修复有误的 GGUF 文件，或原样使用。[默认：询问]",
    ),
)
@click.option(
    "-o",
    "--output",
    metavar=say("FILE", "文件"),
    help=say(
        "The file to write, or a folder. [default: in bq's own folder]", "输出文件或文件夹。[默认：bq 自己的文件夹]"
    ),
)
def command(
    name: str,
    revision: str | None,
    quant: str | None,
    source: str,
    offline: bool,
    yes: bool,
    delete_checkpoint: bool,
    repair: bool | None,
    output: str | None,
) -> int:
    """Plan, ask, do; 1 if the person says no."""
    from bq.library.pull import here, plan_pull, pulled
    from bq.library.sources.open import open_source
    from bq.library.wanted import wanted
    from bq.tui.pull_plan import ask, asking, tell_plan
    from bq.tui.pulling import carry_out, drop_checkpoint, tell_done

    want = wanted(name, revision)
    if want.tag and quant and want.tag.casefold() != quant.casefold():
        raise UsageError(
            say(f"{name} and --quant {quant} are two mixtures.", f"{name} 与 --quant {quant} 是两种量化。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    known = pulled(want, quant) if output is None else None
    if known is None:
        with asking(want.repository) as watcher:
            pull = plan_pull(want, open_source(source, offline), quant, _path(output), watcher)
        known = here(pull) if output is None else None
    if known is not None:
        print(say(f"It is here already: {known.path}", f"已在本机：{known.path}"), file=sys.stderr)
        if delete_checkpoint and known.checkpoint is not None and known.checkpoint.is_dir():
            drop_checkpoint(known, known.checkpoint)
        tell_done(known)
        click.echo(known.name)
        return 0
    tell_plan(pull)
    if not ask(yes):
        return 1
    click.echo(carry_out(pull, not delete_checkpoint, repair).name)
    return 0


def _path(output: str | None) -> Path | None:
    """Raises UsageError if its folder is not there."""
    if output is None:
        return None
    path = path_named(output)
    if not path.absolute().parent.is_dir():
        raise UsageError(
            say(f"There is no folder {path.parent}.", f"没有文件夹 {path.parent}。"),
            say("Make it first, or give another -o.", "请先创建，或用 -o 指定其他位置。"),
        )
    return path
