"""Commands of the line mode for what the app has keys for: the mode, a file, the form of answers, versions, rounds, prompts."""

from typing import TYPE_CHECKING

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import say
from bq.tui.conversation import Conversation, instruction_text
from bq.tui.harmless import clean
from bq.tui.plain_input import tell
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
from bq.tui.thinking import spoken

if TYPE_CHECKING:
    from bq.tui.plain import PlainChat

_BRIEF = 70  # characters of a text in a list


def mode(chat: "PlainChat", command: Command) -> None:
    """Say which mode it is, or go to another one, in a new conversation if something was said in this one."""
    if command.argument:
        wanted = mode_named(command.argument)
        if wanted != chat.conversation.mode:
            if chat.conversation.nodes:
                chat.conversation = Conversation(system=chat.conversation.system)
            chat.conversation.mode = wanted
    texts = {
        "chat": say("Chat: each message has those before it.", "对话：每条消息都带有之前的内容。"),
        "instruct": say("Single instructions: each message stands alone.", "单条指令：每条消息互不相关。"),
        "complete": say("Text: the model goes on with each text.", "续写：模型接着写每段文字。"),
    }
    tell(f"{chat.conversation.mode}{say('. ', '。')}{texts[chat.conversation.mode]}")


def file(chat: "PlainChat", command: Command) -> None:
    """Ask with what is in a file, below a text if there is one."""
    from bq.tui.commands.structured import read_text

    if not command.argument:
        raise UsageError(
            say("The file is missing.", "缺少文件。"), say("Write: /file FILE [TEXT]", "写法：/file 文件 [文字]")
        )
    path, text = file_and_text(command.argument)
    content = clean(read_text(str(path)))
    chat.ask(instruction_text(text, content) if text else content)


def form(chat: "PlainChat", command: Command) -> None:
    """Say what answers have to look like from now on."""
    if command.argument:
        chat.form = form_from(command.argument)
    tell(form_text(chat.form))


def versions(chat: "PlainChat", command: Command) -> None:
    """Show the versions of the last answer, or of the last question, or go on with one."""
    talk = chat.conversation
    current, found = versions_of(talk)
    if command.argument:
        current = found[place_in(command.argument, len(found), "/versions")]
        talk.show(current.id)
        chat.keep()
        tell(say(f"Version {command.argument} of {len(found)}:", f"第 {command.argument}/{len(found)} 个版本："))
        tell(spoken(current.content))
        return
    for number, node in enumerate(found, 1):
        mark = "*" if node is current else " "
        tell(f"{number:>2} {mark} {_brief(spoken(node.content))}{f'  ({node.model})' if node.model else ''}")


def pin(chat: "PlainChat", command: Command) -> None:
    """Keep a round in the context, or no longer."""
    one = round_named(chat.conversation, command.argument)
    number = chat.conversation.rounds.index(one) + 1
    one.question.pinned = not one.question.pinned
    chat.keep([one.question])
    tell(
        say(f"Round {number} stays in the context.", f"第 {number} 轮将始终留在上下文中。")
        if one.question.pinned
        else say(f"Round {number} may be left out again.", f"第 {number} 轮不再固定。")
    )


def fork(chat: "PlainChat", command: Command) -> None:
    """Go on in a copy that ends with a round."""
    talk = chat.conversation
    if talk.head is None:
        raise BqError(say("There is nothing to copy yet.", "还没有可以复制的内容。"))
    last = talk.head
    if command.argument:
        one = round_named(talk, command.argument)
        last = (one.answer or one.question).id
    chat.conversation = talk.fork(last)
    chat.keep()
    tell(say("This is a copy; the conversation it comes from stays as it is.", "这是副本，原对话保持不变。"))


def prompts(chat: "PlainChat", command: Command) -> None:
    """The library of system prompts."""
    found = chat.store.system_prompts()
    word, rest = words(command.argument)
    if not word:
        for number, (name, text) in enumerate(found, 1):
            tell(f"{number:>2} {name}{say(': ', '：')}{_brief(text)}")
        if not found:
            tell(say("No system prompt is kept yet: /prompts keep NAME.", "尚未收藏系统提示：/prompts keep 名称。"))
    elif word == "keep":
        if not rest or not chat.conversation.system:
            raise UsageError(
                say("There is no name, or no system prompt to keep.", "缺少名称，或没有可收藏的系统提示。"),
                say("/system TEXT, then /prompts keep NAME", "/system 文字，然后 /prompts keep 名称"),
            )
        chat.store.save_system_prompt(rest, chat.conversation.system)
        tell(say(f"Kept as {rest}.", f"已收藏为 {rest}。"))
    elif word == "delete":
        name = found[place_in(rest, len(found), "/prompts")][0]
        chat.store.delete_system_prompt(name)
        tell(say(f"Deleted: {name}", f"已删除：{name}"))
    else:
        name, text = found[place_in(command.argument, len(found), "/prompts")]
        chat.conversation.system = text
        chat.keep()
        tell(f"{name}{say(': ', '：')}{text}")


def _brief(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _BRIEF else line[: _BRIEF - 1] + "…"
