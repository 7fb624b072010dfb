"""Keys that come faster than they are handled act in the order in which they were pressed, in every box that is written in."""

import random

import pytest
from textual.app import App
from textual.widgets import Input, TextArea

from bq.tui.widgets.boxes import Box, Field
from bq.tui.widgets.completion_editor import CompletionEditor
from bq.tui.widgets.prompt import Prompt

from .test_app_burst import burst

BOXES = {
    "prompt": lambda: Prompt(lambda: "", id="a"),
    "completion": lambda: CompletionEditor(lambda: ""),
    "area": Box,
    "field": Field,
}
# All that Textual's own boxes are bound to, but for the clipboard, and what ours are.
EDITING = sorted(
    {
        key
        for box in (TextArea, Input)
        for binding in box.BINDINGS
        if not any(name in binding.action for name in ("copy", "cut", "paste", "submit", "page"))
        for key in binding.key.split(",")
    }
)
LINES = ["ctrl+j"]  # a line break in a prompt, Enter elsewhere


class Sheet(App[None]):
    def __init__(self, box):
        super().__init__()
        self.box = box

    def compose(self):
        yield self.box


def keys_of(seed, kind):
    dice = random.Random(seed)
    letters, lines = [*"ab 汉 c"], {"prompt": LINES, "field": []}.get(kind, ["enter"])
    return [dice.choice(dice.choice([letters, letters, EDITING, EDITING, lines or letters])) for _ in range(24)]


def state(box):
    if isinstance(box, Input):
        return box.value, tuple(box.selection)
    return box.text, tuple(box.selection)


async def typed(kind, keys, is_burst):
    """What stands in a box after these keys, and where the cursor is."""
    app = Sheet(BOXES[kind]())
    async with app.run_test(size=(30, 12)) as pilot:
        app.box.focus()
        await pilot.pause()
        if is_burst:
            burst(app, keys)
        else:
            await pilot.press(*keys)
        for _ in range(3):
            await pilot.pause()
        return state(app.box)


@pytest.mark.parametrize("kind", BOXES)
@pytest.mark.parametrize("seed", [1])
async def test_a_burst_of_keys_does_what_the_same_keys_do_one_at_a_time(kind, seed):
    keys = keys_of(seed, kind)
    one_at_a_time = await typed(kind, keys, is_burst=False)
    assert await typed(kind, keys, is_burst=True) == one_at_a_time, keys


@pytest.mark.parametrize("kind", BOXES)
async def test_letters_stand_where_they_were_typed(kind):
    keys = [*"helx", "backspace", *"lo word", "left", "left", "delete", "x", "home", ">", "ctrl+e", "!"]
    text, _ = await typed(kind, keys, is_burst=True)
    assert text == ">hello woxd!"


async def test_every_key_that_edits_is_tried():
    assert {"backspace", "left", "home", "ctrl+w", "ctrl+u", "ctrl+k", "ctrl+z", "ctrl+y", "shift+left"} <= set(EDITING)


async def test_what_is_typed_behind_enter_is_another_text(start, fake):
    """Enter, the letters before it and the keys behind it in one burst, before the app has heard of any."""
    fake.answers = ["one", "two"]
    async with start() as s:
        burst(s.app, [*"go", "enter", *"nxt", "left", "e", "home", ">"])
        await s.until(lambda: s.shows("one"))
        await s.ready()
        assert fake.asked[-1][-1].content == "go"
        assert s.prompt.text == ">nxet"


async def test_tab_in_a_burst_completes_the_letters_before_it(start):
    async with start() as s:
        burst(s.app, [*"/par", "tab", "t", "x", "backspace", "e"])
        await s.until(lambda: s.prompt.text.endswith("te"))
        assert s.prompt.text == "/params te"


async def test_the_command_that_was_chosen_with_the_arrows_is_taken_by_enter(start):
    async with start() as s:
        await s.press(*"/h")
        first = s.app.desk.view.suggestions.marked
        await s.press("down")
        second = s.app.desk.view.suggestions.marked
        await s.press("enter")
        assert (first, s.prompt.text) == ("/help", f"{second} ")
        assert second != first


async def test_what_is_typed_behind_tab_stands_in_the_next_box(start):
    async with start(mode="instruct", size=(90, 40)) as s:
        burst(s.app, [*"do", "tab", *"textt", "backspace", "shift+tab", "!"])
        await s.until(lambda: s.prompt.text == "do!")
        assert s.app.desk.view.material.text == "text"
