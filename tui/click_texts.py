"""The command line library's own words in Chinese: usage, wrong options, the lines of the help.

click asks gettext for them, which looks for compiled catalogues by the environment's language, while `--lang` chooses here.
So its modules get another function of that name; a text that is not in the table, as of another version, stays English.
"""

import sys
from collections.abc import Mapping

from bq.runtime.language import get_language

_CHINESE: Mapping[str, str] = {
    "Usage:": "用法:",
    "Options": "选项",
    "Commands": "命令",
    "Positional arguments": "参数",
    "Show this message and exit.": "显示此帮助并退出。",
    "Show the version and exit.": "显示版本并退出。",
    "%(prog)s, version %(version)s": "%(prog)s，版本 %(version)s",
    "Try '{command} {option}' for help.": "帮助：{command} {option}",
    "Error: {message}": "错误：{message}",
    "Error: invalid input": "错误：输入无效",
    "Missing command.": "缺少命令。",
    "Missing argument": "缺少参数",
    "Missing option": "缺少选项",
    "Missing parameter": "缺少参数",
    "Missing parameter: {param_name}": "缺少参数：{param_name}",
    "No such option {name!r}.": "没有选项 {name!r}。",
    "No such option: {name}": "没有选项 {name}。",
    "No such command {name!r}.": "没有命令 {name!r}。",
    "Did you mean {possibility}?": "您是指 {possibility} 吗？",
    "(Did you mean one of: {possibilities}?)": "（您是指以下之一吗：{possibilities}？）",
    "(Possible options: {possibilities})": "（您是指以下之一吗：{possibilities}？）",
    "Got unexpected extra argument ({args})": "多余的参数（{args}）",
    "Got unexpected extra arguments ({args})": "多余的参数（{args}）",
    "Option {name!r} does not take a value.": "选项 {name!r} 不接受值。",
    "Option {name!r} requires an argument.": "选项 {name!r} 需要一个值。",
    "Option {name!r} requires {nargs} arguments.": "选项 {name!r} 需要 {nargs} 个值。",
    "Argument {name!r} takes {nargs} values.": "参数 {name!r} 需要 {nargs} 个值。",
    "Invalid value: {message}": "值无效：{message}",
    "Invalid value for {param_hint}: {message}": "{param_hint} 的值无效：{message}",
    "{value!r} is not a valid {number_type}.": "{value!r} 不是有效的数值。",
    "{value} is not in the range {range}.": "{value} 不在范围 {range} 内。",
    "{value!r} is not {choice}.": "{value!r} 不是 {choice}。",
    "{value!r} is not one of {choices}.": "{value!r} 不是以下之一：{choices}。",
    "Choose from:\n\t{choices}": "可选：\n\t{choices}",
    "{name} {filename!r} does not exist.": "{name} {filename!r} 不存在。",
    "{name} {filename!r} is a file.": "{name} {filename!r} 是文件。",
    "{name} {filename!r} is a directory.": "{name} {filename!r} 是文件夹。",
    "{name} {filename!r} is not readable.": "{name} {filename!r} 不可读。",
    "Could not open file {filename!r}: {message}": "无法打开文件 {filename!r}：{message}",
    "file": "文件",
    "directory": "文件夹",
    "path": "路径",
    "default: {default}": "默认：{default}",
    "env var: {var}": "环境变量：{var}",
}


def speak_chinese() -> None:
    """Have click speak Chinese in this process, while that is its language."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("click."):
            for own, ours in (("_", _of), ("ngettext", _of_count)):
                if hasattr(module, own):
                    setattr(module, own, ours)


def _of(text: str) -> str:
    return _CHINESE.get(text, text) if get_language() == "zh" else text


def _of_count(one: str, several: str, count: int) -> str:
    return _of(one if count == 1 else several)
