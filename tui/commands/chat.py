"""`bq chat`: the terminal app, and the line mode where an app cannot be drawn."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bq.runtime.errors import UsageError
from bq.runtime.language import is_chosen, say, set_language
from bq.tui.answer import check_text
from bq.tui.commands.model_name import ModelName
from bq.tui.commands.offline_option import offline_option
from bq.tui.commands.options import (
    SAMPLING,
    load_options,
    model_options_alone,
    sampling,
    sampling_options,
    session_option,
    think_option,
)
from bq.tui.harmless import clean
from bq.tui.kept_session import KeptSession, session_in_use

if TYPE_CHECKING:
    from bq.runtime.prompt_format import Think
    from bq.runtime.sampling import Sampling
    from bq.tui.conversation import Mode
    from bq.tui.opening import Opening
    from bq.tui.settings import Settings


@click.command(
    help=say(
        "Talk to a model in the terminal: several turns, or single instructions (F2). In a pipe, or on a terminal that "
        "cannot draw, each line is a message. MODEL is as with -m; a release that is not here yet is offered.",
        "在终端中与模型对话：多轮对话或单条指令（F2）。在管道中或无法绘制界面的终端上，每行是一条消息。"
        "MODEL 与 -m 相同；尚未下载的发布版会询问是否下载。",
    )
)
@click.argument("name", metavar="[MODEL]", required=False, type=ModelName())
@click.option("--system", default="", help=say("A system prompt.", "系统提示。"))
@click.option("--instruct", is_flag=True, help=say("Begin with single instructions.", "以单条指令模式开始。"))
@click.option(
    "--plain",
    is_flag=True,
    help=say("Line by line, without drawing: for screen readers.", "逐行对话，不绘制界面：适合读屏软件。"),
)
@click.option("--new", is_flag=True, help=say("Begin a new conversation. [default]", "开始新的对话。[默认]"))
@click.option(
    "--continue", "goes_on", is_flag=True, help=say("Go on with the last conversation.", "继续上一次的对话。")
)
@click.option("--theme", help=say("The colours of the app, by name.", "界面配色的名称。"))
@offline_option
@model_options_alone
@sampling_options
@session_option
@think_option
def command(name: str | None, system: str, session: str | None, **given: Any) -> int:
    """Open the app or the line mode on the model."""
    given["model"] = _one_model(name, given["model"])
    check_text("--system", system)
    _check_beginning(system, session, given)
    settings = _settings(given["theme"])
    with session_in_use(session) as kept:
        return _chat(system, kept, settings, given)


def _one_model(name: str | None, option: str | None) -> str | None:
    """MODEL and -m mean the same. Raises UsageError if both are given."""
    if name is not None and option is not None:
        raise UsageError(
            say(f"The model is given twice: {name} and -m {option}.", f"模型给出了两次：{name} 与 -m {option}。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    return name if name is not None else option


def _check_beginning(system: str, session: str | None, given: dict[str, Any]) -> None:
    """Raise UsageError if it cannot be told which conversation is meant."""
    others = {"--new": given["new"], "--session": session is not None, "--system": bool(system)}
    other = next((name for name, is_given in others.items() if is_given), None)
    if given["goes_on"] and other is not None:
        raise UsageError(
            say(f"--continue cannot be combined with {other}.", f"--continue 不能与 {other} 合用。"),
            say("Leave one of them out.", "请去掉其中一个。"),
        )


def _settings(theme: str | None) -> "Settings":
    """What the person has set; the language too, unless --lang or BQ_LANG says otherwise."""
    from bq.tui.settings import load

    settings = load()
    if settings.language and not is_chosen():
        set_language(settings.language)
    return settings if theme is None else replace(settings, theme=theme)


def why_no_screen() -> str:
    """What keeps the app from being drawn, "" if nothing does: Textual reads keys from stdin and draws on stderr."""
    if os.environ.get("TERM", "unknown" if os.name == "nt" else "") in ("", "dumb"):
        return say("TERM names no terminal that can be drawn on", "TERM 所指的终端无法绘制界面")
    streams = {"stdin": sys.stdin, "stdout": sys.stdout, "stderr": sys.stderr}
    name = next((name for name, one in streams.items() if not one.isatty()), None)
    return say(f"{name} is no terminal", f"{name} 不是终端") if name else ""


def can_draw() -> bool:
    """Whether keys can come in and a screen go out."""
    return not why_no_screen()


def _say_why() -> None:
    """A person at the keyboard who asked for the app is told why there are lines instead; a script knows."""
    if sys.stdin.isatty():
        reason = why_no_screen()
        click.echo(say(f"bq: line by line, because {reason}.", f"bq: 逐行模式，因为{reason}。"), err=True)


def _chat(system: str, kept: KeptSession | None, settings: "Settings", given: dict[str, Any]) -> int:
    from bq.tui.chosen_model import choose_model
    from bq.tui.opening import Opening

    path = choose_model(given["model"])
    mode: Mode = "instruct" if given["instruct"] else "chat"
    opening = Opening(
        path=path,
        options=load_options(given),
        mode=mode if given["instruct"] else None,
        system=system,
        sampling=_changed_sampling(path, given, settings),
        max_tokens=given["max_tokens"],
        think=_think(path, given["think"]),
        session=kept,
        resume=_latest(mode) if given["goes_on"] else None,
        settings=settings,
    )
    if not given["plain"] and can_draw():
        return _open_app(opening, given)
    if not given["plain"]:
        _say_why()
    return _talk(opening, given)


def _talk(opening: "Opening", given: dict[str, Any]) -> int:
    from bq.tui.plain import PlainChat

    chat = PlainChat(opening)
    try:
        status = chat.run()
        _remember(chat.engine.was_loaded, opening.path, given)
        chat.keep_session()
    finally:
        chat.close()
    return status


def _open_app(opening: "Opening", given: dict[str, Any]) -> int:
    from bq.runtime import llama
    from bq.tui import app_kept
    from bq.tui.app import ChatApp

    app = ChatApp(opening)
    is_debug = llama.echo_log(False)  # the log would be drawn over the app: it is shown afterwards
    try:
        _check_theme(given["theme"], app.available_themes)
        app.run()
        if is_debug:
            click.echo(clean(llama.kept_log() + app.engine.trace), err=True)
        _remember(app.engine.was_loaded, opening.path, given)
        app_kept.keep_session(app)
        for error in app.keeper.errors:
            click.echo(f"bq: {error}", err=True)
    finally:
        app.engine.close()
    return app.return_code or 0


def _check_theme(theme: str | None, known: Any) -> None:
    if theme is not None and theme not in known:
        raise UsageError(
            say(f"There is no theme {theme}.", f"没有配色 {theme}。"),
            say("There are: ", "可用的有：") + ", ".join(sorted(known)),
        )


def _remember(was_loaded: bool, path: Path, given: dict[str, Any]) -> None:
    from bq.tui.chosen_model import remember_model

    if given["model"] is not None and was_loaded:
        remember_model(path)


def _latest(mode: "Mode") -> str | None:
    """The conversation to go on with; None, with a note, if there is none yet."""
    from bq.tui.store import Store

    store = Store.open()
    try:
        found = store.latest(mode)
    finally:
        store.close()
    if found is None:
        click.echo(say("There is no conversation yet: a new one begins.", "还没有对话：开始新的对话。"), err=True)
    return found


def _think(path: Path, think: "Think | None") -> "Think | None":
    """Raises UsageError if the model knows nothing of it."""
    if think in (None, "auto"):
        return think
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.known import check_think, describe_file

    file = read_gguf(path)
    check_think(file, think, describe_file(file).name)
    return think


def _changed_sampling(path: Path, given: dict[str, Any], settings: "Settings") -> "Sampling | None":
    """The file's sampling and what is set, with what the arguments change; None if they change nothing."""
    if all(given[name] is None or given[name] is False for name in SAMPLING):
        return None
    from bq.runtime.gguf_file import read_gguf
    from bq.runtime.sampling import sampling_of

    return sampling(given, settings.sampling(sampling_of(read_gguf(path))))
