"""The commands that begin with a slash: their names, what they take, what they do, and where they work."""

from dataclasses import dataclass
from typing import Literal

from bq.runtime.language import say

Place = Literal["app", "plain"]
Takes = Literal["nothing", "perhaps", "something"]


@dataclass(frozen=True)
class Slash:
    """A command. `shape` is how its argument is written, in both languages; `forced`: a `!` behind it overwrites."""

    name: str
    shape: tuple[str, str]
    text: tuple[str, str]
    takes: Takes = "perhaps"
    places: tuple[Place, ...] = ("app", "plain")
    forced: bool = False

    @property
    def usage(self) -> str:
        """`/export FILE`, in the language in use."""
        return f"/{self.name} {say(*self.shape)}".rstrip()

    @property
    def does(self) -> str:
        """What it does, in the language in use."""
        return say(*self.text)


_NOTHING = ("", "")

COMMANDS: tuple[Slash, ...] = (
    Slash("help", ("[COMMAND]", "[命令]"), ("Show the commands, or one of them.", "显示全部命令，或其中一个。")),
    Slash("new", _NOTHING, ("Begin another conversation.", "开始新的对话。"), "nothing"),
    Slash("list", ("[TEXT]", "[文字]"), ("Show the conversations, those with this text.", "列出对话，可按文字筛选。")),
    Slash(
        "open",
        ("NUMBER | TEXT", "编号 | 文字"),
        (
            "Go on with a conversation, by its number in the list or a text in it.",
            "继续一个对话：按列表编号，或按其中的文字。",
        ),
        "something",
    ),
    Slash("find", ("TEXT", "文字"), ("Search all conversations.", "搜索所有对话。"), "something"),
    Slash("rename", ("TITLE", "标题"), ("Give the conversation a title.", "为对话命名。"), "something"),
    Slash(
        "delete", ("[NUMBER]", "[编号]"), ("Delete this conversation, or one of the list.", "删除当前或列表中的对话。")
    ),
    Slash(
        "retry",
        _NOTHING,
        ("Answer the last question anew; the old answer is kept.", "重新回答，旧回答保留。"),
        "nothing",
    ),
    Slash(
        "continue",
        _NOTHING,
        ("Go on with an answer that was cut off or stopped.", "续写被截断或停止的回答。"),
        "nothing",
    ),
    Slash(
        "edit",
        ("[TEXT]", "[文字]"),
        ("Ask the last question in other words; the old one is kept.", "修改上一个问题后重新提问，旧的保留。"),
    ),
    Slash("undo", _NOTHING, ("Take the last question and its answer back.", "撤回最后一问一答。"), "nothing"),
    Slash("clear", _NOTHING, ("Take all questions and answers back.", "撤回全部问答。"), "nothing"),
    Slash(
        "fork",
        ("[ROUND]", "[轮次]"),
        (
            "Go on in a copy, up to a round; this conversation stays as it is.",
            "在副本中继续（可到某一轮为止），原对话不变。",
        ),
    ),
    Slash(
        "pin",
        ("[ROUND]", "[轮次]"),
        (
            "Keep a round, the last one, in the context, or no longer.",
            "让某一轮（默认最后一轮）始终留在上下文中，或取消。",
        ),
    ),
    Slash(
        "versions",
        ("[NUMBER]", "[编号]"),
        ("Show the versions of the last answer, or go on with one.", "查看最后回答的各个版本，或改用其中一个。"),
    ),
    Slash("copy", _NOTHING, ("Copy the last answer.", "复制最后的回答。"), "nothing"),
    Slash(
        "system",
        ("[TEXT | -]", "[文字 | -]"),
        ("Show or set the system prompt; - for none.", "查看或设置系统提示；- 清除。"),
    ),
    Slash(
        "prompts",
        ("[NUMBER | keep NAME | delete NUMBER]", "[编号 | keep 名称 | delete 编号]"),
        (
            "The library of system prompts: show it, use one, keep the one in use.",
            "系统提示收藏：列出、使用、收藏当前的、删除。",
        ),
    ),
    Slash(
        "params",
        ("[temp 0.7 | reset]", "[temp 0.7 | reset]"),
        ("Show or set how answers are drawn.", "查看或设置采样参数。"),
    ),
    Slash(
        "think",
        ("[on | off | auto]", "[on | off | auto]"),
        (
            "Have the model think before it answers, or not (Baichuan-M2, M3).",
            "让模型先思考再回答，或不思考（Baichuan-M2、M3）。",
        ),
    ),
    Slash(
        "mode",
        ("[chat | instruct | complete]", "[chat | instruct | complete]"),
        ("Chat, single instructions, or text that goes on.", "对话、单条指令或续写。"),
    ),
    Slash(
        "file",
        ("FILE [TEXT]", "文件 [文字]"),
        ("Take the input from a file, below a text if one is given.", "从文件读取输入，文字放在其前。"),
    ),
    Slash(
        "form",
        ("[none | choices A, B | schema FILE | grammar FILE]", "[none | choices 甲, 乙 | schema 文件 | grammar 文件]"),
        ("Say what answers have to look like.", "规定回答的格式。"),
    ),
    Slash("template", ("[NAME TEXT]", "[名称 文字]"), ("Give a ready-made instruction.", "使用指令模板。")),
    Slash(
        "context",
        _NOTHING,
        ("Show what the context holds and would leave out.", "查看上下文的占用与取舍。"),
        "nothing",
    ),
    Slash(
        "model",
        ("[NUMBER | FILE]", "[编号 | 文件]"),
        ("Show the models, or load another one.", "列出模型，或加载另一个。"),
    ),
    Slash(
        "compare",
        ("[NUMBER | FILE]", "[编号 | 文件]"),
        ("Ask another model the same and see both answers.", "让另一个模型回答同一问题并对照。"),
    ),
    Slash(
        "save",
        ("[TITLE]", "[标题]"),
        ("Save now, under a title (each message is saved anyway).", "立即保存并命名（每条消息都会自动保存）。"),
    ),
    Slash(
        "export",
        ("[FILE]", "[文件]"),
        (
            "Write the conversation to a .md or .json file; export! replaces one.",
            "导出为 .md 或 .json 文件；export! 可覆盖。",
        ),
        forced=True,
    ),
    Slash(
        "import",
        ("FILE", "文件"),
        ("Read a conversation from a .md or .json file.", "从 .md 或 .json 文件导入对话。"),
        "something",
    ),
    Slash("lang", ("en | zh", "en | zh"), ("Choose the language.", "选择界面语言。"), "something"),
    Slash("theme", ("[NAME]", "[名称]"), ("Choose the colours.", "选择配色。"), places=("app",)),
    Slash("quit", _NOTHING, ("Quit.", "退出。"), "nothing"),
)
