"""`bq run`: one instruction, one answer on stdout."""

from typing import Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.answer import answer, piped_text
from bq.tui.commands.options import model_options, sampling_options


@click.command(
    help=say(
        "Give one INSTRUCTION and print the answer. Text piped in is the input below the instruction.",
        "给出一条 INSTRUCTION（指令）并输出回答。管道传入的文本作为指令下方的输入。",
    )
)
@click.argument("instruction", required=False)
@click.option("--system", default="", help=say("A system prompt.", "系统提示。"))
@model_options
@sampling_options
@click.option("--stats", is_flag=True, help=say("Print counts and speed to stderr.", "在 stderr 输出计数与速度。"))
@click.option("--force", is_flag=True, help=say("Also with a Base model.", "也允许 Base 模型。"))
def command(instruction: str | None, system: str, force: bool, **given: Any) -> int:
    """Answer the instruction and the piped text."""
    from bq.runtime.prompt import Message

    content = "\n\n".join(part for part in (instruction or "", piped_text()) if part)
    if not content.strip():
        raise UsageError(say("There is no instruction.", "没有指令。"), say('Try: bq run "…"', '例如：bq run "…"'))
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", content))
    return answer(given, lambda model, options: model.chat(messages, force=force, **options))
