"""The slash commands in the app: each does what its key or dialog does. Imported with the first one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import get_language, say, set_language
from bq.tui import app_answer_commands, app_dialogs, app_kept, app_messages, app_sampling, by_hand, notes, slash
from bq.tui.desk import Desk
from bq.tui.engine import Unsent
from bq.tui.machine_error import of_machine
from bq.tui.model_paths import model_path, model_paths
from bq.tui.widgets.line import Notice

if TYPE_CHECKING:
    from bq.tui.app import ChatApp

Do = Callable[["ChatApp", Desk, slash.Command], Awaitable[None]]


async def run_command(app: "ChatApp", desk: Desk, line: str, raw: str) -> bool:
    """Do what a line says; False if it is no command but text. The line is taken away unless it was wrong."""
    try:
        command = slash.parse(line, "app")
        if command is None:
            return False
        if command.name in _NEEDS_REST and app.engine.busy and app.refuse():
            desk.view.prompt.give_back(raw)
            return True
        desk.view.prompt.take(raw)
        await _DOES[command.name](app, desk, command)
    except BqError as error:
        _give_back(desk, line)
        await app.tell(error)
    except OSError as error:
        _give_back(desk, line)
        await app.tell(of_machine(error))
    return True


def _give_back(desk: Desk, line: str) -> None:
    """A command that went wrong stands in the box again, marked: what is typed next takes its place."""
    prompt = desk.view.prompt
    if prompt.text.strip() in ("", line):
        prompt.write(line)
        prompt.select_all()


def candidates(app: "ChatApp", name: str) -> list[str]:
    """The arguments of a command that only the app knows, for completing it."""
    if name in ("model", "compare"):
        return [str(path) for path in model_paths(app.path)]
    if name == "theme":
        return sorted(app.available_themes)
    if name == "template":
        from bq.tui.templates import templates

        return [one.name for one in templates()]
    return []


async def _help(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if command.argument:
        one = slash.command_named(command.argument, "app")
        await _tell(desk, f"{one.usage}{say(': ', '：')}{one.does}")
    else:
        app.action_help()


async def _new(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    await app.action_new()


async def _list(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    app.open_dialog(lambda dialogs: dialogs.conversations(app, command.argument))


async def _open(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    """By its number in the list, else by what is in it."""
    if command.argument.isdecimal():
        await app_kept.open_conversation(app, await _listed(app, command.argument))
    else:
        await _list(app, desk, command)


async def _listed(app: "ChatApp", number: str) -> str:
    """The conversation of this number in the list. Raises UsageError if there is none."""
    found = await app.keeper.ask(lambda store: store.listed())
    if not 1 <= int(number) <= len(found):
        raise UsageError(
            say(f"There is no conversation {number}.", f"没有第 {number} 个对话。"),
            say("F3 lists them.", "F3 列出对话。"),
        )
    return found[int(number) - 1].id


async def _rename(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    by_hand.rename(desk.conversation, command.argument)
    app.keep(desk)
    app.hint(lambda: say(f"Its title is {command.argument} now.", f"标题已改为 {command.argument}。"))


async def _delete(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    """The one on the screen, whose place a new one takes, or one of the list."""
    gone = await _listed(app, command.argument) if command.argument else desk.conversation.id
    where = next((one for one in app.desks.values() if one.conversation.id == gone), None)
    if gone == app.session_talk or (where is desk and not desk.conversation.nodes):
        raise BqError(say("There is nothing kept here to delete.", "此处没有可删除的内容。"))
    if where is not None:
        app_kept.keep_drafts(app)
        await app_kept.renew(app, where)
    await app.keeper.ask(lambda store: store.delete(gone))
    app.deletions.add(gone)
    app.show_status()
    app.hint(lambda: say("Deleted; /undo brings it back.", "已删除；/undo 可恢复。"))


async def _retry(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    app.action_again()


async def _continue(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    app.action_go_on()


async def _edit(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    last = desk.conversation.current
    if last is None:
        app.hint(notes.nothing_to_undo)
    elif command.argument:
        await app_messages.edit(app, desk, last.question, command.argument)
    else:
        desk.conversation.undo()
        await app.show_path(desk)
        desk.view.show_draft(last.question.content)


async def _undo(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    id = app.deletions.last
    if id is not None and (app.deletions.is_newest or not desk.conversation.nodes):
        await app.keeper.ask(lambda store: store.restore(id))
        app.deletions.forget(id)
        await app_kept.open_conversation(app, id)
        return
    question = desk.conversation.undo()
    if question is None:
        app.hint(notes.nothing_to_undo)
        return
    app.keep(desk)
    await app.show_path(desk)
    desk.view.show_draft(question.content)
    app.count_unsent()


async def _clear(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    desk.conversation.head = None
    app.keep(desk)
    await app.show_path(desk, is_new=True)
    app.count_unsent()


async def _copy(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    app.action_copy_answer()


async def _system(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if not command.argument:
        system = desk.conversation.system
        await _tell(desk, say("System prompt: ", "系统提示：") + (system or say("none", "无")))
        return
    desk.conversation.system = "" if command.argument == "-" else command.argument
    app.keep(desk)
    app.count_unsent()
    app.hint(lambda: say("The next question has this system prompt.", "下一个问题将使用此系统提示。"))


async def _params(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if command.argument:
        changes = slash.params_from(command.argument)
        app.parameters = app.parameters.with_parameters(changes)
        if "max_tokens" in changes:
            app.given_max_tokens = None
    await _tell(desk, describe_sampling(app))


async def _think(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    model = app.engine.model
    if command.argument and model is not None:
        app.given_think = slash.think_from(command.argument, model.info)
        app.count_unsent()
    await _tell(
        desk, slash.think_text(app_sampling.think(app)) if model else say("No model is loaded.", "尚未加载模型。")
    )


def describe_sampling(app: "ChatApp") -> str:
    """One line: how the next answer is drawn."""
    sampling = app_sampling.sampling(app) or app_sampling.default_sampling(app)
    if sampling is None:
        return say("No model is loaded.", "尚未加载模型。")
    seed = say("random", "随机") if sampling.seed is None else sampling.seed
    limit = app_sampling.max_tokens(app) or (app.engine.model.info.max_new_tokens if app.engine.model else "")
    return (
        f"temp {sampling.temperature:g}  top-k {sampling.top_k}  top-p {sampling.top_p:g}  "
        f"repeat-penalty {sampling.repeat_penalty:g}  seed {seed}  max-tokens {limit}"
    )


async def _template(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    from bq.tui.templates import templates

    name, _, material = command.argument.partition(" ")
    found = next((one for one in templates() if one.name == name), None)
    if found is None:
        app.open_dialog(lambda dialogs: dialogs.templates(app))
    else:
        await app_dialogs.use_template(app, found, material.strip())


async def _context(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    messages = desk.conversation.transcript()
    pins = desk.conversation.pinned()
    limit, think = app_sampling.max_tokens(app), app_sampling.think(app)
    unsent = await asyncio.to_thread(app.engine.measure, messages, limit, pins, think) if messages else None
    if unsent is None:
        await _tell(desk, say("The context is empty, or the model is busy.", "上下文为空，或模型正忙。"))
        return
    await _tell(desk, _context_text(unsent, len(pins)))


def _context_text(unsent: Unsent, pinned: int) -> str:
    left = unsent.dropped_rounds
    figures = [
        say(
            f"Context: {unsent.prompt_tokens} of {unsent.budget} tokens before the answer",
            f"上下文：回答前 {unsent.prompt_tokens} / {unsent.budget} 词元",
        )
    ]
    if left:
        noun = "round has" if left == 1 else "rounds have"
        figures.append(say(f"{left} {noun} no room", f"{left} 轮放不下"))
    if pinned:
        figures.append(say(f"{pinned} pinned", f"固定 {pinned} 轮"))
    return say("; ", "；").join(figures) + say(".", "。")


async def _model(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if not command.argument:
        app.open_dialog(lambda dialogs: dialogs.models(app))
        return
    app.load(model_path(command.argument, app.path))


async def _compare(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    path = model_path(command.argument, app.path) if command.argument else None
    app.open_dialog(lambda dialogs: dialogs.compare(app, path))


async def _save(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if command.argument:
        by_hand.rename(desk.conversation, command.argument)
    app.keep(desk, desk.conversation.nodes.values())
    app.hint(lambda: say("Saved, as after each message.", "已保存（每条消息之后也会自动保存）。"))


async def _export(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    path = await asyncio.to_thread(by_hand.export, desk.conversation, command.argument, command.force)
    app.hint(lambda: say(f"Written: {path}", f"已写入：{path}"))


async def _import(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    made = await asyncio.to_thread(by_hand.from_file, command.argument)
    app.keeper.keep(made, made.nodes.values())
    await app_kept.show_conversation(app, made)


async def _lang(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    from bq.runtime.language import LANGUAGES

    if command.argument not in LANGUAGES:
        await _tell(desk, say("/lang en or /lang zh", "/lang en 或 /lang zh"))
        return
    set_language(command.argument)
    app.speak()
    app_kept.change_settings(app, language=get_language())


async def _theme(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    if command.argument not in app.available_themes:
        app.action_change_theme()
        return
    app.theme = command.argument
    app_kept.change_settings(app, theme=command.argument)


async def _quit(app: "ChatApp", desk: Desk, command: slash.Command) -> None:
    await app.action_quit()


async def _tell(desk: Desk, text: str) -> None:
    """Something that was asked for, below the messages."""
    await desk.page.notice(Notice("hint", text))
    desk.view.follow()


_DOES: dict[str, Do] = {
    "help": _help,
    "new": _new,
    "list": _list,
    "open": _open,
    "find": _list,
    "rename": _rename,
    "delete": _delete,
    "retry": _retry,
    "continue": _continue,
    "edit": _edit,
    "undo": _undo,
    "clear": _clear,
    "fork": app_answer_commands.fork,
    "pin": app_answer_commands.pin,
    "versions": app_answer_commands.versions,
    "prompts": app_answer_commands.prompts,
    "mode": app_answer_commands.mode,
    "file": app_answer_commands.file,
    "form": app_answer_commands.form,
    "copy": _copy,
    "system": _system,
    "params": _params,
    "think": _think,
    "template": _template,
    "context": _context,
    "model": _model,
    "compare": _compare,
    "save": _save,
    "export": _export,
    "import": _import,
    "lang": _lang,
    "theme": _theme,
    "quit": _quit,
}
# What changes the path or the model, and so waits until no answer is being written.
_NEEDS_REST = {"new", "delete", "edit", "undo", "clear", "fork", "pin", "model", "import", "open", "versions"}
