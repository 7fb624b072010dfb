"""`bq imatrix`: the importance matrix of a GGUF file, for better small files of the same model."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.language import say
from bq.tui.commands.options import device_options
from bq.tui.progress import Redrawn, bar, time_left
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.runtime.evaluation.imatrix_file import ImportanceMatrix


@click.command(
    help=say(
        "Gather an importance matrix: which columns of each matrix matter on a text, so that quantizing keeps those best. FILE is a "
        "GGUF file of the model, best Q8_0 or F16. The result is llama.cpp's own format, for `bq convert --imatrix` and "
        "llama-quantize. Stopped, the same command goes on where it was. Prints the file's path.",
        "收集重要性矩阵：各矩阵的哪些列在一段文本上更重要，量化时优先保留。FILE 为该模型的 GGUF 文件，最好是 Q8_0 或 F16。"
        "结果为 llama.cpp 自己的格式，供 `bq convert --imatrix` 与 llama-quantize 使用。中断后再次运行同一命令即可继续。输出文件路径。",
    )
)
@click.argument("file")
@click.option(
    "-o",
    "--output",
    help=say("The file to write. [default: NAME.imatrix here]", "输出文件。[默认：当前文件夹的 名称.imatrix]"),
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help=say(
        "A text to gather over; may be given several times. [default: the bundled Chinese and English one]",
        "用于收集的文本；可多次给出。[默认：内置的中英文文本]",
    ),
)
@click.option(
    "--ctx", type=click.IntRange(64), default=512, show_default=True, help=say("Tokens of a chunk.", "每块的词元数。")
)
@click.option(
    "--chunks", type=click.IntRange(1), help=say("At most so many chunks. [default: all]", "最多的块数。[默认：全部]")
)
@click.option(
    "--process-output",
    "with_output",
    is_flag=True,
    help=say("Gather for output.weight too.", "也为 output.weight 收集。"),
)
@click.option("--force", is_flag=True, help=say("Replace an existing file.", "覆盖已有文件。"))
@click.option("--json", "as_json", is_flag=True, help=say("Print what was gathered as JSON.", "以 JSON 输出结果。"))
@device_options
def command(
    file: str,
    output: str | None,
    texts: Sequence[str],
    ctx: int,
    chunks: int | None,
    with_output: bool,
    force: bool,
    as_json: bool,
    threads: int | None,
    gpu_layers: int | None,
    cpu_experts: int | None,
    device: str | None,
) -> None:
    """Gather, showing how far it is, and write the file."""
    from bq.runtime.evaluation.imatrix import Watch, gather
    from bq.runtime.values import LoadOptions
    from bq.tui.answer import stop_on_interrupt
    from bq.tui.chosen_model import model_named
    from bq.tui.texts import texts_named

    model = model_named(file)
    out = path_named(output) if output else Path(f"{model.stem}.imatrix")
    given = texts_named(texts, "calibration")
    _warn(model)
    options, line = (
        LoadOptions(threads=threads, gpu_layers=gpu_layers, cpu_experts=cpu_experts, device=device),
        ChunkLine(),
    )
    with stop_on_interrupt() as cancel:
        try:
            matrix = gather(model, given, out, ctx, chunks, options, Watch(None, line, cancel), with_output, force)
        finally:
            line.clear()
    _tell(matrix, out, as_json, line.seconds)


class ChunkLine(Redrawn):
    """The line of the chunks; where earlier work goes on, it says so first."""

    _begun_at: int | None = None

    def __call__(self, done: int, of: int) -> None:
        if self._begun_at is None:
            self._begun_at = done
            if done:
                _note(say(f"Goes on after {done} of {of} chunks.", f"从 {of} 块中的第 {done} 块之后继续。"))
        here = done - self._begun_at
        left = f"  {time_left(self.seconds / here * (of - done))}" if here else ""
        self.draw(
            lambda _: f"{bar(done / of)}  " + say(f"{done} of {of} chunks", f"第 {done}/{of} 块") + left, done == of
        )


def _warn(model: Path) -> None:
    """What is wrong with the model: its matrix would be of no use for a right one."""
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.known import file_warnings
    from bq.runtime.structure import check_structure

    file = read_gguf(model)
    check_structure(file)
    for warning in file_warnings(file):
        _note(say("Warning: ", "警告：") + warning)


def _tell(matrix: "ImportanceMatrix", out: Path, as_json: bool, seconds: float) -> None:
    if as_json:
        about = {
            "path": str(out),
            "matrices": len(matrix.entries),
            "chunks": matrix.chunks,
            "chunk_size": matrix.chunk_size,
            "datasets": matrix.datasets,
            "seconds": round(seconds, 2),
        }
        click.echo(json.dumps(about, ensure_ascii=False, indent=2))
        return
    _note(
        say(
            f"{len(matrix.entries)} matrices over {matrix.chunks * matrix.chunk_size:,} tokens, "
            f"in chunks of {matrix.chunk_size}: {seconds:.1f} s.",
            f"{len(matrix.entries)} 个矩阵，共 {matrix.chunks * matrix.chunk_size:,} 个词元，"
            f"每块 {matrix.chunk_size} 个：用时 {seconds:.1f} 秒。",
        )
    )
    click.echo(str(out))


def _note(text: str) -> None:
    print(text, file=sys.stderr)
