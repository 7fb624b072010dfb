"""An answer on the screen: safe whatever the model writes, and in the end drawn as the whole text would be."""

import asyncio
import random

import pytest
from textual.app import App

from bq.tui.conversation import Node
from bq.tui.line_filter import with_no_controls
from bq.tui.widgets.long_text import HangingLine, OpenText
from bq.tui.widgets.markdown import AnswerMarkdown
from bq.tui.widgets.message import Answer

TEXTS = {
    "prose": "第一段。\n同一段的第二行。\n\n第二段 **粗体** 和 `代码`。\n",
    "fence": "Before\n\n```python\nfor x in y:\n\n    print('[b]x[/b]')\n```\n\nAfter\n",
    "unfinished fence": "Text\n\n```\nopen\n\nstill open",
    "table": "| 名 | [/size] |\n|---|---:|\n| Q4_K_M | 4.29 |\n| [@click=app.quit]x[/] | [bad |\n\nend",
    "half a table": "| a | b |\n|---|",
    "loose list": "1. one\n\n2. two\n\n   more\n\n3. three\n\nend\n",
    "nested list": "- a\n  - b\n    - c\n- d\n\ntext",
    "html": "text\n\n<think>\nhm\n</think>\n\n<div>\n\n**x**\n\n</div>\n\nend",
    "late link": "See [it] and [that].\n\nMore.\n\n[it]: http://a\n[that]: http://b\n",
    "headings": "# One\n## Two\ntext\n### Three\n\n---\n\nend",
    "quote": "> a\n> b\n\n> c\n",
    "empty": "",
    "blank": "\n\n  \n",
    "markup": "[red]not red[/red] [/] [@click=app.quit()]x[/]",
}


class Bench(App[None]):
    """An answer beside the same text rendered at once."""

    def get_line_filters(self):
        return with_no_controls(super().get_line_filters())

    def compose(self):
        self.answer = Answer(Node("a", None, "assistant", stop="", model="Model"))
        yield self.answer


def drawn(widget):
    """The lines of a widget as they go to the terminal, its children included."""
    screen = widget.screen
    top, height = widget.region.y, widget.region.height
    return [strip.text.rstrip() for strip in screen._compositor.render_strips()][top : top + height]


async def whole(app, text):
    reference = AnswerMarkdown()
    await app.mount(reference)
    await reference.update(text)
    return reference


@pytest.mark.parametrize("name", TEXTS)
async def test_a_streamed_answer_ends_as_the_whole_text_rendered(name):
    text, dice = TEXTS[name], random.Random(name)
    app = Bench()
    async with app.run_test(size=(60, 120)) as pilot:
        rest = text
        while rest:
            size = dice.randint(1, 9)
            await app.answer.feed(rest[:size])
            rest = rest[size:]
        await app.answer.finish()
        reference = await whole(app, text)
        await pilot.pause()
        assert drawn(app.answer.query_one(AnswerMarkdown)) == drawn(reference)
        assert not app.answer.query_one(".tail").display


async def test_the_open_block_is_plain_and_closed_blocks_are_rendered():
    app = Bench()
    async with app.run_test() as pilot:
        await app.answer.feed("**bold**\n\n```\n[b]open[/b]")
        await pilot.pause()
        tail = app.answer.query_one(".tail", OpenText)
        assert tail.display
        assert [line.strip() for line in drawn(tail)] == ["```", "[b]open[/b]"]
        assert "bold" in "".join(drawn(app.answer.query_one(AnswerMarkdown)))


@pytest.mark.parametrize(
    "text",
    [
        "<http://x.com/%1b%5B31mred>",
        "http://x.com/%1b%5D52;c;aaaa%07",
        "raw \x1b[31mescape\x9b1m and \u202eturned",
        "| <http://x/%1b%5B2J> |\n|---|\n| \x1b[2J |\n",
        "```\n\x1b]0;title\x07\n```",
    ],
)
@pytest.mark.parametrize("is_finished", [True, False])
async def test_no_control_character_reaches_the_terminal(text, is_finished):
    app = Bench()
    async with app.run_test() as pilot:
        await app.answer.feed(text)
        if is_finished:
            await app.answer.finish()
        await pilot.pause()
        segments = [s.text for strip in app.screen._compositor.render_strips() for s in strip]
        assert not [s for s in segments if any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e" for c in s)]
        assert "".join(segments).strip()


async def test_pointing_at_a_table_cell_reads_no_markup_from_it():
    app = Bench()
    async with app.run_test(tooltips=True) as pilot:
        app.TOOLTIP_DELAY = 0.01
        await app.answer.feed("| [/x] |\n|---|\n| [bad= |\n")
        await app.answer.finish()
        await pilot.pause()
        for cell in app.answer.query(".cell, .header"):
            assert cell.tooltip is None
            await pilot.hover(cell)
            await asyncio.sleep(0.03)


async def test_html_and_line_breaks_are_drawn_as_the_model_wrote_them():
    app = Bench()
    async with app.run_test(size=(40, 20)) as pilot:
        await app.answer.feed("A List<String>\n第二行\n\n<think>\nhm\n</think>\n")
        await app.answer.finish()
        await pilot.pause()
        lines = [line.strip() for line in drawn(app.answer.query_one(AnswerMarkdown)) if line.strip()]
        assert lines == ["A List<String>", "第二行", "<think>", "hm", "</think>"]


async def test_of_a_long_open_block_only_what_is_on_the_screen_is_drawn_and_only_what_is_new_is_measured(monkeypatch):
    done = {"height": [], "draw": []}
    for what, lines in done.items():
        original = getattr(HangingLine, what)
        monkeypatch.setattr(
            HangingLine, what, lambda line, *rest, o=original, to=lines: to.append(line.cut(0, None)) or o(line, *rest)
        )
    app = Bench()
    lines = ["```", *(f"line {number} of a long fence" for number in range(400))]
    async with app.run_test(size=(60, 20)) as pilot:
        for line in lines:
            await app.answer.feed(line + "\n")
        await pilot.pause()
        tail = app.answer.query_one(".tail", OpenText)
        assert [line.cut(0, None) for line in tail.lines] == lines
        assert set(done["draw"]) <= set(lines[:20])
        assert len(done["height"]) < 2.5 * len(lines)  # at one width, then with a scrollbar
        await app.answer.feed("```\n\nafter\n")
        await app.answer.finish()
        await pilot.pause()
        assert not tail.display
