"""A whole card: the head that the hub reads, then the same parts in English, in Chinese, or in both."""

from typing import Literal

from bq.library.card import sections
from bq.library.card.facts import CardFacts
from bq.library.card.front_matter import front_matter
from bq.library.card.markdown import plain
from bq.library.card.sections import Tell

FILE_NAME = "README.md"
Languages = Literal["both", "en", "zh"]


def render(facts: CardFacts, languages: Languages = "both") -> str:
    """The text of README.md."""
    title = f"# {plain(facts.settings.name)} GGUF"
    parts = [front_matter(facts), title]
    if languages in ("both", "en"):
        parts.append(_body(facts, _english))
    if languages == "both":
        parts.append("---")
    if languages in ("both", "zh"):
        parts.append(_body(facts, _chinese))
    return "\n\n".join(parts) + "\n"


def _english(en: str, zh: str) -> str:
    return en


def _chinese(en: str, zh: str) -> str:
    return zh


def _body(facts: CardFacts, tell: Tell) -> str:
    parts = [
        sections.intro(facts, tell),
        _part(tell("Files", "文件"), sections.files(facts, tell)),
        _part(tell("Quality", "质量"), sections.quality(facts, tell)),
        _part(tell("Faithful to the release", "与原版一致"), sections.faithful(facts, tell)),
        _part(tell("How it was made", "生成方式"), sections.made(facts, tell)),
        _part(tell("How to run it", "运行方式"), sections.running(facts, tell)),
        _part(tell("Prompt format", "提示格式"), sections.prompt(facts, tell)),
        _part(tell("Limits", "局限"), sections.limits(facts, tell)),
        _part(tell("Licence", "许可证"), sections.licence(facts, tell)),
    ]
    return "\n\n".join(parts)


def _part(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"
