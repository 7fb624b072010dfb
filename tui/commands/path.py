"""`bq path`: where a model's file lies, for scripts."""

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.commands.model_name import ModelName


@click.command(
    help=say(
        "Print the path of the file of MODEL, and nothing else; nothing but an error if it is not here.",
        "只输出 MODEL 的文件路径；若不存在则只报告错误。",
    )
)
@click.argument("model", type=ModelName())
def command(model: str) -> None:
    """Print the absolute path."""
    from bq.library.look import absolute
    from bq.tui.chosen_model import model_named, refuse_folder

    path = absolute(model_named(model))
    refuse_folder(path)
    if not path.is_file():
        raise UsageError(
            say(f"There is no file {path}.", f"没有文件 {path}。"),
            say("`bq list` shows the models there are.", "`bq list` 列出已有的模型。"),
        )
    click.echo(str(path))
