"""`bq convert`: a checkpoint to a quantized GGUF file, or the plan of it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.releases import find_release, how_to_get
from bq.tui.adapter_file import refuse_needless, write_adapter_file
from bq.tui.commands.adapter_option import adapter_option, read_adapters
from bq.tui.conversion_plan import describe, fallback_lines, plans_json, plans_text
from bq.tui.converting import chosen_quantizer, write_files

if TYPE_CHECKING:
    from bq.convert.convert import Conversion
    from bq.convert.importance import Importance
    from bq.convert.quantizer import Effort, Wish
    from bq.convert.type_plan import TypePlan


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
    "--types",
    "types_file",
    metavar="FILE",
    help=say(
        "A plan of types instead of a mixture, as `bq search` writes it.",
        "用类型计划代替 -q，即 `bq search` 写出的文件。",
    ),
)
@click.option(
    "--imatrix",
    "imatrix_file",
    metavar="FILE",
    help=say(
        "An importance matrix of this model, from `bq imatrix` or llama-imatrix: smaller errors where they matter. Mixtures below 3 "
        "bits need one.",
        "此模型的重要性矩阵，来自 `bq imatrix` 或 llama-imatrix：在要紧处误差更小。3 位以下的混合量化必须有它。",
    ),
)
@click.option(
    "--calibrate",
    is_flag=True,
    help=say(
        "Gather the importance matrix on the way, from a file of high precision that is removed afterwards.",
        "顺带收集重要性矩阵：先写一个高精度的临时文件，用后删除。",
    ),
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help=say(
        "With --calibrate: the text to gather over; may be given several times. [default: the bundled Chinese and English one]",
        "与 --calibrate 合用：用于收集的文本；可多次给出。[默认：内置的中英文文本]",
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
@adapter_option(
    say(
        "A LoRA adapter as PEFT saves it, merged into the weights on the way; several times for several, each with its weight.",
        "PEFT 保存的 LoRA 适配器，在转换时合并进权重；可多次给出，各带权重。",
    )
)
@click.option(
    "--adapter-gguf",
    is_flag=True,
    help=say(
        "Write the one --adapter as a GGUF file of its own, which llama.cpp adds to a model of this base.",
        "将唯一的 --adapter 单独写成 GGUF 文件，由 llama.cpp 在运行时加到此基座的模型上。",
    ),
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
@click.pass_context
def command(
    context: click.Context,
    source: str,
    output: str | None,
    mixtures: Sequence[str],
    types_file: str | None,
    imatrix_file: str | None,
    calibrate: bool,
    texts: Sequence[str],
    quantizer: "Wish",
    effort: "Effort",
    threads: int | None,
    adapters: Sequence[str],
    adapter_gguf: bool,
    dry_run: bool,
    as_json: bool,
    force: bool,
    variant: str | None,
) -> None:
    """Prepare, then print the plans or write the files."""
    from bq.convert.conversion import refuse_unless_it_runs
    from bq.convert.convert import Output, check_outputs, find_source, prepare_several
    from bq.convert.quantizer import check_wishes
    from bq.tui.calibration import calibrated

    is_mixture_given = context.get_parameter_source("mixtures") is not ParameterSource.DEFAULT
    _check_options(as_json and not dry_run, bool(types_file) and is_mixture_given, imatrix_file, calibrate, texts)
    if adapter_gguf:
        needless = {
            "-q": is_mixture_given,
            "--types": types_file,
            "--imatrix": imatrix_file,
            "--calibrate": calibrate,
            "--dry-run": dry_run,
        }
        refuse_needless(adapters, [name for name, is_given in needless.items() if is_given])
    folder, name = find_source(source)
    if not folder.exists() and (release := find_release(source)) is not None:
        raise UsageError(
            say(f"There is no folder {source}.", f"没有文件夹 {source}。"),
            how_to_get(release),
        )
    types, importance = _read_types(types_file), _read_importance(imatrix_file, calibrate)
    conversions = prepare_several(folder, mixtures, variant, name, types, importance, read_adapters(adapters))
    if calibrate:
        refuse_unless_it_runs(conversions[0], "--calibrate")
    if adapter_gguf:
        write_adapter_file(conversions[0], output, force)
        return
    check_wishes([tensor for one in conversions for tensor in one.plan.tensors], quantizer, effort)
    if dry_run:
        click.echo(plans_json(conversions) if as_json else plans_text(conversions))
        return
    paths = _paths(conversions, output)
    for line in (*describe(conversions[0]), *(line for one in conversions for line in fallback_lines(one))):
        _note(line)
    check_outputs(conversions, paths, force)  # before kernels are compiled
    if calibrate:
        conversions = calibrated(conversions, paths, texts, threads, force)
    for line in conversions[0].importance_notes:
        _note(line)
    chosen = chosen_quantizer(conversions, quantizer, effort)
    outputs = [Output(*pair, chosen) for pair in zip(conversions, paths, strict=True)]
    write_files(outputs, threads, force)


def _check_options(
    is_json_alone: bool, are_both_types: bool, imatrix: str | None, calibrate: bool, texts: Sequence[str]
) -> None:
    """Raises UsageError for options that do not go together."""
    if is_json_alone:
        raise UsageError(say("--json goes with --dry-run.", "--json 须与 --dry-run 合用。"))
    if are_both_types:
        raise UsageError(
            say("-q and --types do not go together.", "-q 与 --types 不能合用。"),
            say("The plan of types names its own mixture as base.", "类型计划自带作为基础的混合量化。"),
        )
    if imatrix and calibrate:
        raise UsageError(
            say("--imatrix and --calibrate do not go together.", "--imatrix 与 --calibrate 不能合用。"),
            say("--calibrate gathers the matrix itself.", "--calibrate 会自行收集重要性矩阵。"),
        )
    if texts and not calibrate:
        raise UsageError(say("--text goes with --calibrate.", "--text 须与 --calibrate 合用。"))


def _read_types(given: str | None) -> "TypePlan | None":
    from bq.convert.type_plan import read_type_plan

    return read_type_plan(Path(given).expanduser()) if given else None


def _read_importance(given: str | None, calibrate: bool) -> "Importance | None":
    from bq.convert.importance import TO_COME, Importance
    from bq.runtime.evaluation.imatrix_file import read_imatrix

    if given:
        return Importance(read_imatrix(Path(given).expanduser()), given)
    return TO_COME if calibrate else None


def _paths(conversions: "Sequence[Conversion]", output: str | None) -> list[Path]:
    """The file of each conversion. Raises UsageError if several have one name to share."""
    folder = Path(output or "").expanduser()
    if len(conversions) == 1 and not (folder.is_dir() or (output or "").endswith(("/", os.sep))):
        return [folder]
    if not folder.is_dir():
        raise UsageError(
            say(f"There is no folder {folder} to write into.", f"没有可写入的文件夹 {folder}。"),
            say("Make it first, or leave -o out to write here.", "请先创建，或去掉 -o 以写入当前文件夹。"),
        )
    return [folder / conversion.file_name for conversion in conversions]


def _note(text: str) -> None:
    print(text, file=sys.stderr)
