"""`bq imatrix`: the importance matrix of a GGUF file, for better small files of the same model."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.options import device_options
from bq.tui.progress import Redrawn, bar, time_left

if TYPE_CHECKING:
    from bq.runtime.evaluation.imatrix import Text
    from bq.runtime.evaluation.imatrix_file import ImportanceMatrix

_BUNDLED = "bq-calibration"  # the name that the file keeps of the bundled text
_MOST_BYTES = 64 << 20  # of a text: some 15 million tokens, days of work


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
    device: str | None,
) -> None:
    """Gather, showing how far it is, and write the file."""
    from bq.runtime.evaluation.imatrix import Watch, gather
    from bq.runtime.values import LoadOptions
    from bq.tui.answer import stop_on_interrupt

    model = Path(file).expanduser()
    out = Path(output).expanduser() if output else Path(f"{model.stem}.imatrix")
    given = [_read_text(Path(text).expanduser()) for text in texts] or [_bundled()]
    _warn(model)
    options, line = LoadOptions(threads=threads, gpu_layers=gpu_layers, device=device), _Line()
    with stop_on_interrupt() as cancel:
        try:
            matrix = gather(model, given, out, ctx, chunks, options, Watch(None, line, cancel), with_output, force)
        finally:
            line.clear()
    _tell(matrix, out, as_json, line.seconds)


class _Line(Redrawn):
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


def _read_text(path: Path) -> "Text":
    """A text file of the user's. Raises UsageError if it is none, or far larger than could be gathered over."""
    from bq.runtime.evaluation.imatrix import Text

    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            say(f"{path} cannot be read: {error.strerror}.", f"无法读取 {path}：{error.strerror}。"),
            say("Give the path of a text file with --text.", "请用 --text 给出文本文件的路径。"),
        ) from None
    if len(data) > _MOST_BYTES:
        raise UsageError(
            say(f"{path} is larger than {_MOST_BYTES >> 20} MiB.", f"{path} 超过 {_MOST_BYTES >> 20} MiB。"),
            say("A megabyte is enough: give a part of it.", "1 MB 已足够：请给出其中一部分。"),
        )
    try:
        return Text(path.name, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(
            say(f"{path} is no UTF-8 text: byte {error.start}.", f"{path} 不是 UTF-8 文本：第 {error.start} 字节。"),
            say("Save it as UTF-8.", "请另存为 UTF-8。"),
        ) from None


def _bundled() -> "Text":
    from bq.runtime.evaluation.imatrix import Text
    from bq.runtime.evaluation.texts import sample_text

    return Text(_BUNDLED, sample_text("calibration"))


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
