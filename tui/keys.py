"""What each key does, in both languages, by the binding's id (which is also its name among a user's own: bq.tui.keymap).

Textual's bindings hold one fixed text; the footer, the help and the command palette ask here when they are drawn.
"""

from collections.abc import Mapping
from functools import cache

from textual.binding import Binding

from bq.runtime.language import get_language, say

Entry = tuple[str, str]  # of the help: a key, and what it does


def places() -> dict[str, str]:
    """Where keys hold, by the first part of their ids, in the order of the help."""
    return {
        "chat": say("Everywhere", "任何地方"),
        "prompt": say("While writing", "书写时"),
        "message": say("On a message (Ctrl+Up goes to the last one)", "选中消息时（Ctrl+↑ 转到最后一条）"),
        "complete": say("In the text mode", "续写模式"),
        "list": say("In the list of conversations", "对话列表中"),
        "dialog": say("In settings and other dialogs", "设置与其他对话框中"),
    }


def describe(binding: Binding) -> str:
    """The text for a binding; its own description where it is not one of ours."""
    return texts().get(binding.id or binding.action, binding.description)


def texts() -> Mapping[str, str]:
    """All keys that the help shows, in its order."""
    return _texts(get_language())


@cache  # it is asked for each key that is drawn
def _texts(language: str) -> Mapping[str, str]:
    """As `texts`; `language` is the one in use."""
    return {
        "prompt.send": say("Send", "发送"),
        "prompt.newline": say("New line", "换行"),
        "prompt.complete": say("Complete a command", "补全命令"),
        "chat.stop": say("Stop, keep what is written", "停止，保留已写内容"),
        "chat.mode": say("Chat / single instruction / text", "对话 / 单条指令 / 续写"),
        "chat.list": say("Conversations: search, open, rename, delete", "对话列表：搜索、打开、重命名、删除"),
        "chat.model": say("Choose a model", "选择模型"),
        "chat.settings": say("Settings and system prompt", "设置与系统提示"),
        "chat.new": say("New", "新建"),
        "chat.again": say("Answer again, as another version", "重新回答，旧回答保留"),
        "chat.go_on": say("Go on with the answer, or the text", "继续写下去"),
        "chat.copy": say("Copy the answer", "复制回答"),
        "chat.save": say("Save the answer to a file", "把回答存为文件"),
        "chat.file": say("Take the input from a file", "从文件读取输入"),
        "chat.form": say("Form of the output: choices, JSON, grammar", "输出格式：选项、JSON、语法"),
        "chat.templates": say("Instruction templates", "指令模板"),
        "chat.messages": say("To the messages", "转到消息"),
        "message.menu": say("What can be done with it", "可用操作"),
        "message.up": say("The message before", "上一条消息"),
        "message.down": say("The message after", "下一条消息"),
        "message.copy": say("Copy", "复制"),
        "message.code": say("Copy a block of code", "复制代码块"),
        "message.edit": say("Edit the question and ask again", "修改问题后重新提问"),
        "message.fork": say("Go on from here in a new conversation", "从此处另开对话"),
        "message.pin": say("Pin the round, or let it go", "固定这一轮，或取消"),
        "message.before": say("The version before", "上一个版本"),
        "message.after": say("The version after", "下一个版本"),
        "message.side": say("Versions side by side", "并排比较版本"),
        "message.fold": say("Show or hide what was thought", "展开或折叠思考过程"),
        "message.leave": say("Back to writing", "返回输入框"),
        "prompt.page_up": say("Scroll up", "向上翻页"),
        "prompt.page_down": say("Scroll down", "向下翻页"),
        "complete.go": say("Go on from the cursor", "从光标处续写"),
        "complete.left": say("The token before", "上一个词元"),
        "complete.right": say("The token after", "下一个词元"),
        "complete.take_1": say("Take an alternative: Alt+1 to Alt+9", "选用候选词元：Alt+1 至 Alt+9"),
        "chat.palette": say("All commands", "所有命令"),
        "chat.help": say("Help", "帮助"),
        "chat.quit": say("Quit", "退出"),
        "dialog.close": say("Close", "关闭"),
        "dialog.take": say("Take it", "确定"),
        "list.rename": say("Rename", "重命名"),
        "list.delete": say("Delete", "删除"),
        "list.undo": say("Bring back", "撤销删除"),
        "list.export": say("Export to a file", "导出为文件"),
    }


def footer_text(binding: Binding) -> str:
    """As `describe`, in a word or two: the footer has little room."""
    return brief(binding.id or "") or describe(binding)


def brief(id: str) -> str:
    """What a key does, in a word or two where there is such a word; "" for one that is not ours."""
    return _brief(get_language()).get(id, texts().get(id, ""))


@cache
def _brief(language: str) -> Mapping[str, str]:
    """The keys that there is a shorter text for; `language` is the one in use."""
    return {
        "chat.stop": say("Stop", "停止"),
        "chat.mode": say("Mode", "模式"),
        "chat.list": say("Chats", "对话"),
        "chat.model": say("Model", "模型"),
        "chat.settings": say("Set", "设置"),
        "chat.again": say("Again", "重答"),
        "chat.go_on": say("Go on", "续写"),
        "chat.copy": say("Copy", "复制"),
        "chat.save": say("Save", "保存"),
        "chat.file": say("File", "文件"),
        "chat.form": say("Output", "格式"),
        "chat.templates": say("Templates", "模板"),
        "chat.messages": say("Messages", "消息"),
        "chat.palette": say("All", "全部"),
        "message.menu": say("Menu", "操作"),
        "message.code": say("Code", "代码"),
        "message.edit": say("Edit", "修改"),
        "message.fork": say("Fork", "分支"),
        "message.pin": say("Pin", "固定"),
        "message.leave": say("Back", "返回"),
        "complete.go": say("Go on", "续写"),
    }
