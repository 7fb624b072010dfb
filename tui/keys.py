"""What each key does, in both languages, by the binding's id (which is also its name in a user's keymap).

Textual's bindings hold one fixed text; the footer, the help and the command palette ask here when they are drawn.
"""

from textual.binding import Binding

from bq.runtime.language import say


def describe(binding: Binding) -> str:
    """The text for a binding; its own description where it is not one of ours."""
    return texts().get(binding.id or binding.action, binding.description)


def texts() -> dict[str, str]:
    """All keys that the help shows, in its order."""
    return {
        "prompt.send": say("Send", "发送"),
        "prompt.newline": say("New line", "换行"),
        "chat.stop": say("Stop, keep what is written", "停止，保留已写内容"),
        "chat.mode": say("Chat / single instruction", "对话 / 单条指令"),
        "chat.new": say("New", "新建"),
        "chat.again": say("Answer again", "重新回答"),
        "chat.copy": say("Copy the answer", "复制回答"),
        "prompt.page_up": say("Scroll up", "向上翻页"),
        "prompt.page_down": say("Scroll down", "向下翻页"),
        "chat.palette": say("All commands", "所有命令"),
        "chat.help": say("Help", "帮助"),
        "chat.quit": say("Quit", "退出"),
    }


def footer_text(binding: Binding) -> str:
    """As `describe`, in a word or two: a terminal of 60 columns shows them all."""
    brief = {
        "chat.stop": say("Stop", "停止"),
        "chat.mode": say("Mode", "模式"),
        "chat.copy": say("Copy", "复制"),
        "chat.again": say("Again", "重答"),
    }
    return brief.get(binding.id or "", describe(binding))
