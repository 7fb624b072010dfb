"""`bq search`: the types that hurt a model least within a size, written as a plan for `bq convert --types`."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.commands.options import device_options
from bq.tui.table import size_text, table
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.convert.search.found import Found, Rival
    from bq.convert.search.search import Search

_UNITS = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "MIB": 1 << 20, "GIB": 1 << 30}


@click.command(
    help=say(
        "Find the types that hurt a model least within a size. SOURCE is a checkpoint's folder (`demo` for the bundled one) or a GGUF "
        "file of high precision. Each group of matrices is quantized to each format in turn, and what that does to the output is "
        "measured; measurements are kept, so another size costs nothing. Prints the path of the plan, for `bq convert --types`.",
        "为给定大小寻找损失最小的量化类型。SOURCE 为检查点文件夹（`demo` 表示内置的检查点）或高精度的 GGUF 文件。"
        "依次把每组矩阵量化为每种格式，并测量对输出的影响；测量结果会保留，换一个大小无需重测。"
        "输出计划文件的路径，供 `bq convert --types` 使用。",
    )
)
@click.argument("source")
@click.option("--size", help=say("The largest file, such as 4.5GB or 4.2GiB.", "文件的最大大小，如 4.5GB 或 4.2GiB。"))
@click.option("--bpw", type=click.FloatRange(1, 16), help=say("Or bits per weight.", "或每权重的位数。"))
@click.option(
    "-o",
    "--output",
    help=say(
        "The plan to write. [default: NAME-SIZE.types.json here]",
        "要写入的计划文件。[默认：当前文件夹的 名称-大小.types.json]",
    ),
)
@click.option(
    "--formats",
    help=say(
        "The formats to choose from, separated by commas. [default: Q2_K,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,Q8_0]",
        "可选的格式，以逗号分隔。[默认：Q2_K,Q3_K,IQ4_XS,Q4_K,Q5_K,Q6_K,Q8_0]",
    ),
)
@click.option(
    "--imatrix", help=say("Quantize with this importance matrix.", "量化时使用此重要性矩阵。"), metavar="FILE"
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help=say(
        "A text to measure on; may be given several times. [default: the bundled calibration text]",
        "用于测量的文本；可多次给出。[默认：内置的校准文本]",
    ),
)
@click.option(
    "--chunks", type=click.IntRange(1), default=4, show_default=True, help=say("Chunks of the text.", "文本的块数。")
)
@click.option(
    "--ctx", type=click.IntRange(64), default=512, show_default=True, help=say("Tokens of a chunk.", "每块的词元数。")
)
@click.option("--force", is_flag=True, help=say("Replace an existing plan.", "覆盖已有的计划文件。"))
@click.option("--json", "as_json", is_flag=True, help=say("Print what was found as JSON.", "以 JSON 输出结果。"))
@device_options
def command(
    source: str,
    size: str | None,
    bpw: float | None,
    output: str | None,
    formats: str | None,
    imatrix: str | None,
    texts: Sequence[str],
    chunks: int,
    ctx: int,
    force: bool,
    as_json: bool,
    threads: int | None,
    gpu_layers: int | None,
    cpu_experts: int | None,
    device: str | None,
) -> None:
    """Measure what is not known yet, choose, write the plan."""
    from bq.convert.convert import DEMO_SOURCE
    from bq.convert.search.search import open_search, write_plan
    from bq.runtime.output_path import check_output
    from bq.runtime.values import LoadOptions
    from bq.tui.chosen_model import home, model_named
    from bq.tui.texts import texts_named

    if (size is None) == (bpw is None):
        raise UsageError(
            say("Give either --size or --bpw.", "请给出 --size 或 --bpw 其中之一。"),
            say("For example --size 4.5GB.", "例如 --size 4.5GB。"),
        )
    source = source if source == DEMO_SOURCE else str(model_named(source, folders=True))
    wanted_bytes = parse_size(size) if size is not None else None
    options = LoadOptions(threads=threads, gpu_layers=gpu_layers, cpu_experts=cpu_experts, device=device)
    text = "\n".join(one.content for one in texts_named(texts, "calibration"))
    kinds = parse_formats(formats) if formats else None
    with open_search(source, kinds, path_named(imatrix) if imatrix else None, text, chunks, ctx) as search:
        limit = wanted_bytes if wanted_bytes is not None else search.bytes_of(bpw or 0.0)
        path = path_named(output) if output else Path(f"{search.name}-{_size_name(size, bpw)}.types.json")
        check_output(path, force)
        search.refuse_too_small(limit)
        _measure(search, options, threads, home() / "search")
        found = search.find(limit)
        write_plan(path, search, found, limit)
        others = search.rivals()
    _tell(source if search.folder is not None else None, found, others, as_json, limit, path)


def parse_size(text: str) -> int:
    """Bytes of a size such as 4.5GB (10^9), 4.2GiB (2^30) or 800MB. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMG]?I?B?)\s*", text.upper())
    unit = {"G": "GB", "M": "MB"}.get(match[2], match[2]) if match else None
    if match is None or unit not in _UNITS:
        raise UsageError(
            say(f"{text!r} is no size.", f"{text!r} 不是大小。"),
            say("Write 4.5GB or 4.2GiB.", "请写成 4.5GB 或 4.2GiB。"),
        )
    return int(float(match[1]) * _UNITS[unit])


def parse_formats(text: str) -> "tuple[Any, ...]":
    """ggml types by their names. Raises UsageError for one that there is not."""
    from bq.runtime.ggml import GgmlType

    names = [name.strip().upper() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in GgmlType.__members__]
    if unknown or not names:
        raise UsageError(
            say(f"There is no format {', '.join(unknown) or text!r}.", f"没有格式 {'、'.join(unknown) or text!r}。"),
            say("For example --formats Q3_K,Q4_K,Q6_K.", "例如 --formats Q3_K,Q4_K,Q6_K。"),
        )
    return tuple(dict.fromkeys(GgmlType[name] for name in names))


def _size_name(size: str | None, bpw: float | None) -> str:
    return size.replace(" ", "") if size is not None else f"{bpw:g}bpw"


def _measure(search: "Search", options: Any, threads: int | None, folder: Path) -> None:
    from bq.runtime.cpu import usable_cores
    from bq.tui.progress import Redrawn, bar, time_left

    line = Redrawn()
    todo = search.unmeasured(folder)
    if todo:
        _note(
            say(
                f"Measuring {len(todo)} combinations of a group and a format; what is measured is kept.",
                f"正在测量 {len(todo)} 种“组与格式”的组合；已测结果会保留。",
            )
        )
    try:
        for done, one in enumerate(search.measure(todo, options, threads or usable_cores(), folder), 1):
            label = f"{one.group} {one.kind.name} {one.divergence:.5f}"
            left = len(todo) - done

            def describe(seconds: float, done: int = done, left: int = left, label: str = label) -> str:
                return f"{bar(done / len(todo))}  {label}  {time_left(seconds / done * left)}"

            line.draw(describe, not left)
    except KeyboardInterrupt:
        raise Cancelled(
            say("Stopped; what is measured is kept.", "已停止；已测结果已保留。"),
            say("The same command goes on.", "再次运行同样的命令即可继续。"),
        ) from None
    finally:
        line.clear()


def _tell(
    checkpoint: str | None, found: "Found", others: "Sequence[Rival]", as_json: bool, limit: int, path: Path
) -> None:
    """What was found; `checkpoint` as the user named it, None if the search was on a GGUF file."""
    if as_json:
        click.echo(json.dumps(as_data(found, others, limit, path), ensure_ascii=False, indent=2))
        return
    _note(found_text(found))
    _note("\n" + rivals_text(found, others))
    if found.has_experts:
        _note(
            say(
                "Of a mixture of experts these sums are more than what is done together, as a rule; `bq eval` measures a file.",
                "对于混合专家模型，各组之和通常高于合在一起的实际影响；可用 `bq eval` 测量文件。",
            )
        )
    if checkpoint is not None:
        _note("\n" + say("Convert with it: ", "据此转换：") + f"bq convert {shlex.quote(checkpoint)} --types {path}")
    click.echo(str(path))


def found_text(found: "Found") -> str:
    """A table of the groups: how many weights, the type, the measured divergence."""
    head = (say("GROUP", "组"), say("WEIGHTS", "权重"), say("TYPE", "类型"), say("SIZE", "大小"), "KL")
    rows = [
        (
            choice.group.name,
            f"{choice.group.weights / found.weights:.1%}",
            choice.option.kind.name,
            size_text(choice.option.size_bytes),
            f"{choice.harm:.5f}",
        )
        for choice in found.choices
    ]
    return table(head, rows, right=(1, 3, 4))


def rivals_text(found: "Found", others: "Sequence[Rival]") -> str:
    """The plan among llama.cpp's mixtures of about its size: bits per weight, and the sum of the groups' divergences."""
    head = (say("FILE", "文件"), say("SIZE", "大小"), say("BITS", "位"), say("KL, FORETOLD", "KL（预计）"))
    near = [one for one in others if one.harm is not None and 0.7 < one.size_bytes / found.size_bytes < 1.4]
    per_byte = found.bits_per_weight / found.size_bytes
    stock = [(one.mixture.name, one.size_bytes, one.size_bytes * per_byte, one.harm or 0.0) for one in near]
    mine = (say("this plan", "本计划"), found.size_bytes, found.bits_per_weight, found.harm)
    rows = [
        (name, size_text(size), f"{bits:.2f}", f"{harm:.5f}")
        for name, size, bits, harm in sorted([mine, *stock], key=lambda row: row[1])
    ]
    return table(head, rows, right=(1, 2, 3))


def as_data(found: "Found", others: "Sequence[Rival]", limit: int, path: Path) -> dict[str, Any]:
    """What was found as plain data; divergences in nats per token."""
    return {
        "plan": str(path),
        "limit_bytes": limit,
        "size_bytes": found.size_bytes,
        "bits_per_weight": round(found.bits_per_weight, 4),
        "divergence": found.harm,
        "groups": [
            {
                "name": choice.group.name,
                "weights": choice.group.weights,
                "type": choice.option.kind.name,
                "size_bytes": choice.option.size_bytes,
                "divergence": choice.harm,
            }
            for choice in found.choices
        ],
        "mixtures": [
            {"name": one.mixture.name, "size_bytes": one.size_bytes, "divergence": one.harm} for one in others
        ],
    }


def _note(text: str) -> None:
    print(text, file=sys.stderr)
