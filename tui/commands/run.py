"""`bq run`: one instruction, one answer on stdout."""

import sys
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.aloud import Aloud
from bq.tui.answer import answer, check_text, piped_text
from bq.tui.commands.batch import answer_batch, batch_options, check_alone
from bq.tui.commands.offline_option import offline_option
from bq.tui.commands.options import (
    draft_option,
    model_options,
    sampling_options,
    session_option,
    stop_option,
    think_option,
)
from bq.tui.commands.structured import show_whole, structured_options, with_constraint
from bq.tui.kept_session import KeptSession, print_note, session_in_use

if TYPE_CHECKING:
    from pathlib import Path

    from bq.runtime.generation import Generation
    from bq.runtime.model import Model
    from bq.runtime.prompt_format import Think


@click.command(
    help=say(
        "Give one INSTRUCTION and print the answer. Text piped in is the input below the instruction.",
        "给出一条 INSTRUCTION（指令）并输出回答。管道传入的文本作为指令下方的输入。",
    )
)
@click.argument("instruction", required=False)
@click.option("--system", default="", help=say("A system prompt.", "系统提示。"))
@offline_option
@model_options
@sampling_options
@stop_option
@draft_option
@session_option
@think_option
@structured_options
@batch_options
@click.option("--stats", is_flag=True, help=say("Print counts and speed to stderr.", "在 stderr 输出计数与速度。"))
@click.option("--force", is_flag=True, help=say("Also with a Base model; replace OUT.", "也允许 Base 模型；覆盖 OUT。"))
def command(instruction: str | None, system: str, session: str | None, force: bool, **given: Any) -> int:
    """Answer the instruction and the piped text, or every line of a batch."""
    check_text("INSTRUCTION", instruction)
    check_text("--system", system)
    check_text("--stop", *given["stop"])
    given = with_constraint(given)
    if given["lines"] is not None:
        return answer_batch(instruction, system, force, {**given, "session": session})
    check_alone(given)
    content = "\n\n".join(part for part in (instruction or "", piped_text()) if part)
    if not content.strip():
        raise UsageError(say("There is no instruction.", "没有指令。"), say('Try: bq run "…"', '例如：bq run "…"'))
    with session_in_use(session) as kept:
        return _answer(content, system, kept, force, given)


def _answer(content: str, system: str, kept: KeptSession | None, force: bool, given: dict[str, Any]) -> int:
    from bq.runtime.prompt import Message

    messages = kept.history(system) if kept else [Message("system", system)] if system else []
    messages.append(Message("user", content))

    def start(model: "Model", options: dict[str, Any]) -> "Generation":
        if kept:
            kept.restore(model)
            print_note(kept)
        return model.chat(
            messages, force=force, constraint=given["constraint"], think=given["think"] or "auto", **options
        )

    def finish(model: "Model", text: str) -> None:
        if kept and text.strip():
            kept.keep(model, [*messages, Message("assistant", text)])

    def check(path: "Path") -> None:
        _check_model(path, force, given["think"])

    if given["constraint"] is None:
        return answer(given, start, finish, _show, check)
    return answer(given, start, finish, lambda generation: show_whole(generation, bool(given["json_schema"])), check)


def _check_model(path: "Path", force: bool, think: "Think | None") -> None:
    """Raise UsageError for a model that does not answer, or knows no modes of thinking, before its weights are loaded."""
    from bq.runtime.known import base_refusal, check_think, describe_file
    from bq.tui.model_file import read_model

    file = read_model(path)
    known = describe_file(file)
    if known.variant == "base" and not force:
        raise base_refusal(known.name)
    check_think(file, think, known.name)


def _show(generation: "Generation") -> str:
    """Print an answer as it comes, and a line's end; returns what was said."""
    said = Aloud().follow(generation)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return said
