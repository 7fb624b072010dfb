"""Lists, tables and code are one widget each, and yet look and behave as those that Textual makes of many."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual import events
from textual.app import App
from textual.widgets import Markdown

from bq.tui.blocks import parser
from bq.tui.widgets.long_list import ListText
from bq.tui.widgets.long_table import TableText, share
from bq.tui.widgets.long_text import HangingLine, LongText, OpenText
from bq.tui.widgets.markdown import AnswerMarkdown

LISTS = {
    "flat": "- one\n- two **b** `c` ~~s~~ *e* [l](http://x)\n- 量化" + "权重" * 40 + "\n",
    "nested": "- a\n  - b " + "word " * 30 + "\n    - c\n      - d\n\n  more of a\n- - x\n- e\n",
    "numbered": "9. nine\n10. ten\n    1. inner\n    2. inner\n11. " + "eleven " * 20 + "\n",
    "loose": "1. one\n\n2. two\n\n   second paragraph\n   a line of its own\n",
    "with code": "- a\n\n  ```\n  code\n  ```\n- b\n- c\n",
    "with a quote and a table": "1. a\n   > q\n2. b\n\n   | x |\n   |---|\n   | y |\n3. c\n",
    "in a quote": "> - q\n> - r\n>   1. s\n",
}
TABLES = {
    "small": "| 混合 | 大小 (GiB) |\n|---|---:|\n| `Q8_0` | **7.43** |\n| [l](http://x) | [/x] |\n",
    "head alone": "| a | b |\n|---|---|\n",
    "empty cells": "| a | |\n|---|---|\n| | b |\n",
}
CODE = {
    "colours": "```python\nx = 1\n\n\ndef f():\n\treturn 'a'\n```\n",
    "longer than the screen": "```\n" + "long " * 40 + "\nshort\n```\n",
    "indented": "    indented\n\n    code\n",
    "empty": "```\n```\n",
}


class Beside(App[None]):
    """A text drawn by this app, or by Textual alone."""

    CSS = "Markdown { padding: 0; }"

    def __init__(self, text, of_textual=False):
        super().__init__()
        self.markdown = Markdown(parser_factory=parser, open_links=False) if of_textual else AnswerMarkdown()
        self.source = text
        self.links = []

    def compose(self):
        yield self.markdown

    async def on_mount(self):
        await self.markdown.update(self.source)

    def on_markdown_link_clicked(self, event):
        self.links.append(event.href)


def characters(app):
    """All that is drawn, with its looks where there is something to be seen."""
    rows = []
    for strip in app.screen._compositor.render_strips():
        row = [
            (
                one,
                segment.style.bgcolor,
                one.strip() and (segment.style.color, segment.style.bold, segment.style.italic),
            )
            for segment in strip
            for one in segment.text
        ]
        rows.append(row)
    return rows


def text_of(app):
    return ["".join(one for one, *_ in row).rstrip() for row in characters(app)]


@pytest.mark.parametrize("text", (LISTS | TABLES | CODE).values(), ids=(LISTS | TABLES | CODE).keys())
async def test_it_looks_as_textual_draws_it_in_one_theme_after_the_other(text):
    looks = []
    for of_textual in (False, True):
        app = Beside(text, of_textual)
        async with app.run_test(size=(60, 30)) as pilot:
            for theme in ("textual-dark", "textual-light"):
                app.theme = theme
                await pilot.pause()
                looks.append(characters(app))
    dark, light, dark_of_textual, light_of_textual = looks
    assert dark == dark_of_textual
    assert light == light_of_textual
    assert dark != light


@pytest.mark.parametrize(
    "text", ["- item\n" * 200, "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 100, "```\n" + "x\n" * 400]
)
async def test_however_long_it_is_few_widgets_and_only_what_is_seen_is_drawn(text, monkeypatch):
    drawn = []
    rows = LongText._rows
    monkeypatch.setattr(
        LongText, "_rows", lambda self, number, width: drawn.append(number) or rows(self, number, width)
    )
    app = Beside(text)
    async with app.run_test(size=(60, 20)) as pilot:
        await pilot.pause()
        assert len(app.markdown.query("*")) == 2
        assert 9 <= len(set(drawn)) <= 20


async def select(pilot, widget, start, end):
    await pilot.mouse_down(widget, offset=start)
    await pilot._post_mouse_events([events.MouseMove], widget, offset=end, button=1)
    await pilot.mouse_up(widget, offset=end)
    await pilot.pause()
    return pilot.app.screen.get_selected_text()


async def test_what_is_selected_with_the_mouse_is_copied_and_marked():
    app = Beside("- first **item**\n- second item that is longer than the screen is wide\n- third\n")
    async with app.run_test(size=(30, 12)) as pilot:
        await pilot.pause()
        shown = app.markdown.query_one(ListText)
        assert await select(pilot, shown, (8, 0), (12, 1)) == "item\n• second item"
        marked = app.screen.get_component_rich_style("screen--selection").bgcolor
        strips = [shown.render_line(y) for y in range(3)]
        found = ["".join(s.text for s in strip if s.style and s.style.bgcolor == marked).rstrip() for strip in strips]
        assert found == ["item", "• second item", ""]
        assert await select(pilot, shown, (0, 2), (3, 3)) == "than the screen is wide\n• th"


async def test_a_part_of_a_table_is_copied_with_tabs_between_the_cells():
    app = Beside("| name | size |\n|---|---|\n| one | 1.5 |\n| two | 2.5 |\n")
    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.pause()
        shown = app.markdown.query_one(TableText)
        assert await select(pilot, shown, (2, 3), (5, 3)) == "one"
        at = shown.render_line(5).text.index("2.5")
        assert await select(pilot, shown, (2, 3), (at + 3, 5)) == "one\t1.5\ntwo\t2.5"
        assert await select(pilot, shown, (at + 1, 3), (3, 5)) == ".5\ntw"


@pytest.mark.parametrize(
    "text",
    [
        "- see [it](http://x/y)\n",
        "| see [it](http://x/y) |\n|---|\n| a |\n",
        "| a |\n|---|\n| see [it](http://x/y) |\n",
    ],
)
async def test_a_link_can_be_clicked(text):
    app = Beside(text)
    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.pause()
        y, row = next((y, row) for y, row in enumerate(text_of(app)) if "see it" in row)
        await pilot.click(offset=(row.index("it"), y))
        await pilot.pause()
        assert app.links == ["http://x/y"]


@pytest.mark.parametrize("width", [60, 30, 20])
async def test_a_table_that_is_too_narrow_is_wrapped_and_loses_nothing(width):
    cells = ["long cell " + "w " * 20, "量化" * 12, "short"]
    app = Beside("| a | b | c |\n|---|---|---|\n| " + " | ".join(cells) + " |\n")
    async with app.run_test(size=(width, 60)) as pilot:
        await pilot.pause()
        rows = [row.split("│")[1:-1] for row in text_of(app) if row.startswith("│")][1:]
        assert all(len(row) == 3 for row in rows)
        for number, cell in enumerate(cells):
            assert "".join(row[number] for row in rows).replace(" ", "") == cell.replace(" ", "")


@given(st.integers(0, 200), st.lists(st.tuples(st.integers(3, 80), st.integers(3, 80)), min_size=1, max_size=8))
def test_columns_share_the_room_exactly_where_their_words_fit(room, columns):
    least = [min(one) for one in columns]
    found = share(room, [max(one) for one in columns], least)
    assert min(found) >= min(4, *map(max, columns))
    if room >= sum(least) and min(least) > 4:
        assert sum(found) == room
        assert all(width >= few - 1 for width, few in zip(found, least, strict=True))


@given(st.text("ab\n", max_size=40), st.integers(0, 99))
def test_a_growing_text_has_the_lines_of_the_whole(text, seed):
    dice, shown, at = random.Random(seed), OpenText(), 0
    shown.refresh = lambda **_: None  # it is on no screen
    while at < len(text):
        at += dice.randint(1, 5)
        shown.show(text[:at])
    assert [line.cut(0, None) for line in shown.lines] == (text.split("\n") if text else [])
    shown.show("other\ntext")
    assert [line.cut(0, None) for line in shown.lines] == ["other", "text"]


async def test_an_empty_item_has_its_bullet():
    app = Beside("- a\n-\n- b\n")
    async with app.run_test(size=(20, 6)) as pilot:
        await pilot.pause()
        assert text_of(app)[:3] == ["• a", "•", "• b"]


async def test_a_selection_of_everything_is_the_whole_text():
    app = Beside("1. one\n   - two\n2. three\n")
    async with app.run_test(size=(20, 6)) as pilot:
        await pilot.pause()
        shown = app.markdown.query_one(ListText)
        shown.text_select_all()
        assert app.screen.get_selected_text() == " 1. one\n    • two\n 2. three"
        assert all(isinstance(line, HangingLine) for line in shown.lines)
