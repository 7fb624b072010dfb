"""Slash commands of the app for what keys do, too: the mode, a file, the form of answers, versions, rounds, system prompts."""

from typing import TYPE_CHECKING

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.tui import app_messages
from bq.tui.desk import Desk
from bq.tui.dialogs.small import Choice
from bq.tui.harmless import clean
from bq.tui.slash import Command
from bq.tui.slash_arguments import (
    file_and_text,
    form_from,
    form_text,
    mode_named,
    place_in,
    round_named,
    versions_of,
    words,
)
from bq.tui.widgets.instruct_view import InstructView

if TYPE_CHECKING:
    from bq.tui.app import ChatApp


async def mode(app: "ChatApp", desk: Desk, command: Command) -> None:
    """To the next mode, or the one that is named."""
    if command.argument:
        app.has_chosen_mode = True
        await app.show_mode(mode_named(command.argument))
    else:
        await app.action_switch()


async def file(app: "ChatApp", desk: Desk, command: Command) -> None:
    """Take the input from a file; a text behind it is the instruction."""
    from bq.tui.commands.structured import read_text

    if not command.argument:
        app.open_dialog(lambda dialogs: dialogs.input_file(app))
        return
    path, text = file_and_text(command.argument)
    content = clean(read_text(str(path)))
    if isinstance(desk.page, InstructView):
        desk.page.material.write(content)
        if text:
            desk.page.prompt.write(text)
    else:
        desk.page.insert_text(f"{text}\n\n{content}" if text else content)


async def form(app: "ChatApp", desk: Desk, command: Command) -> None:
    """Say what an answer has to look like, in the single-instruction mode."""
    if not command.argument:
        app.open_dialog(lambda dialogs: dialogs.form(app))
        return
    made = form_from(command.argument)
    await app.show_mode("instruct")
    page = app.desks["instruct"].page
    if isinstance(page, InstructView):
        page.form = made
    app.hint(lambda: form_text(made))


async def versions(app: "ChatApp", desk: Desk, command: Command) -> None:
    """Two versions of the last answer side by side, or another one in its place."""
    from bq.tui.dialogs.compare import VersionsScreen

    talk = desk.conversation
    current, found = versions_of(talk)
    if command.argument:
        talk.show(found[place_in(command.argument, len(found), "/versions")].id)
        app.keep(desk)
        await app.show_path(desk)
        app.count_unsent()
    elif len(found) < 2:
        app.hint(lambda: say("There is one version only.", "只有一个版本。"))
    else:
        at = max(1, [one.id for one in found].index(current.id))
        screen = VersionsScreen(found[at - 1], found[at], (at, at + 1))
        app.open_dialog(lambda _: app.push_screen_wait(screen))


async def pin(app: "ChatApp", desk: Desk, command: Command) -> None:
    """Keep a round in the context, or no longer."""
    await app_messages.pin(app, desk, round_named(desk.conversation, command.argument).question)


async def fork(app: "ChatApp", desk: Desk, command: Command) -> None:
    """Go on in a copy that ends with a round."""
    one = round_named(desk.conversation, command.argument)
    await app_messages.fork(app, desk, one.answer or one.question)


async def prompts(app: "ChatApp", desk: Desk, command: Command) -> None:
    """The library of system prompts."""
    word, rest = words(command.argument)
    if word == "keep":
        await _keep_prompt(app, desk, rest)
        return
    found = await app.keeper.ask(lambda store: store.system_prompts())
    if word == "delete":
        name = found[place_in(rest, len(found), "/prompts")][0]
        await app.keeper.ask(lambda store: store.delete_system_prompt(name))
        app.hint(lambda: say(f"Deleted: {name}", f"已删除：{name}"))
    elif word:
        _use_prompt(app, desk, found[place_in(command.argument, len(found), "/prompts")][1])
    elif found:
        app.open_dialog(lambda _: _choose_prompt(app, desk, found))
    else:
        app.hint(
            lambda: say("No system prompt is kept yet: /prompts keep NAME.", "尚未收藏系统提示：/prompts keep 名称。")
        )


async def _keep_prompt(app: "ChatApp", desk: Desk, name: str) -> None:
    system = desk.conversation.system
    if not name or not system:
        raise UsageError(
            say("There is no name, or no system prompt to keep.", "缺少名称，或没有可收藏的系统提示。"),
            say("/system TEXT, then /prompts keep NAME", "/system 文字，然后 /prompts keep 名称"),
        )
    await app.keeper.ask(lambda store: store.save_system_prompt(name, system))
    app.hint(lambda: say(f"Kept as {name}.", f"已收藏为 {name}。"))


async def _choose_prompt(app: "ChatApp", desk: Desk, found: list[tuple[str, str]]) -> None:
    options = [(str(at), f"{at + 1} {name}: {text[:60]}") for at, (name, text) in enumerate(found)]
    chosen = await app.push_screen_wait(Choice(lambda: say("System prompts", "系统提示"), options))
    if chosen is not None:
        _use_prompt(app, desk, found[int(chosen)][1])


def _use_prompt(app: "ChatApp", desk: Desk, text: str) -> None:
    desk.conversation.system = text
    app.keep(desk)
    app.count_unsent()
    app.hint(lambda: say("The next question has this system prompt.", "下一个问题将使用此系统提示。"))
