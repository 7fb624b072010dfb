"""A Markdown list as text of many lines: Textual would mount four widgets for each item.

Items that hold more than paragraphs and lists (code, tables, quotes) are widgets as Textual makes them.
"""

from collections.abc import Iterator
from dataclasses import replace

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets._markdown import (
    MarkdownBlock,
    MarkdownBullet,
    MarkdownBulletList,
    MarkdownList,
    MarkdownListItem,
    MarkdownOrderedList,
    MarkdownParagraph,
)

from bq.tui.widgets.long_text import HangingLine, LongText

_NOTHING = Content()


class ListText(LongText):
    COMPONENT_CLASSES = {"bullet"}
    DEFAULT_CSS = """
    ListText > .bullet { color: $text-primary; }
    ListText:light > .bullet { color: $text-secondary; }
    """


class BulletList(MarkdownBulletList):
    def compose(self) -> ComposeResult:
        yield from _compose(self)


class OrderedList(MarkdownOrderedList):
    def compose(self) -> ComposeResult:
        yield from _compose(self)


def _compose(block: MarkdownList) -> ComposeResult:
    lines: list[HangingLine] = []
    for symbol, item in _items(block):
        found = _item_lines(symbol, item)
        if found is not None:
            lines += found
            continue
        if lines:
            yield ListText(lines)
            lines = []
        bullet = MarkdownBullet()
        bullet.symbol = symbol
        yield Horizontal(bullet, Vertical(*item._blocks))
    if lines:
        yield ListText(lines)
    block._blocks.clear()


def _items(block: MarkdownList) -> Iterator[tuple[str, MarkdownListItem]]:
    """The items, each with what stands before it."""
    items = [item for item in block._blocks if isinstance(item, MarkdownListItem)]
    if not isinstance(block, MarkdownOrderedList) or not items:
        yield from ((item.bullet, item) for item in items)
        return
    start = int(items[0].bullet)
    widest = len(f"{start + len(items) - 1}")
    yield from ((f"{number}. ".rjust(widest + 3), item) for number, item in enumerate(items, start))


def _item_lines(symbol: str, item: MarkdownListItem) -> list[HangingLine] | None:
    """An item's lines, or None if it is more than lines."""
    inner: list[HangingLine] = []
    for block in item._blocks:
        found = _block_lines(block)
        if found is None:
            return None
        inner += found
    bullet, indent = Content.styled(symbol, ".bullet"), Content(" " * len(symbol))
    inner = inner or [HangingLine(_NOTHING, _NOTHING)]
    return [replace(line, lead=(indent if number else bullet) + line.lead) for number, line in enumerate(inner)]


def _block_lines(block: MarkdownBlock) -> list[HangingLine] | None:
    if isinstance(block, MarkdownParagraph):
        return [HangingLine(_NOTHING, line) for line in block._content.split("\n", allow_blank=True)]
    if not isinstance(block, MarkdownList):
        return None
    lines: list[HangingLine] = []
    for symbol, item in _items(block):
        found = _item_lines(symbol, item)
        if found is None:
            return None
        lines += found
    return lines
