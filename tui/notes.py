"""What the app has to say about an answer's end, about a file, and when it cannot do what was asked."""

from collections.abc import Callable

from bq.runtime.language import say
from bq.tui.conversation import Mode, Node
from bq.tui.engine import Engine, Loading

Text = Callable[[], str]  # asked for when it is shown, so that it follows the language


def end_of(answer: Node) -> Text | None:
    """What stands below an answer that did not end by itself."""
    if answer.stop == "end" and not answer.content.strip():
        return empty_answer
    texts: dict[str, Text] = {
        "cancel": lambda: f"{stopped()} {go_on()}",
        "length": lambda: f"{cut_off()} {go_on()}",
        "error": lambda: f"{broken_off()} {go_on()}",
        "incomplete": lambda: say("Cut off before the output was whole.", "输出尚未完整就被截断。"),
    }
    return texts.get(answer.stop)


def stopped() -> str:
    return say("Stopped.", "已停止。")


def cut_off() -> str:
    return say("Cut off: the limit of the length is reached.", "已截断：达到长度上限。")


def broken_off() -> str:
    return say("Broken off.", "已中断。")


def go_on() -> str:
    return say("Ctrl+G goes on.", "Ctrl+G 继续。")


def empty_answer() -> str:
    return say("The model gave an empty answer.", "模型给出了空回答。")


def stopped_before() -> str:
    return say("Stopped before the answer began. Ctrl+R asks again.", "回答开始前已停止。Ctrl+R 重新提问。")


def refusal(engine: Engine) -> Text | None:
    """Why no question can be put now; None if one can."""
    if engine.busy and isinstance(engine.job, Loading):
        return lambda: say("The model is still loading; your text is kept.", "模型仍在加载，您的文字已保留。")
    if engine.busy:
        return lambda: say("Still answering: Esc stops it. Your text is kept.", "正在回答，Esc 停止。文字已保留。")
    if engine.model is None:
        return lambda: say("No model is loaded: Ctrl+R tries again.", "尚未加载模型：Ctrl+R 重试。")
    return None


def one_waits() -> str:
    return say("One message waits already; your text is kept.", "已有一条消息在等待，您的文字已保留。")


def welcome(mode: Mode) -> Text:
    """What to do first."""
    texts: dict[Mode, Text] = {
        "chat": lambda: say("Ask something. F1 shows all keys.", "请提问。F1 显示所有按键。"),
        "instruct": lambda: say("Write what to do. F1 shows all keys.", "请写下要做什么。F1 显示所有按键。"),
        "complete": lambda: say(
            "Write a beginning; Ctrl+G goes on from the cursor. F1 shows all keys.",
            "请写一个开头，Ctrl+G 从光标处续写。F1 显示所有按键。",
        ),
    }
    return texts[mode]


def no_answer_yet() -> str:
    return say("There is no answer yet.", "还没有回答。")


def older_answer() -> str:
    return say("No new answer: this is the one before.", "没有新回答，显示的是之前的回答。")


def how_to_quit() -> str:
    return say("Ctrl+Q quits. Ctrl+C copies selected text.", "Ctrl+Q 退出。Ctrl+C 复制选中的文本。")


def base_cause() -> str:
    return say("This is a Base model: it continues text, it does not chat.", "这是 Base 模型：只会续写，不会对话。")


def base_remedy() -> str:
    return say(
        "F2 goes to the text mode: write a beginning, and it goes on from there. To chat, use the Chat release.",
        "按 F2 进入续写模式：写一个开头，它会接着写。要对话，请使用 Chat 版本。",
    )


def no_conversation() -> str:
    return say("That conversation is not there any more.", "该对话已不存在。")


def nothing_to_continue() -> str:
    return say("There is no answer to go on with.", "没有可以继续的回答。")


def nothing_to_undo() -> str:
    return say("There is nothing to take back.", "没有可以撤回的内容。")
