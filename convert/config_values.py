"""Single values of a config.json, checked: each error names the key, what was found and what was expected."""

from collections.abc import Mapping
from typing import Any

from bq.runtime.errors import BqError
from bq.runtime.language import say


def count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A positive whole number; `default` where the key is not there."""
    value = config.get(key, default)
    if type(value) is not int or not 0 < value < 1 << 24:
        raise BqError(
            say(
                f"config.json: {key} is {value!r:.60}, expected a positive count.",
                f"config.json：{key} 为 {value!r:.60}，应为正整数。",
            ),
            say("Download config.json again.", "请重新下载 config.json。"),
        )
    return value


def number(config: Mapping[str, Any], key: str, default: float | None) -> float:
    """A positive number; `default` where the key is not there."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise BqError(
            say(
                f"config.json: {key} is {value!r:.60}, expected a positive number.",
                f"config.json：{key} 为 {value!r:.60}，应为正数。",
            ),
            say("Download config.json again.", "请重新下载 config.json。"),
        )
    return float(value)


def is_tied(config: Mapping[str, Any]) -> bool:
    """tie_word_embeddings; no, where the key is not there, as the classes of these models have it."""
    refuse_unless(
        config, "tie_word_embeddings", (None, False, True), ("true or false is expected", "应为 true 或 false")
    )
    return config.get("tie_word_embeddings") is True


def refuse_unless(config: Mapping[str, Any], key: str, right: tuple[Any, ...], why: tuple[str, str]) -> None:
    """Raises BqError where a key has another value than those that llama.cpp's graph computes; `why` is (en, zh)."""
    value = config.get(key)
    if not any(type(value) is type(one) and value == one for one in right):
        raise unsupported(f"{key} is {value!r:.60}, {why[0]}", f"{key} 为 {value!r:.60}，{why[1]}")


def unsupported(en: str, zh: str) -> BqError:
    """The error for a model that llama.cpp would run, and run wrong."""
    return BqError(
        say(f"config.json: {en}.", f"config.json：{zh}。"),
        say(
            "Such a model cannot be converted; `bq models` lists what can.",
            "无法转换这样的模型；可转换的见 `bq models`。",
        ),
    )
