"""`bq complete`: a Base model goes on with a text."""

from typing import Any

import click

from bq.runtime.language import say
from bq.tui.answer import answer, piped_text
from bq.tui.commands.options import model_options, sampling_options


@click.command(
    help=say(
        "Go on with TEXT (or with what is piped in): raw text, no roles, as Base models are made for.",
        "续写 TEXT（或管道传入的文本）：原始文本，没有角色，适合 Base 模型。",
    )
)
@click.argument("text", required=False)
@model_options
@sampling_options
@click.option("--stats", is_flag=True, help=say("Print counts and speed to stderr.", "在 stderr 输出计数与速度。"))
def command(text: str | None, **given: Any) -> int:
    """Complete the text."""
    start = text if text is not None else piped_text()
    return answer(given, lambda model, options: model.complete(start, **options))
