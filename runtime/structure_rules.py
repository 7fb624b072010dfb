"""What the keys of a GGUF file must be: rules with words for a reader, and the error of a file that breaks one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.gguf_file import GgufFile
from bq.runtime.language import say


@dataclass(frozen=True)
class Rule:
    """What a key must be: its type as llama.cpp names it, and a test with words for it (en, zh)."""

    kind: str
    is_sound: Callable[[Any], bool]
    words: tuple[str, str]
    required: bool = False


def check_keys(file: GgufFile, rules: Mapping[str, Rule]) -> None:
    """Raise one clear line for the first key that is missing, of another type, or of a value that cannot be."""
    for key, rule in rules.items():
        if key not in file.metadata:
            if rule.required:
                raise broken(file, f"{key} is missing", f"缺少 {key}")
            continue
        value, kind = file.metadata[key], file.kinds[key]
        if kind != rule.kind:
            raise broken(
                file, f"{key} is of type {kind}, expected {rule.kind}", f"{key} 的类型为 {kind}，应为 {rule.kind}"
            )
        if not rule.is_sound(value):
            found, (en, zh) = repr(value)[:40], rule.words
            raise broken(file, f"{key} is {found}, expected {en}", f"{key} 为 {found}，应为 {zh}")


def broken(file: GgufFile, en: str, zh: str) -> BqError:
    """The error for a file that llama.cpp could not run as what it claims to be."""
    return BqError(
        say(f"{file.path.name} is broken: {en}.", f"{file.path.name} 已损坏：{zh}。"),
        say("Convert the release again with `bq convert`.", "请用 `bq convert` 重新转换原版发布。"),
    )


def whole(low: int, high: int, required: bool = False) -> Rule:
    """A whole number within bounds, both of which it may be."""
    return Rule("u32", lambda value: low <= value <= high, (f"{low} to {high}", f"{low} 至 {high}"), required)


def only(kind: str, value: Any) -> Rule:
    """One value and no other."""
    return Rule(kind, lambda found: bool(found == value), (f"{value}", f"{value}"))


def anything(kind: str, required: bool = False) -> Rule:
    """Any value of a type."""
    return Rule(kind, lambda _: True, ("", ""), required)


POSITIVE = Rule("f32", lambda value: 0 < value < math.inf, ("a number above 0", "大于 0 的数"))
