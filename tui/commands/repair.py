"""`bq repair`: says what is wrong with a GGUF file that another program made, and writes a right copy of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.table import size_text

if TYPE_CHECKING:
    from bq.convert.repair.repair import Repair


@click.command(
    help=say(
        "Mend OLD, a GGUF file of a Baichuan model that another program made: token types, role pieces, flags, stop, chat "
        "template, NormHead. Writes a new file and prints its path; OLD is never changed. A file that needs nothing is left "
        "alone.",
        "修复 OLD：其他程序生成的 Baichuan 模型 GGUF 文件。修正词元类型、角色词元、标志、停止词、对话模板与 NormHead。"
        "写出新文件并输出其路径；OLD 不会被改动。无需修复的文件保持原样。",
    )
)
@click.argument("old", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help=say(
        "The file to write. [default: OLD-repaired.gguf beside OLD]", "输出文件。[默认：OLD 旁的 OLD-repaired.gguf]"
    ),
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help=say(
        "The checkpoint's tokenizer.model or its folder; without it, the known layouts of both generations.",
        "检查点的 tokenizer.model 或其所在文件夹；不给出时使用两代模型的已知布局。",
    ),
)
@click.option(
    "--release",
    metavar=say("NAME", "名称"),
    help=say(
        "Which release it is, if its names do not tell (`bq models`).",
        "它是哪个发布版（当名称无法说明时，见 `bq models`）。",
    ),
)
@click.option(
    "--variant",
    type=click.Choice(["base", "chat", "instruct"]),
    help=say("What the model was tuned for, if its names do not tell.", "模型的类型（当名称无法说明时）。"),
)
@click.option(
    "--output-type",
    metavar=say("TYPE", "类型"),
    help=say(
        "Another type for output.weight when NormHead is folded in, such as Q6_K or Q8_0. [default: the one it has]",
        "折入 NormHead 时 output.weight 改用的类型，如 Q6_K 或 Q8_0。[默认：保持原类型]",
    ),
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help=say("Threads to use. [default: all cores]", "线程数。[默认：全部核心]"),
)
@click.option("--dry-run", is_flag=True, help=say("Say what is wrong, write nothing.", "只说明问题，不写文件。"))
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help=say("With --dry-run: print the findings as JSON.", "与 --dry-run 合用：以 JSON 输出发现的问题。"),
)
@click.option("--force", is_flag=True, help=say("Replace an existing file.", "覆盖已有文件。"))
def command(
    old: Path,
    output: Path | None,
    tokenizer: Path | None,
    release: str | None,
    variant: str | None,
    output_type: str | None,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
) -> int:
    """Look, then print the findings or write the repaired file; 1 for what cannot be repaired."""
    from bq.convert.repair.repair import RepairOptions, check_output, plan_repair
    from bq.tui.chosen_model import model_named
    from bq.tui.inspect.data import to_json

    if as_json and not dry_run:
        raise UsageError(say("--json goes with --dry-run.", "--json 须与 --dry-run 合用。"))
    options = RepairOptions(tokenizer, variant, release, _type_name(output_type))
    old = model_named(str(old))
    plan = plan_repair(old, options)
    out = output.expanduser() if output else plan.default_path
    if dry_run:
        click.echo(to_json(plan_data(plan, out)) if as_json else plan_text(plan))
        return 1 if plan.hopeless else 0
    _note(plan_text(plan))
    if not plan.is_needed:
        click.echo(str(old))
        return 0
    check_output(plan, out, force)
    _repair(plan, out, threads, force)
    return 0


def _type_name(text: str | None) -> str | None:
    """The type as llama.cpp writes it. Raises UsageError with those there are."""
    from bq.convert.repair.repair import OUTPUT_TYPES

    if text is not None and text.upper() not in OUTPUT_TYPES:
        raise UsageError(
            say(f"--output-type: there is no type {text}.", f"--output-type：没有类型 {text}。"),
            say(f"Choose one of {' '.join(OUTPUT_TYPES)}.", f"可选：{' '.join(OUTPUT_TYPES)}。"),
        )
    return text.upper() if text else None


def _repair(plan: "Repair", out: Path, threads: int | None, force: bool) -> None:
    from bq.convert.repair.repair import repair
    from bq.runtime.cpu import usable_cores
    from bq.tui.chosen_model import register_model
    from bq.tui.progress import ProgressLine

    progress = ProgressLine()
    try:
        done = repair(plan, out, threads or usable_cores(), force, progress)
    finally:
        progress.clear()
    checked = [one.here for one in done.checked]
    _note(say(f"Checked: {'; '.join(checked)}.", f"已检查：{'；'.join(checked)}。"))
    _note(
        say(
            f"Wrote {size_text(done.size_bytes)} in {done.seconds:.1f} s.",
            f"写入 {size_text(done.size_bytes)}，用时 {done.seconds:.1f} 秒。",
        )
    )
    register_model(done.path)
    click.echo(str(done.path))


def plan_text(plan: "Repair") -> str:
    """What is wrong and what will be done, for reading; names from the file cannot control the terminal."""
    from bq.tui.inspect.words import printable

    name, what = printable(plan.file.path.name), f"Baichuan {plan.right.generation}, {plan.identity.variant}"
    faults = [one for one in plan.findings if one.verdict != "note"]
    if plan.is_needed:
        count = len(faults)
        head = say(
            f"{name} ({what}): {count} {'thing is' if count == 1 else 'things are'} wrong.",
            f"{name}（{what}）：有 {count} 处问题。",
        )
    else:
        head = say(f"{name} ({what}) needs no repair and is left alone.", f"{name}（{what}）无需修复，保持原样。")
    notes = [one for one in plan.findings if one.verdict == "note"]
    lines = [head]
    for one in faults:
        what, done = one.sentences
        lines += [f"- {printable(what)}", f"  → {printable(done)}"]
    gap = say(" ", "")
    return "\n".join([*lines, *(f"  {printable(gap.join(one.sentences))}" for one in notes)])


def plan_data(plan: "Repair", out: Path) -> dict[str, Any]:
    """The same as plain data; `out` is where the repaired file would go."""
    return {
        "file": str(plan.file.path),
        "generation": plan.right.generation,
        "variant": plan.identity.variant,
        "release": plan.identity.release.name if plan.identity.release else None,
        "needs_repair": plan.is_needed,
        "can_be_repaired": plan.hopeless is None,
        "findings": [
            {
                "name": one.name,
                "verdict": one.verdict,
                "what": str(one.what),
                "done": str(one.done),
                "keys": list(one.keys),
            }
            for one in plan.findings
        ],
        "output": str(out),
        "size_bytes": plan.rewrite.size_bytes,
    }


def _note(text: str) -> None:
    print(text, file=sys.stderr)
