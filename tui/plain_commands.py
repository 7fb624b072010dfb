"""What the slash commands do in the line mode: one function each, named in a table."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import LANGUAGES, say, set_language
from bq.tui import by_hand, plain_answers, plain_models
from bq.tui.conversation import instruction_text
from bq.tui.plain_input import is_interactive, tell
from bq.tui.slash import Command, command_named, commands, params_from, think_from, think_text
from bq.tui.slash_arguments import place_in
from bq.tui.table import table

if TYPE_CHECKING:
    from bq.tui.plain import PlainChat
    from bq.tui.store import Listed

_LISTED = 30


def run_command(chat: "PlainChat", command: Command) -> None:
    """Run it. Raises BqError if it cannot be done."""
    if command.name not in ("undo", "delete"):
        chat.deleted = None
    _COMMANDS[command.name](chat, command)


def _help(chat: "PlainChat", command: Command) -> None:
    found = [command_named(command.argument, "plain")] if command.argument else commands("plain")
    for one in found:
        tell(f"{one.usage}: {one.does}")
    if not command.argument:
        tell(
            say(
                'Several lines: end each with \\, or put them between """ and """. Ctrl+C stops an answer.',
                '多行：每行以 \\ 结尾，或放在 """ 与 """ 之间。Ctrl+C 停止回答。',
            )
        )


def _new(chat: "PlainChat", command: Command) -> None:
    chat.begin_new()
    tell(say("A new conversation.", "新的对话。"))


def _list(chat: "PlainChat", command: Command) -> None:
    found = chat.store.listed(command.argument, _LISTED)
    if not found:
        tell(
            say("There is no such conversation.", "没有这样的对话。")
            if command.argument
            else say("Nothing yet.", "暂无对话。")
        )
        return
    chat.listed = [one.id for one in found]
    tell(
        table(
            ("", say("changed", "修改时间"), say("rounds", "轮数"), ""),
            [_row(i, one) for i, one in enumerate(found, 1)],
        )
    )


def _row(number: int, one: "Listed") -> tuple[str, str, str, str]:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.changed))
    found = f"{one.heading} | {' '.join(one.snippet.split())}" if one.snippet else one.heading
    return str(number), when, str(one.rounds), found


def _open(chat: "PlainChat", command: Command) -> None:
    """By its number in the list, else by a text that is in it alone; of several the list is shown."""
    if command.argument.isdecimal():
        chat.open(_listed_id(chat, command.argument))
        return
    found = chat.store.listed(command.argument, _LISTED)
    if len(found) == 1:
        chat.open(found[0].id)
    else:
        _list(chat, command)


def _listed_id(chat: "PlainChat", number: str) -> str:
    """The conversation of this number in the list that was shown last, or would be shown."""
    ids = chat.listed or [one.id for one in chat.store.listed("", _LISTED)]
    return ids[place_in(number, len(ids), "/list")]


def _rename(chat: "PlainChat", command: Command) -> None:
    by_hand.rename(chat.conversation, command.argument)
    chat.keep()
    tell(say(f"The title is: {chat.conversation.title}", f"标题：{chat.conversation.title}"))


def _delete(chat: "PlainChat", command: Command) -> None:
    here = chat.conversation
    id = _listed_id(chat, command.argument) if command.argument else here.id
    if id == here.id and (chat.is_sessions or not here.nodes):
        raise BqError(say("There is nothing kept here to delete.", "此处没有可删除的内容。"))
    chat.store.delete(id)
    chat.deleted = id
    if id == here.id:
        chat.begin_new()
    tell(say("Deleted. /undo brings it back.", "已删除。/undo 可恢复。"))


def _retry(chat: "PlainChat", command: Command) -> None:
    if chat.engine.model is None:
        chat.load(chat.path)
        last = chat.conversation.current
        if chat.engine.model is None or last is None or (last.answer and last.answer.stop != "error"):
            return
    if chat.conversation.current is None:
        raise BqError(say("Nothing was asked yet.", "还没有提问。"))
    chat.answer()


def _continue(chat: "PlainChat", command: Command) -> None:
    chat.answer(is_continued=True)


def _edit(chat: "PlainChat", command: Command) -> None:
    last = chat.conversation.current
    if last is None or not command.argument:
        raise UsageError(
            say("Nothing was asked, or no new text is given.", "还没有提问，或未给出新的文字。"),
            say("Write: /edit TEXT", "写法：/edit 文字"),
        )
    chat.keep([chat.conversation.edit(last.question.id, command.argument)])
    chat.answer()


def _undo(chat: "PlainChat", command: Command) -> None:
    if chat.deleted is not None:
        id, chat.deleted = chat.deleted, None
        chat.store.restore(id)
        chat.open(id)
        return
    question = chat.conversation.undo()
    if question is None:
        raise BqError(say("There is nothing to take back.", "没有可以撤回的内容。"))
    chat.keep()
    tell(say(f"Taken back: {question.content}", f"已撤回：{question.content}"))


def _clear(chat: "PlainChat", command: Command) -> None:
    chat.conversation.head = None
    chat.keep()
    tell(say("All is taken back; the system prompt stays.", "已全部撤回；系统提示保留。"))


def _copy(chat: "PlainChat", command: Command) -> None:
    from bq.tui.clipboard import copy_natively

    answer = chat.conversation.last_answer
    if not answer:
        raise BqError(say("There is no answer yet.", "还没有回答。"))
    if not copy_natively(answer):
        raise BqError(
            say("There is no clipboard here.", "此处没有剪贴板。"),
            say("/export writes a file.", "可用 /export 写入文件。"),
        )
    tell(say(f"Copied {len(answer)} characters.", f"已复制 {len(answer)} 个字符。"))


def _system(chat: "PlainChat", command: Command) -> None:
    if command.argument:
        chat.conversation.system = "" if command.argument == "-" else command.argument
        chat.keep()
    system = chat.conversation.system
    tell(
        say(f"System prompt: {system}", f"系统提示：{system}") if system else say("No system prompt.", "没有系统提示。")
    )


def _params(chat: "PlainChat", command: Command) -> None:
    from bq.tui import settings

    if command.argument:
        chat.change_parameters(params_from(command.argument))
        if is_interactive():  # a script's choice is for the script alone
            settings.save(replace(settings.load(), parameters=chat.settings.parameters))
    model = chat.engine.model
    sampling = chat.sampling() or (model.info.sampling if model else None)
    for one in settings.describe_parameters():
        value = chat.max_tokens() if one.name == "max_tokens" else getattr(sampling, one.name, None)
        shown = say("not set", "未设置") if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        tell(f"{one.option} {shown} ({one.range}): {one.does}")


def _think(chat: "PlainChat", command: Command) -> None:
    from bq.tui import settings
    from bq.tui.plain import no_model

    if chat.engine.model is None:
        raise no_model()
    if command.argument:
        chat.given_think = think_from(command.argument, chat.engine.model.info)
        if is_interactive():
            settings.save(replace(settings.load(), think=chat.given_think))
    tell(think_text(chat.think()))


def _template(chat: "PlainChat", command: Command) -> None:
    from bq.tui.templates import templates

    found = templates()
    name, _, text = command.argument.partition("\n" if "\n" in command.argument.split(" ")[0] else " ")
    if not name:
        for one in found:
            tell(f"/template {one.name}: {one.instruction}")
        return
    chosen = next((one for one in found if one.name == name), None)
    if chosen is None:
        raise UsageError(
            say(f"There is no template {name}.", f"没有模板 {name}。"),
            say("/template shows them.", "/template 列出全部模板。"),
        )
    if not text.strip():
        raise UsageError(
            say("The text is missing.", "缺少文字。"),
            say(f"Write: /template {name} TEXT", f"写法：/template {name} 文字"),
        )
    chat.ask_alone(instruction_text(chosen.instruction, text.strip()), chosen.form)


def _context(chat: "PlainChat", command: Command) -> None:
    from bq.tui.plain import no_model

    talk = chat.conversation
    unsent = chat.engine.measure(talk.messages_with(""), chat.max_tokens(), talk.pinned(), chat.think())
    if unsent is None:
        raise no_model()
    used, budget = unsent.prompt_tokens, unsent.budget
    tell(
        say(
            f"{used} of {budget} tokens are used, {max(0, budget - used)} are left for the next question.",
            f"已用 {used} / {budget} 个词元，下一个问题还有 {max(0, budget - used)} 个。",
        )
    )
    if unsent.left_out:
        tell(chat.left_out_text(unsent.left_out))


def _save(chat: "PlainChat", command: Command) -> None:
    if command.argument:
        by_hand.rename(chat.conversation, command.argument)
    if not chat.is_sessions:
        chat.store.save(chat.conversation)
    tell(say(f"Saved: {chat.conversation.heading}", f"已保存：{chat.conversation.heading}"))


def _export(chat: "PlainChat", command: Command) -> None:
    path = by_hand.export(chat.conversation, command.argument, command.force and is_interactive())
    tell(say(f"Written: {path}", f"已写入：{path}"))


def _import(chat: "PlainChat", command: Command) -> None:
    chat.take_up(by_hand.from_file(command.argument))
    chat.keep()


def _lang(chat: "PlainChat", command: Command) -> None:
    from bq.tui import settings

    if command.argument not in LANGUAGES:
        raise UsageError(
            say(f"There is no language {command.argument}.", f"没有语言 {command.argument}。"), "/lang en | zh"
        )
    set_language(command.argument)
    if is_interactive():
        settings.save(replace(settings.load(), language=command.argument))
    tell(say("English it is.", "已切换为中文。"))


def _quit(chat: "PlainChat", command: Command) -> None:
    chat.is_over = True


_COMMANDS: dict[str, Callable[["PlainChat", Command], None]] = {
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
    "fork": plain_answers.fork,
    "pin": plain_answers.pin,
    "versions": plain_answers.versions,
    "copy": _copy,
    "system": _system,
    "prompts": plain_answers.prompts,
    "params": _params,
    "think": _think,
    "template": _template,
    "context": _context,
    "mode": plain_answers.mode,
    "file": plain_answers.file,
    "form": plain_answers.form,
    "model": plain_models.model,
    "compare": plain_models.compare,
    "save": _save,
    "export": _export,
    "import": _import,
    "lang": _lang,
    "quit": _quit,
}
