"""`bq pull`: from a release's name to a model that is converted, verified and in the library."""

import os
import sys
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.library.entry import Entry
    from bq.library.pull import Output
    from bq.library.wanted import Wanted


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
@click.option(
    "--update",
    is_flag=True,
    help=say(
        "Ask whether the branch has a newer commit, and let that replace the model that is here once it is verified.",
        "查询分支是否有更新的提交；若有，新文件通过核对后替换本机的模型。",
    ),
)
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
        "The file to write, NAME.gguf, or a folder; FOLDER/ is made. [default: in bq's own folder]",
        "输出文件（名称.gguf）或文件夹；写作 文件夹/ 则会创建。[默认：bq 自己的文件夹]",
    ),
)
def command(
    name: str,
    revision: str | None,
    quant: str | None,
    source: str,
    offline: bool,
    update: bool,
    yes: bool,
    delete_checkpoint: bool,
    repair: bool | None,
    output: str | None,
) -> int:
    """Plan, ask, do; 1 if the person says no."""
    from bq.library.pull import here, is_current, outdated, plan_pull, pulled
    from bq.library.sources.open import open_source
    from bq.library.wanted import wanted
    from bq.tui.pull_plan import ask, asking, tell_plan
    from bq.tui.pulling import carry_out

    want = wanted(name, revision)
    if want.tag and quant and want.tag.casefold() != quant.casefold():
        raise UsageError(
            say(f"{name} and --quant {quant} are two mixtures.", f"{name} 与 --quant {quant} 是两种量化。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    if update:
        _check_update(offline, output)
    place, opened = _output(output), open_source(source, offline)
    known = pulled(want, quant) if output is None and not update else None
    if known is not None:
        return _here_already(known, name, delete_checkpoint)
    old = outdated(want, quant, opened.name) if update else None
    _refuse_other_source(want, quant, old, update)
    with asking(want.repository) as watcher:
        pull = plan_pull(want, opened, quant, place, watcher, old)
    if old is not None and is_current(pull):
        return _here_already(old, name, delete_checkpoint, is_asked=True)
    known = here(pull) if output is None and old is None else None
    if known is not None:
        return _here_already(known, name, delete_checkpoint, is_asked=True)
    tell_plan(pull)
    if not ask(yes):
        return 1
    click.echo(carry_out(pull, not delete_checkpoint, repair).name)
    return 0


def _here_already(known: "Entry", name: str, delete_checkpoint: bool, is_asked: bool = False) -> int:
    """Tell where it is; `is_asked`: the source was asked what it has now."""
    from bq.library.sources.source import is_commit
    from bq.tui.pulling import drop_checkpoint, tell_done

    print(say(f"It is here already: {known.path}", f"已在本机：{known.path}"), file=sys.stderr)
    commit = known.source.commit[:8] if known.source else ""
    if is_asked and commit:
        print(say(f"{commit} is the newest commit.", f"{commit} 就是最新的提交。"), file=sys.stderr)
    elif commit and known.source and not is_commit(known.source.revision):
        print(
            say(
                f"A newer commit is looked for by: bq pull {name} --update", f"查找更新的提交：bq pull {name} --update"
            ),
            file=sys.stderr,
        )
    if delete_checkpoint and known.checkpoint is not None and known.checkpoint.is_dir():
        drop_checkpoint(known, known.checkpoint)
    tell_done(known)
    click.echo(known.name)
    return 0


def _check_update(offline: bool, output: str | None) -> None:
    """Raises UsageError for what --update cannot be combined with."""
    from bq.library.sources.offline import is_offline

    if offline or is_offline():
        raise UsageError(
            say("--update asks the source, and bq is offline.", "--update 需要查询来源，而 bq 处于离线模式。"),
            say("Leave out --update, or go online.", "请去掉 --update，或联网。"),
        )
    if output is not None:
        raise UsageError(
            say(
                "--update replaces the file where it is; -o names another place.",
                "--update 在原处替换文件；-o 指定了其他位置。",
            ),
            say("Leave one of them out.", "请去掉其中一个。"),
        )


def _refuse_other_source(want: "Wanted", quant: str | None, old: "Entry | None", update: bool) -> None:
    """Raise UsageError if what is to be brought up to date came from elsewhere, where commits have other names."""
    from bq.library.pull import pulled

    known = pulled(want, quant) if update and old is None else None
    if known is None or known.source is None:
        return
    raise UsageError(
        say(
            f"{known.name} came from {known.source.source}, revision {known.source.revision or '-'}.",
            f"{known.name} 来自 {known.source.source}，修订版 {known.source.revision or '-'}。",
        ),
        say("Give the same --from and --revision.", "请给出相同的 --from 与 --revision。"),
    )


def _output(text: str | None) -> "Output | None":
    """The file or folder that was typed. Raises UsageError for what is neither, or has no folder to stand in."""
    from bq.library.pull import Output

    if text is None:
        return None
    path = path_named(text)
    if path.is_dir() or text.strip().endswith((os.sep, os.altsep or os.sep)):
        if path.exists() and not path.is_dir():
            raise UsageError(
                say(f"{path} is a file, not a folder.", f"{path} 是文件，不是文件夹。"),
                say("Give another -o.", "请用 -o 指定其他位置。"),
            )
        return Output(path, is_folder=True)
    if path.suffix.casefold() != ".gguf":
        raise UsageError(
            say(
                f"{path} is no folder that is there, and no name of a GGUF file.",
                f"{path} 不是已有的文件夹，也不是 GGUF 文件名。",
            ),
            say(
                f"Write {path}{os.sep} for a folder, or {path}.gguf.",
                f"文件夹请写作 {path}{os.sep}，文件请写作 {path}.gguf。",
            ),
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            say(f"There is no folder {path.parent}.", f"没有文件夹 {path.parent}。"),
            say("Make it first, or give another -o.", "请先创建，或用 -o 指定其他位置。"),
        )
    return Output(path)
