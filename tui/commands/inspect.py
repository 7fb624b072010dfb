"""`bq inspect`: what is in a GGUF file, a checkpoint, an adapter, an importance matrix or a plan of types."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say

if TYPE_CHECKING:
    from bq.convert.inspect.inspect import Report


@click.command(
    help=say(
        "Show what is in SOURCE: a GGUF file, the folder of a checkpoint (`demo` for the bundled one), an adapter, an importance "
        "matrix or a plan of types. Nothing is loaded. The exit status is 1 if bq cannot run or convert it.",
        "查看 SOURCE 的内容：GGUF 文件、检查点文件夹（`demo` 表示内置的检查点）、适配器、重要性矩阵或类型计划。不加载模型。"
        "若 bq 无法运行或转换它，退出状态为 1。",
    )
)
@click.argument("source")
@click.option(
    "--metadata",
    is_flag=True,
    help=say("Every key of the metadata, or of config.json.", "元数据或 config.json 的所有键。"),
)
@click.option("--tensors", is_flag=True, help=say("Every tensor.", "所有张量。"))
@click.option("--vocabulary", is_flag=True, help=say("Every piece of the vocabulary.", "词表的所有词元。"))
@click.option("--all", "with_all", is_flag=True, help=say("The summary and all of these.", "概要以及以上全部。"))
@click.option("--json", "as_json", is_flag=True, help=say("Print everything as JSON.", "以 JSON 输出全部内容。"))
def command(source: str, metadata: bool, tensors: bool, vocabulary: bool, with_all: bool, as_json: bool) -> int:
    """Look and print; the exit status is 1 where something is wrong that bq cannot do without."""
    from bq.convert.convert import DEMO_SOURCE
    from bq.convert.inspect.inspect import inspect
    from bq.tui.chosen_model import model_named
    from bq.tui.inspect.data import as_data, to_json

    if not source:
        raise UsageError(
            say("The name is empty.", "名称为空。"), say("Give a file or a folder.", "请给出文件或文件夹。")
        )
    report = inspect(source if source == DEMO_SOURCE else str(model_named(source, folders=True)))
    if as_json:
        click.echo(to_json(as_data(report)))
        return int(bool(report.problems))
    wanted = {"metadata": metadata, "tensors": tensors, "vocabulary": vocabulary}
    has_lists = any(wanted.values())
    parts = [*_summary(report, with_all)] if with_all or not has_lists else []
    parts += _lists(report, {name for name, is_wanted in wanted.items() if is_wanted or with_all})
    parts += _faults(report)
    if not (with_all or has_lists) and (hint := _hint(report)):
        parts.append(hint)
    click.echo("\n\n".join(parts))
    return int(bool(report.problems))


def _summary(report: "Report", with_all: bool) -> Iterator[str]:
    from bq.convert.inspect.adapter import AdapterReport
    from bq.convert.inspect.inspect import MatrixReport, TypesReport
    from bq.convert.inspect.model import ModelReport
    from bq.tui.inspect import model, others

    if isinstance(report, ModelReport):
        return model.summary(report)
    if isinstance(report, MatrixReport):
        return others.matrix_summary(report, with_all)
    if isinstance(report, TypesReport):
        return others.types_summary(report, with_all)
    if isinstance(report, AdapterReport):
        return others.adapter_summary(report, with_all)
    return others.checkpoint_summary(report, with_all)


def _lists(report: "Report", wanted: set[str]) -> Iterator[str]:
    """The lists that were asked for and that a report of this kind has, the longest at the end."""
    from bq.convert.inspect.checkpoint import CheckpointReport
    from bq.convert.inspect.model import ModelReport
    from bq.tui.inspect.lists import config_list, metadata_list, stored_list, tensor_list, vocabulary_list

    if not isinstance(report, ModelReport | CheckpointReport):
        return
    if "metadata" in wanted:
        yield metadata_list(report) if isinstance(report, ModelReport) else config_list(report)
    if "tensors" in wanted and report.tensors:
        yield tensor_list(report) if isinstance(report, ModelReport) else stored_list(report)
    if "vocabulary" in wanted and report.vocabulary is not None:
        yield from vocabulary_list(report.vocabulary)


def _faults(report: "Report") -> Iterator[str]:
    """What is wrong, a line each; only the errors of this program's own making are certain to be printable."""
    from bq.convert.inspect.model import ModelReport
    from bq.tui.inspect.words import printable

    warnings = report.warnings if isinstance(report, ModelReport) else ()
    lines = [say("Warning: ", "警告：") + printable(one) for one in warnings]
    lines += [say("Problem: ", "问题：") + str(one) for one in report.problems]
    if lines:
        yield "\n".join(lines)


def _hint(report: "Report") -> str:
    """What else there is to see."""
    from bq.convert.inspect.adapter import AdapterReport
    from bq.convert.inspect.inspect import MatrixReport, TypesReport

    if isinstance(report, MatrixReport | TypesReport | AdapterReport):
        return say("More: --all, or --json for everything as data.", "更多：--all，或用 --json 以数据形式输出全部。")
    return say(
        "More: --metadata, --tensors, --vocabulary, --all, or --json for everything as data.",
        "更多：--metadata、--tensors、--vocabulary、--all，或用 --json 以数据形式输出全部。",
    )
