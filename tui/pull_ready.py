"""A GGUF file that someone else made, pulled: checked before it is used, its faults named, its repair offered."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.tui.harmless import one_line

if TYPE_CHECKING:
    from bq.convert.repair.repair import Repair
    from bq.library.pull import Pull
    from bq.library.registry import Entry


def take_ready(pull: "Pull", folder: Path, keep_download: bool, repair: bool | None) -> "Entry":
    """Check, repair if that is wanted, register. Raises BqError for a file that cannot be used."""
    from bq.library.pull_steps import as_published, enter, place
    from bq.library.sources.source import local_path
    from bq.tui.pulling import drop_checkpoint, leave_replaced, tell_done

    fetched = local_path(folder, pull.files[0])
    with as_published(pull):
        faults = _faults(fetched)
    plan = _repair_plan(fetched) if faults else None
    for fault in faults:
        _note(say("Fault: ", "问题：") + one_line(fault))
    if plan is not None and _wants_repair(plan, repair):
        entry = enter(pull, _repair(plan, _repaired_path(pull), pull.replaces is not None), folder)
    else:
        entry = enter(pull, place(pull), folder)
        if faults:
            _note(_later(entry.name))
    if not keep_download:
        drop_checkpoint(entry, folder)
    leave_replaced(pull, entry, keep_download)
    tell_done(entry)
    return entry


def _faults(path: Path) -> list[str]:
    """What `bq verify` finds. Raises BqError for what is no Baichuan model, or broken beyond use."""
    from bq.convert.verify.file_checks import check_file
    from bq.runtime.cpu import usable_cores
    from bq.tui.pulling import CheckLine

    _note(say("Checking the file …", "正在检查文件……"))
    with CheckLine() as line:
        checks = list(check_file(path, usable_cores(), lambda part: line.report(part, say("weights", "权重"))))
    failed = [one for one in checks if one.verdict == "failure"]
    broken = next((one for one in failed if one.name == "structure"), None)
    if broken is not None:
        raise BqError(broken.text, broken.remedy)
    return [one.text for one in failed]


def _repair_plan(path: Path) -> "Repair | None":
    """How to mend it, None if it cannot be."""
    from bq.convert.repair.repair import RepairOptions, plan_repair

    try:
        plan = plan_repair(path, RepairOptions())
    except BqError as error:
        _note(str(error))
        return None
    return plan if plan.is_needed and plan.hopeless is None else None


def _wants_repair(plan: "Repair", repair: bool | None) -> bool:
    """What was said on the command line, else by the person at the terminal."""
    if repair is not None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return bool(repair)
    return click.confirm(
        say("Write a repaired copy and use that?", "写出修复后的副本并使用它吗？"), default=True, err=True
    )


def _repaired_path(pull: "Pull") -> Path:
    """Beside bq's other models, or where it was asked for. Raises UsageError if something stands there."""
    from bq.library.home import models_folder
    from bq.library.pull import taken

    out = models_folder() / Path(pull.files[0].path).name if pull.is_in_download else pull.out
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and (pull.replaces is None or out != pull.out):
        raise taken(out)
    return out


def _repair(plan: "Repair", out: Path, force: bool) -> Path:
    from bq.convert.repair.repair import repair
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import ProgressLine

    progress = ProgressLine()
    try:
        done = repair(plan, out, usable_cores(), force, report=progress)
    finally:
        progress.clear()
    _note(say("Repaired: ", "已修复：") + say("; ", "；").join(one.here for one in done.checked) + say(".", "。"))
    return done.path


def _later(name: str) -> str:
    return say(
        f"It is in the library as it is; `bq repair {name}` writes a right copy where that is possible.",
        f"已原样登记到模型库；若可修复，`bq repair {name}` 会写出正确的副本。",
    )


def _note(text: str) -> None:
    print(text, file=sys.stderr)
