"""With `--lang zh` the command line's own words are Chinese too: what is left of letters are names and what the user typed."""

import re
from collections.abc import Callable
from typing import Any

import pytest

# Usage lines stay as the whole field writes them.
NAMES = re.compile(
    r"\[?(OPTIONS|INSTRUCTION|MODEL|COMMAND|ARGS|SOURCE)\]?(\.\.\.)?|'[^']*'|bq|rm|run|convert|--\w+|nope|1<=x<=1024"
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run", "--temp", "nope"), "错误：'--temp' 的值无效：'nope' 不是有效的数值。"),
        (("run", "--threads", "0"), "0 不在范围 1<=x<=1024 内"),
        (("run", "--treads"), "您是指以下之一吗：'--greedy', '--threads'？"),
        (("rm",), "缺少参数 'MODEL...'"),
        (("nope",), "没有命令 'nope'。"),
        (("convert", "--mixture"), "选项 '--mixture' 需要一个值。"),
    ],
)
def test_a_wrong_use_is_told_in_chinese(bq: Callable[..., Any], arguments: tuple[str, ...], text: str) -> None:
    found = bq("--lang", "zh", *arguments).stderr.decode()
    assert text in found
    assert not re.search("[A-Za-z]{3,}", NAMES.sub("", found)), found


def test_the_help_has_chinese_headings(bq_process: Callable[..., Any]) -> None:
    """In a process of its own: what the commands' modules say is made when they are imported."""
    found = bq_process("--lang", "zh", "--help").stdout.decode()
    assert all(one in found for one in ("用法:", "选项:", "命令:", "显示此帮助并退出。", "显示版本并退出。"))


def test_english_stays_english_after_it(bq: Callable[..., Any]) -> None:
    bq("--lang", "zh", "nope")
    assert "Error: No such command 'nope'." in bq("--lang", "en", "nope").stderr.decode()
