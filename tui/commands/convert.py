"""`bq convert`: a checkpoint to a quantized GGUF file, or the plan of it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.releases import download_command, find_release
from bq.tui.table import gib, table

if TYPE_CHECKING:
    from bq.convert.convert import Conversion


@click.command(
    help=say(
        "Convert the checkpoint in the folder SOURCE (`demo` for the bundled one) to a GGUF file. Prints the file's path.",
        "把文件夹 SOURCE 中的检查点（`demo` 表示内置的检查点）转换为 GGUF 文件，并输出文件路径。",
    )
)
@click.argument("source")
@click.option(
    "-o",
    "--output",
    help=say("The file to write. [default: NAME-MIXTURE.gguf here]", "输出文件。[默认：当前文件夹的 名称-量化.gguf]"),
)
@click.option(
    "-q",
    "--mixture",
    default="Q4_K_M",
    show_default=True,
    help=say("The mixture of types, by llama.cpp's names.", "量化方式，用 llama.cpp 的名称。"),
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help=say("Threads to use. [default: all cores]", "线程数。[默认：全部核心]"),
)
@click.option("--dry-run", is_flag=True, help=say("Print the plan, write nothing.", "只输出计划，不写文件。"))
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help=say("With --dry-run: print the plan as JSON.", "与 --dry-run 合用：以 JSON 输出计划。"),
)
@click.option("--force", is_flag=True, help=say("Replace an existing file.", "覆盖已有文件。"))
@click.option(
    "--variant",
    type=click.Choice(["base", "chat", "instruct"]),
    help=say("What the model was tuned for, if the folder does not tell.", "模型的类型（当文件夹无法说明时）。"),
)
def command(
    source: str,
    output: str | None,
    mixture: str,
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
    variant: str | None,
) -> None:
    """Prepare, then print the plan or write the file."""
    from bq.convert.convert import find_source, prepare

    if as_json and not dry_run:
        raise UsageError(say("--json goes with --dry-run.", "--json 须与 --dry-run 合用。"))
    folder, name = find_source(source)
    if not folder.exists() and (release := find_release(source)) is not None:
        raise UsageError(
            say(f"There is no folder {source}.", f"没有文件夹 {source}。"),
            say("Download the release first: ", "请先下载该发布：") + download_command(release),
        )
    conversion = prepare(folder, mixture, variant, name)
    if dry_run:
        click.echo(
            json.dumps(plan_data(conversion), ensure_ascii=False, indent=2) if as_json else plan_text(conversion)
        )
        return
    _convert(conversion, Path(output or conversion.file_name).expanduser(), threads, force)


def _convert(conversion: "Conversion", out: Path, threads: int | None, force: bool) -> None:
    from bq.convert.convert import convert
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import ProgressLine

    for line in _describe(conversion):
        _note(line)
    progress = ProgressLine()
    try:
        done = convert(conversion, out, threads or usable_cores(), force, progress)
    finally:
        progress.clear()
    plan = conversion.plan
    speed = plan.weights / done.write_seconds
    _note(done.checked.describe())
    _note(
        say(
            f"Wrote {gib(done.size_bytes)} GiB, {plan.bits_per_weight:.2f} bits per weight, in {done.write_seconds:.1f} s "
            f"({count_text(speed)} weights per second), checked in {done.check_seconds:.1f} s.",
            f"写入 {gib(done.size_bytes)} GiB，每权重 {plan.bits_per_weight:.2f} 位，用时 {done.write_seconds:.1f} 秒"
            f"（每秒 {count_text(speed)}个权重），检查用时 {done.check_seconds:.1f} 秒。",
        )
    )
    _note(say("Try it: ", "试用：") + next_step(conversion.identity.variant, str(out)))
    click.echo(str(out))


def count_text(count: float) -> str:
    """A large number as one says it."""
    en = f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
    return say(en, f"{count / 1e8:.2f} 亿" if count >= 1e8 else f"{count / 1e4:,.0f} 万")


def next_step(variant: str, path: str) -> str:
    """The command that the variant is made for."""
    return {"base": f'bq complete -m {path} "…"', "instruct": f'bq run -m {path} "…"'}.get(
        variant, f"bq chat -m {path}"
    )


def _describe(conversion: "Conversion") -> list[str]:
    config, identity = conversion.config, conversion.identity
    dtypes = "/".join(sorted({tensor.source.dtype for tensor in conversion.plan.tensors}))
    weights = count_text(conversion.plan.weights)
    position = {"rope": "RoPE", "alibi": "ALiBi"}[config.position]
    return [
        say(
            f"{identity.name}: Baichuan {conversion.generation}, {weights} weights in {dtypes}, "
            f"{config.blocks} blocks, {position}, context {config.context}",
            f"{identity.name}：Baichuan {conversion.generation}，{weights}个权重（{dtypes}），"
            f"{config.blocks} 块，{position}，上下文 {config.context}",
        ),
        say(
            f"Variant: {identity.variant} ({identity.variant_reason.here})",
            f"类型：{identity.variant}（{identity.variant_reason.here}）",
        ),
        conversion.norm_head.describe(),
    ]


def plan_data(conversion: "Conversion") -> dict[str, Any]:
    """The plan as plain data."""
    plan = conversion.plan
    return {
        "name": conversion.identity.name,
        "variant": conversion.identity.variant,
        "generation": conversion.generation,
        "norm_head": {"folded": conversion.norm_head.fold, "reasons": list(conversion.norm_head.reasons)},
        "mixture": conversion.mixture.name,
        "file": conversion.file_name,
        "size_bytes": conversion.size_bytes,
        "weights": plan.weights,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "tensors": [
            {
                "name": one.name,
                "type": one.kind.name,
                "shape": list(one.shape),
                "size_bytes": one.size_bytes,
                "source": one.source.name,
            }
            for one in plan.tensors
        ],
    }


def plan_text(conversion: "Conversion") -> str:
    """The plan for reading: decisions, every tensor, and the sums."""
    plan = conversion.plan
    rows = [
        (one.name, one.kind.name, "×".join(map(str, one.shape)), f"{one.size_bytes / 1e6:,.2f}") for one in plan.tensors
    ]
    by_kind: dict[str, int] = {}
    for one in plan.tensors:
        by_kind[one.kind.name] = by_kind.get(one.kind.name, 0) + one.weights
    shares = ", ".join(
        f"{kind} {weights / plan.weights:.1%}" for kind, weights in sorted(by_kind.items(), key=lambda item: -item[1])
    )
    head = (say("TENSOR", "张量"), say("TYPE", "类型"), say("SHAPE", "形状"), "MB")
    return "\n".join(
        [
            *_describe(conversion),
            "",
            table(head, rows, right=(3,)),
            "",
            say(
                f"{conversion.file_name}: {gib(conversion.size_bytes)} GiB, {plan.bits_per_weight:.2f} bits per weight, "
                f"{len(plan.tensors)} tensors; weights by type: {shares}",
                f"{conversion.file_name}：{gib(conversion.size_bytes)} GiB，每权重 {plan.bits_per_weight:.2f} 位，"
                f"{len(plan.tensors)} 个张量；各类型权重占比：{shares}",
            ),
        ]
    )


def _note(text: str) -> None:
    print(text, file=sys.stderr)
