"""`bq chat`: the terminal app."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui.answer import check_text
from bq.tui.commands.options import (
    SAMPLING,
    load_options,
    model_options_alone,
    sampling,
    sampling_options,
    session_option,
)
from bq.tui.kept_session import KeptSession, session_in_use

if TYPE_CHECKING:
    from bq.runtime.sampling import Sampling


@click.command(
    help=say(
        "Talk to a model in the terminal: several turns, or single instructions (F2).",
        "在终端中与模型对话：多轮对话或单条指令（F2）。",
    )
)
@click.option("--system", default="", help=say("A system prompt.", "系统提示。"))
@click.option("--instruct", is_flag=True, help=say("Begin with single instructions.", "以单条指令模式开始。"))
@model_options_alone
@sampling_options
@session_option
def command(system: str, instruct: bool, session: str | None, **given: Any) -> None:
    """Open the app on the model."""
    _need_terminal()
    check_text("--system", system)
    with session_in_use(session) as kept:
        _chat(system, instruct, kept, given)


def _need_terminal() -> None:
    """Raise UsageError unless keys can come in and a screen go out: Textual reads stdin and draws on stderr."""
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise UsageError(
            say("bq chat needs a terminal; in pipes use `bq run`.", "bq chat 需要终端；在管道中请用 `bq run`。")
        )


def _chat(system: str, instruct: bool, kept: KeptSession | None, given: dict[str, Any]) -> None:
    from bq.runtime import llama
    from bq.tui.app import ChatApp
    from bq.tui.chosen_model import choose_model, remember_model

    path = choose_model(given["model"])
    sampled = _changed_sampling(path, given)
    mode: Literal["chat", "instruct"] = "instruct" if instruct else "chat"
    app = ChatApp(path, load_options(given), mode, system, sampled, given["max_tokens"], kept)
    is_debug = llama.echo_log(False)  # the log would be drawn over the app: it is shown afterwards
    try:
        app.run()
        if is_debug:
            click.echo(llama.kept_log() + app.engine.trace, err=True)
        if given["model"] is not None and app.engine.was_loaded:
            remember_model(path)
        app.keep_session()
    finally:
        app.engine.close()


def _changed_sampling(path: Path, given: dict[str, Any]) -> "Sampling | None":
    """The file's sampling with what the arguments change; None, for what the file says, if they change nothing."""
    if all(given[name] is None or given[name] is False for name in SAMPLING):
        return None
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.sampling import sampling_of

    return sampling(given, sampling_of(read_gguf(path)))
