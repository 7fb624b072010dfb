"""`bq eval`: how good model files are, by perplexity and by KL divergence from a reference."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import BqError, Cancelled, UsageError
from bq.runtime.language import say
from bq.tui.commands.options import device_options, rpc_option
from bq.tui.harmless import clean
from bq.tui.measuring import Progress, compared
from bq.tui.plot import Point, svg_plot, terminal_plot
from bq.tui.quality import Listed, as_data, listed, measured_on, measured_tables
from bq.tui.user_files import path_named

if TYPE_CHECKING:
    from bq.runtime.evaluation.candidate import Candidate
    from bq.runtime.evaluation.figures import Figures
    from bq.runtime.evaluation.request import Wish

_GIB = 1 << 30
_ROUNDING = 1e-5  # a divergence below it is that of the reference itself


@click.command(
    name="eval",
    help=say(
        "Measure the perplexity of GGUF files on a text, and with --against their KL divergence from a reference. "
        "Interrupted, the same command goes on.",
        "测量 GGUF 文件在一段文本上的困惑度；加上 --against 则还有相对参考的 KL 散度。中断后，再次运行同样的命令即可继续。",
    ),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--text",
    metavar="FILE",
    help=say(
        "The text, in UTF-8. [default: a bundled one, Chinese and English]", "UTF-8 文本。[默认：内置的中英文文本]"
    ),
)
@click.option(
    "--against",
    metavar="REF",
    help=say(
        "The reference: a GGUF file, a checkpoint's folder, or log probabilities kept by --save-logits or llama-perplexity.",
        "参考：GGUF 文件、检查点文件夹，或由 --save-logits 或 llama-perplexity 保存的对数概率。",
    ),
)
@click.option(
    "--save-logits",
    metavar="FILE",
    help=say(
        "Keep the reference's log probabilities in this file, for --against and for llama-perplexity.",
        "把参考的对数概率保存到此文件，供 --against 与 llama-perplexity 使用。",
    ),
)
@click.option(
    "--ctx",
    type=click.IntRange(64),
    help=say(
        "Tokens of a chunk, of which the second half is scored. [default: 512]", "每块的词元数，后半计入。[默认：512]"
    ),
)
@click.option(
    "--chunks",
    type=click.IntRange(1),
    help=say("Stop after this many chunks. [default: all]", "只测前若干块。[默认：全部]"),
)
@click.option(
    "--plot",
    metavar="FILE.svg",
    help=say(
        "Draw size against KL divergence as SVG; replaces an earlier plot.",
        "把大小与 KL 散度的关系画成 SVG；会覆盖先前的图。",
    ),
)
@click.option(
    "--no-store",
    is_flag=True,
    help=say("Do not keep the figures beside the files.", "不把结果保存在文件旁。"),
)
@click.option("--json", "as_json", is_flag=True, help=say("Print JSON.", "输出 JSON。"))
@device_options
@rpc_option
def command(files: Sequence[str], plot: str | None, no_store: bool, as_json: bool, **given: Any) -> None:
    """Check everything, measure, then print the tables."""
    _check(given, plot)
    given["against"] = _reference(given["against"])
    measured = _measure(files, given, not no_store)
    if plot is not None:
        _write_plot(path_named(plot), measured)
    if as_json:
        click.echo(json.dumps([as_data(one) for one in measured], ensure_ascii=False, indent=2))
        return
    parts = [measured_tables(measured), measured_on(measured)]
    if len(points := _points(measured)) > 1:
        parts.append(terminal_plot(points))
    click.echo("\n\n".join(parts))


def _check(given: dict[str, Any], plot: str | None) -> None:
    """Raise UsageError for options that do not go together, before anything is measured."""
    if given["against"] is None and (given["save_logits"] is not None or plot is not None):
        name = "--save-logits" if given["save_logits"] is not None else "--plot"
        raise UsageError(say(f"{name} goes with --against.", f"{name} 须与 --against 合用。"))
    if plot is not None and path_named(plot).suffix.lower() != ".svg":  # the name of a model would be replaced
        raise UsageError(
            say(f"{plot} does not end in .svg.", f"{plot} 不以 .svg 结尾。"),
            say("--plot writes an SVG file, in place of an earlier one.", "--plot 写出 SVG 文件，并覆盖先前的图。"),
        )
    for name in filter(None, (plot, given["save_logits"])):
        folder = path_named(name).absolute().parent
        if not folder.is_dir():
            raise UsageError(say(f"There is no folder {folder}.", f"没有文件夹 {folder}。"))


def _measure(files: Sequence[str], given: dict[str, Any], store: bool) -> list[Listed]:
    from bq.runtime.evaluation.candidate import open_candidate
    from bq.runtime.evaluation.evaluate import evaluate
    from bq.runtime.known import file_warnings

    wish = _wish(given)
    paths = list({path.resolve(): path for path in map(_model_path, files)}.values())
    candidates = [open_candidate(path, wish.text) for path in paths]
    progress, found = Progress(len(candidates) + _reference_passes(given)), []
    for warning in (warning for one in candidates for warning in file_warnings(one.file)):
        progress.note(say("Warning: ", "警告：") + warning)
    try:
        with compared(candidates, given["against"], wish, given["text"] is not None, progress) as comparison:
            for candidate, figures in evaluate(comparison, progress):
                found.append(listed(candidate.file, figures))
                if store:
                    _store(candidate, figures, progress)
    except KeyboardInterrupt:
        raise _stopped(progress) from None
    finally:
        progress.clear()
    return found


def _wish(given: dict[str, Any]) -> "Wish":
    from bq.runtime.evaluation.request import Wish
    from bq.runtime.values import LoadOptions
    from bq.tui.chosen_model import home
    from bq.tui.texts import texts_named

    (text,) = texts_named([given["text"]] if given["text"] is not None else [], "evaluation")
    return Wish(
        text=text,
        folder=home() / "eval",
        context=given["ctx"],
        chunks=given["chunks"],
        save_logits=path_named(given["save_logits"]) if given["save_logits"] is not None else None,
        options=LoadOptions(
            **{name: given[name] for name in ("threads", "gpu_layers", "cpu_experts", "device", "rpc")}
        ),
    )


def _model_path(given: str) -> Path:
    from bq.tui.chosen_model import model_named, refuse_folder

    path = model_named(given)
    refuse_folder(path)
    return path


def _reference(given: str | None) -> str | None:
    """A folder, a file, or a model's name as its file."""
    from bq.convert.convert import DEMO_SOURCE
    from bq.tui.chosen_model import model_named

    return given if given in (None, DEMO_SOURCE) else str(model_named(given, folders=True))


def _reference_passes(given: dict[str, Any]) -> int:
    """1 if the reference is a model that must be read too."""
    from bq.runtime.evaluation.logits_file import is_logits_file

    return int(given["against"] is not None and not is_logits_file(path_named(given["against"])))


def _store(candidate: "Candidate", figures: "Figures", progress: Progress) -> None:
    from bq.runtime.evaluation.figures import store_figures

    try:
        store_figures(candidate.path, figures, candidate.content)
    except BqError as error:
        progress.note(str(error))


def _stopped(progress: Progress) -> Cancelled:
    last = progress.last
    if last is None:
        return Cancelled(say("Stopped before anything was measured.", "在测量开始前已停止。"))
    where = say(
        f"Stopped after chunk {last.done} of {last.total} of {last.name}.",
        f"已停止：{last.name} 测完第 {last.done}/{last.total} 块。",
    )
    return Cancelled(where, say("The same command goes on.", "再次运行同样的命令即可继续。"))


def _points(measured: Sequence[Listed]) -> list[Point]:
    """A point for each file, by size: called by its mixture, or where others have that too, by its name."""
    mixtures = [one.mixture for one in measured]
    return [
        Point(
            one.mixture if mixtures.count(one.mixture) == 1 else clean(one.path.stem),
            one.size_bytes / _GIB,
            one.figures.kl_mean,
        )
        for one in sorted(measured, key=lambda one: one.size_bytes)
        if one.figures is not None and one.figures.kl_mean is not None and one.figures.kl_mean >= _ROUNDING
    ]


def _write_plot(path: Path, measured: Sequence[Listed]) -> None:
    """Raises BqError if the file cannot be written."""
    from bq.runtime.atomic_file import replacing

    title = say("Size and KL divergence", "大小与 KL 散度") + f": {measured[0].name}"
    try:
        with replacing(path) as part:
            part.write_text(svg_plot(_points(measured), title), encoding="utf-8")
    except OSError as error:
        raise BqError(
            say(f"{path} cannot be written: {error.strerror}.", f"无法写入 {path}：{error.strerror}。"),
        ) from None
