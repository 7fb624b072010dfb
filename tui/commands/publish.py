"""`bq publish`: model files to Hugging Face, checked first, shown first, asked first."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.commands.card import licence_texts, model_files, no_licence_text, note
from bq.tui.commands.model_name import ModelName
from bq.tui.harmless import one_line

if TYPE_CHECKING:
    from bq.library.card.card import Languages
    from bq.library.publish import Plan
    from bq.tui.progress import Redrawn


@click.command(
    help=say(
        "Put FILE, or several mixtures of one model, on Hugging Face with a model card, the licence and the measured quality. "
        "Each file is checked as `bq verify` does; then you see what would be sent, and are asked. An upload that broke off "
        "goes on with the same command.",
        "把 FILE（或同一模型的多种量化）连同模型卡、许可证与已测质量发布到 Hugging Face。先像 `bq verify` 一样检查每个文件，"
        "再列出将要发送的内容并询问。中断的上传用同一命令继续。",
    )
)
@click.argument("names", metavar="FILE...", nargs=-1, required=True, type=ModelName())
@click.option("--to", "repository", metavar="OWNER/NAME", required=True, help=say("The repository.", "目标仓库。"))
@click.option("--private", "is_private", is_flag=True, help=say("Make it private.", "设为私有。"))
@click.option("--yes", is_flag=True, help=say("Do not ask.", "不询问。"))
@click.option(
    "--dry-run", is_flag=True, help=say("Show what would be sent, send nothing.", "只显示将发送的内容，不发送。")
)
@click.option(
    "--card",
    metavar="README.md",
    type=Path,
    help=say("A card of your own instead of bq's.", "用自己的模型卡代替 bq 生成的。"),
)
@click.option(
    "--checkpoint",
    metavar=say("FOLDER", "文件夹"),
    help=say("Where the release's licence texts lie.", "原版许可证文本所在的文件夹。"),
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
@click.option("--force", is_flag=True, help=say("Publish what fails the check, too.", "即使检查失败也发布。"))
@click.option(
    "--offline", is_flag=True, help=say("Use no network: only --dry-run works.", "不使用网络：仅可用 --dry-run。")
)
@click.option(
    "--json", "as_json", is_flag=True, help=say("With --dry-run: print JSON.", "与 --dry-run 合用：输出 JSON。")
)
def command(
    names: Sequence[str],
    repository: str,
    is_private: bool,
    yes: bool,
    dry_run: bool,
    card: Path | None,
    checkpoint: str | None,
    base_model: str | None,
    languages: "Languages",
    force: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Look, check, show, ask, send; stdout has the commit's address, or the plan of a dry run."""
    from bq.library.publish import token
    from bq.tui.publishing import plan_data, plan_text

    if as_json and not dry_run:
        raise UsageError(say("--json goes with --dry-run.", "--json 须与 --dry-run 合用。"))
    plan = _plan(names, repository, is_private, card, checkpoint, base_model, languages)
    if not dry_run:
        _refuse_offline(offline)
        _refuse_unasked(yes)
    key = "" if dry_run else token()  # what is missing is said before the work
    _check([one.path for one in plan.facts.files], force)
    if dry_run:
        click.echo(json.dumps(plan_data(plan), ensure_ascii=False, indent=2) if as_json else plan_text(plan))
        note(
            say(
                "A dry run: nothing was sent. `bq card` shows the card.",
                "试运行：未发送任何内容。用 `bq card` 查看模型卡。",
            )
        )
        return
    click.echo(_send(plan, key, yes))


def _plan(
    names: Sequence[str],
    repository: str,
    is_private: bool,
    card: Path | None,
    checkpoint: str | None,
    base_model: str | None,
    languages: "Languages",
) -> "Plan":
    from bq.library.card.facts import read_facts
    from bq.library.publish import make_plan
    from bq.library.sources.source import check_repository

    for name in (repository, *([base_model] if base_model is not None else [])):
        check_repository(name)
    paths = model_files(names)
    facts = read_facts(paths, licence_texts(paths[0], checkpoint), base_model)
    if not facts.licence_files:
        note(no_licence_text())
    return make_plan(repository, facts, is_private, card, languages)


def _refuse_offline(is_wanted: bool) -> None:
    from bq.library.hub_failure import offline
    from bq.library.sources.offline import is_offline

    if is_wanted or is_offline():
        raise offline()


def _refuse_unasked(yes: bool) -> None:
    """Before the check, which takes its time."""
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            say("There is no terminal to ask in.", "没有可供询问的终端。"),
            say("Look at it with --dry-run, then give --yes.", "请先用 --dry-run 查看，再给出 --yes。"),
        )


def _check(paths: Sequence[Path], force: bool) -> None:
    """`bq verify` of each file alone. Raises BqError for one that fails, unless `force`d."""
    from bq.convert.verify.file_checks import check_file
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import Redrawn

    for path in paths:
        line = Redrawn()
        try:
            checks = list(check_file(path, usable_cores(), partial(_draw, line, path.name)))
        finally:
            line.clear()
        failures = [one for one in checks if one.verdict == "failure"]
        for one in failures:
            note(f"- {one.text} {one.remedy}".rstrip())
        if failures and not force:
            raise BqError(
                say(f"{path.name} fails its check and is not published.", f"{path.name} 未通过检查，不予发布。"),
                say(
                    "Mend it with `bq repair`; --force publishes it as it is.",
                    "请用 `bq repair` 修复；--force 可原样发布。",
                ),
            )
        if not failures:
            note(say(f"Checked: {path.name}, {len(checks)} checks.", f"已检查：{path.name}，共 {len(checks)} 项。"))


def _draw(line: "Redrawn", name: str, done: float) -> None:
    from bq.tui.progress import bar

    line.draw(lambda _: f"{bar(done)}  {name}")


def _send(plan: "Plan", key: str, yes: bool) -> str:
    from bq.library.publish import look_up, send
    from bq.tui.publishing import plan_text

    note(plan_text(plan, look_up(plan, key)))
    if not yes and not click.confirm(say("Send it?", "发送吗？"), default=False, err=True):
        raise Cancelled(say("Nothing was sent.", "未发送任何内容。"))
    return one_line(send(plan, key))
