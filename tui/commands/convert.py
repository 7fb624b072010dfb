"""`bq convert`: a checkpoint to a quantized GGUF file, or the plan of it."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.releases import download_command, find_release
from bq.tui.table import gib, table

if TYPE_CHECKING:
    from bq.convert.convert import Conversion, Converted, Output
    from bq.convert.quantizer import Effort, Quantizer, Wish


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
    help=say(
        "The file to write, a folder if there are several. [default: NAME-MIXTURE.gguf here]",
        "输出文件；有多个文件时为文件夹。[默认：当前文件夹的 名称-量化.gguf]",
    ),
)
@click.option(
    "-q",
    "--mixture",
    "mixtures",
    multiple=True,
    default=["Q4_K_M"],
    show_default=True,
    help=say(
        "The mixture of types, by llama.cpp's names; several times for several files from one read.",
        "量化方式，用 llama.cpp 的名称；可多次给出，一次读取生成多个文件。",
    ),
)
@click.option(
    "--quantizer",
    type=click.Choice(["auto", "fast", "ggml"]),
    default="auto",
    show_default=True,
    help=say(
        "bq's fast kernels (they need numba), llama.cpp's own functions, or the kernels where they pay and give the same bytes.",
        "fast 为 bq 的快速内核（需要 numba），ggml 为 llama.cpp 自己的函数，auto 在划算且字节相同时使用快速内核。",
    ),
)
@click.option(
    "--effort",
    type=click.Choice(["normal", "high"]),
    default="normal",
    show_default=True,
    help=say(
        "high: look longer for each block's scales; the same format and size, smaller errors.",
        "high：为每个块更细地寻找缩放系数；格式与大小不变，误差更小。",
    ),
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
    mixtures: Sequence[str],
    quantizer: "Wish",
    effort: "Effort",
    threads: int | None,
    dry_run: bool,
    as_json: bool,
    force: bool,
    variant: str | None,
) -> None:
    """Prepare, then print the plans or write the files."""
    from bq.convert.convert import Output, check_outputs, find_source, prepare_several
    from bq.convert.quantizer import check_wishes

    if as_json and not dry_run:
        raise UsageError(say("--json goes with --dry-run.", "--json 须与 --dry-run 合用。"))
    folder, name = find_source(source)
    if not folder.exists() and (release := find_release(source)) is not None:
        raise UsageError(
            say(f"There is no folder {source}.", f"没有文件夹 {source}。"),
            say("Download the release first: ", "请先下载该发布：") + download_command(release),
        )
    conversions = prepare_several(folder, mixtures, variant, name)
    check_wishes([tensor for one in conversions for tensor in one.plan.tensors], quantizer, effort)
    if dry_run:
        click.echo(_plans_json(conversions) if as_json else _plans_text(conversions))
        return
    paths = _paths(conversions, output)
    for line in (*_describe(conversions[0]), *(line for one in conversions for line in _fallback_lines(one))):
        _note(line)
    check_outputs(conversions, paths, force)  # before kernels are compiled
    chosen = _choose(conversions, quantizer, effort)
    outputs = [Output(*pair, chosen) for pair in zip(conversions, paths, strict=True)]
    _convert(outputs, threads, force)


def _paths(conversions: "Sequence[Conversion]", output: str | None) -> list[Path]:
    """The file of each conversion. Raises UsageError if several have one name to share."""
    if len(conversions) == 1:
        return [Path(output or conversions[0].file_name).expanduser()]
    folder = Path(output or "").expanduser()
    if not folder.is_dir():
        raise UsageError(
            say(
                f"There is no folder {folder}, and several files need one.",
                f"没有文件夹 {folder}；输出多个文件时，-o 须为已有的文件夹。",
            ),
            say("Make it first, or leave -o out to write here.", "请先创建，或去掉 -o 以写入当前文件夹。"),
        )
    return [folder / conversion.file_name for conversion in conversions]


def _choose(conversions: "Sequence[Conversion]", wish: "Wish", effort: "Effort") -> "Quantizer":
    from bq.convert.quantizer import choose_quantizer
    from bq.tui.progress import Redrawn

    waiting = Redrawn()
    tensors = [tensor for conversion in conversions for tensor in conversion.plan.tensors]
    try:
        choice = choose_quantizer(tensors, wish, effort, lambda text: waiting.draw(lambda _: f"{text} …", True))
    finally:
        waiting.clear()
    if choice.note:
        _note(choice.note)
    return choice.quantizer


def _convert(outputs: "Sequence[Output]", threads: int | None, force: bool) -> None:
    from bq.convert.convert import convert_several
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import ProgressLine

    progress = ProgressLine()
    try:
        done = convert_several(outputs, threads or usable_cores(), force, progress)
    finally:
        progress.clear()
    for output, one in zip(outputs, done, strict=True):
        _report(output, one)


def _report(output: "Output", done: "Converted") -> None:
    plan = output.conversion.plan
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
    _note(say("Try it: ", "试用：") + next_step(output.conversion.identity.variant, str(output.path)))
    click.echo(str(output.path))


def _plans_json(conversions: "Sequence[Conversion]") -> str:
    """One object for one plan, a list for several."""
    plans = [plan_data(conversion) for conversion in conversions]
    return json.dumps(plans if len(plans) > 1 else plans[0], ensure_ascii=False, indent=2)


def _fallback_lines(conversion: "Conversion") -> Iterator[str]:
    """What the mixture stores otherwise than its name says, and what it would be in the mixture of our own."""
    from bq.convert.convert import in_mixture
    from bq.convert.mixture import own_mixture
    from bq.convert.plan import fallbacks
    from bq.runtime.ggml import block_size

    name = conversion.mixture.name

    for one in fallbacks(conversion.plan, conversion.mixture, conversion.config.blocks):
        sign = "+" if one.more_bytes >= 0 else "−"
        yield say(
            f"{name}: {one.tensors} × {one.part} has rows of {one.columns:,}, which do not divide by "
            f"{block_size(one.wanted)[0]}: {one.given.name} in place of {one.wanted.name} ({sign}{gib(abs(one.more_bytes))} GiB)",
            f"{name}：{one.tensors} × {one.part} 行宽 {one.columns:,}，不能被 {block_size(one.wanted)[0]} 整除："
            f"以 {one.given.name} 代替 {one.wanted.name}（{sign}{gib(abs(one.more_bytes))} GiB）",
        )
    own = own_mixture(conversion.mixture)
    other = in_mixture(conversion, own) if own else conversion
    if [one.kind for one in other.plan.tensors] != [one.kind for one in conversion.plan.tensors]:
        yield say(
            f"{name}: -q {other.mixture.name} shares the bits out more evenly: {gib(other.size_bytes)} GiB, "
            f"{other.plan.bits_per_weight:.2f} bits per weight",
            f"{name}：-q {other.mixture.name} 的位数分配更均衡：{gib(other.size_bytes)} GiB，每权重 "
            f"{other.plan.bits_per_weight:.2f} 位",
        )


def _plans_text(conversions: "Sequence[Conversion]") -> str:
    return "\n\n".join(["\n".join(_describe(conversions[0])), *map(plan_text, conversions)])


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
    from bq.convert.plan import fallbacks

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
        "fallbacks": [
            {
                "part": one.part,
                "columns": one.columns,
                "wanted": one.wanted.name,
                "given": one.given.name,
                "tensors": one.tensors,
                "more_bytes": one.more_bytes,
            }
            for one in fallbacks(plan, conversion.mixture, conversion.config.blocks)
        ],
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
    """The plan for reading: every tensor, and the sums."""
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
            table(head, rows, right=(3,)),
            "",
            say(
                f"{conversion.file_name}: {gib(conversion.size_bytes)} GiB, {plan.bits_per_weight:.2f} bits per weight, "
                f"{len(plan.tensors)} tensors; weights by type: {shares}",
                f"{conversion.file_name}：{gib(conversion.size_bytes)} GiB，每权重 {plan.bits_per_weight:.2f} 位，"
                f"{len(plan.tensors)} 个张量；各类型权重占比：{shares}",
            ),
            *_fallback_lines(conversion),
        ]
    )


def _note(text: str) -> None:
    print(text, file=sys.stderr)
