"""`bq complete`: a Base model goes on with a text."""

from functools import partial
from typing import Any

import click

from bq.runtime.language import say
from bq.tui.answer import answer, check_text, piped_text
from bq.tui.commands.offline_option import offline_option
from bq.tui.commands.options import draft_option, model_options_alone, sampling_options, stop_option


@click.command(
    help=say(
        "Go on with TEXT (or with what is piped in): raw text, no roles, as Base models are made for.",
        "续写 TEXT（或管道传入的文本）：原始文本，没有角色，适合 Base 模型。",
    )
)
@click.argument("text", required=False)
@offline_option
@model_options_alone
@sampling_options
@stop_option
@draft_option
@click.option(
    "--top-tokens",
    type=click.IntRange(1, 1000),
    help=say(
        "A line for each token: its probability, and this many of the likeliest with theirs.",
        "每个词元一行：其概率，以及概率最高的若干个候选。",
    ),
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help=say("With --top-tokens: a JSON object for each token.", "与 --top-tokens 合用：每个词元输出一个 JSON 对象。"),
)
@click.option("--stats", is_flag=True, help=say("Print counts and speed to stderr.", "在 stderr 输出计数与速度。"))
def command(text: str | None, top_tokens: int | None, as_json: bool, **given: Any) -> int:
    """Complete the text."""
    check_text("TEXT", text)
    check_text("--stop", *given["stop"])
    start = text if text is not None else piped_text()
    if as_json and top_tokens is None:
        raise click.UsageError(say("--json goes with --top-tokens.", "--json 需与 --top-tokens 合用。"))
    if top_tokens is None:
        return answer(given, lambda model, options: model.complete(start, **options))
    from bq.tui.study import show_steps

    return answer(
        given,
        lambda model, options: model.complete(start, top_tokens=top_tokens, **options),
        show=partial(show_steps, as_json=as_json),
    )
