"""`bq chat`: the terminal app."""

from typing import Any

import click

from bq.runtime.language import say
from bq.tui.commands.options import load_options, model_options


@click.command(
    help=say(
        "Talk to a model in the terminal: several turns, or single instructions (F2).",
        "在终端中与模型对话：多轮对话或单条指令（F2）。",
    )
)
@click.option("--system", default="", help=say("A system prompt.", "系统提示。"))
@click.option("--instruct", is_flag=True, help=say("Begin with single instructions.", "以单条指令模式开始。"))
@click.option("--max-tokens", type=click.IntRange(1), help=say("Longest answer in tokens.", "回答的最大词元数。"))
@model_options
def command(system: str, instruct: bool, max_tokens: int | None, **given: Any) -> None:
    """Open the app on the model."""
    from bq.tui.app import ChatApp
    from bq.tui.chosen_model import choose_model, remember_model

    path = choose_model(given["model"])
    if given["model"] is not None and path.is_file():
        remember_model(path)
    ChatApp(path, load_options(given), "instruct" if instruct else "chat", system=system, max_tokens=max_tokens).run()
