"""What verification finds: one line for each thing that was looked at, with a verdict that a program can use as well."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bq.convert.model_config import BAICHUAN
from bq.runtime.language import say

Verdict = Literal["pass", "warning", "failure"]


@dataclass(frozen=True)
class Check:
    """`name` stays the same from version to version; `text` and `remedy` are for reading, `details` plain data."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def passed(name: str, text: str, /, **details: Any) -> Check:
    """All is as it should be."""
    return Check(name, "pass", text, details=details)


def warned(name: str, text: str, remedy: str = "", /, **details: Any) -> Check:
    """Something that bq copes with, or that cannot be told."""
    return Check(name, "warning", text, remedy, details)


def failed(name: str, text: str, remedy: str = "", /, **details: Any) -> Check:
    """What makes answers wrong."""
    return Check(name, "failure", text, remedy, details)


def has_failed(checks: Iterable[Check]) -> bool:
    """Whether any of them is a failure."""
    return any(check.verdict == "failure" for check in checks)


def mend(architecture: str = BAICHUAN) -> str:
    """The remedy for what `bq repair` can set right in a Baichuan 1 or 2, and another conversion in a later one."""
    if architecture != BAICHUAN:
        return make_again()
    return say(
        "Mend it with `bq repair`, or convert the checkpoint again.", "请用 `bq repair` 修复，或重新转换检查点。"
    )


def make_again() -> str:
    """The remedy for weights that are lost."""
    return say("Convert the checkpoint again with `bq convert`.", "请用 `bq convert` 重新转换检查点。")


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    every = list(names)
    more = len(every) - most
    text = say(", ", "、").join(every[:most])
    return text if more <= 0 else say(f"{text} and {more} more", f"{text} 等 {len(every)} 个")
