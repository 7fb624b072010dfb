"""Thousands of keys in bursts, as a held key or a terminal that lags sends them: the app stands, and what it keeps can be read.

The model is a fake and nothing is drawn but what is looked at, so that a key costs little: test_app_random draws each.
"""

import random

import pytest

from bq.tui.store import Store

EDITING = [
    "backspace",
    "delete",
    "left",
    "right",
    "home",
    "end",
    "ctrl+w",
    "ctrl+u",
    "ctrl+k",
    "ctrl+z",
    "ctrl+y",
    "ctrl+j",
]
WRITING = [*"aé量 /[]", "up", "down", "tab", "shift+tab", "shift+left", "enter"]
# What a person does without waiting for it to be drawn: a dialog is opened and left, a list is gone through.
PATHS = [
    ["f5", "escape"],
    ["f5", "tab", "tab", "down", "escape"],
    ["f5", "f1", "escape", "escape"],
    ["f3", "down", "down", "enter"],
    ["f3", "a", "backspace", "f8", "ctrl+z", "escape"],
    ["f3", "f2", "x", "enter", "escape"],
    ["f4", "down", "pagedown", "pageup", "escape"],
    ["ctrl+p", "n", "e", "w", "enter"],
    ["ctrl+p", "t", "h", "e", "m", "down", "escape", "escape"],
    ["ctrl+t", "down", "enter", "f2"],
    ["f7", "enter", "escape", "escape"],
    ["ctrl+up", "up", "enter", "down", "escape", "escape"],
    ["ctrl+up", "left", "right", "v", "escape", "p", "escape"],
    ["f2", "f2", "f2"],
    ["ctrl+r", "escape"],
    ["ctrl+g", "escape"],
    ["ctrl+n"],
    ["f1", "pagedown", "escape"],
]
PRESSES = 1500


def burst(dice):
    """Some keys that come at once."""
    kind = dice.random()
    if kind < 0.4:
        return [dice.choice(EDITING)] * dice.randint(20, 80)
    if kind < 0.8:
        return dice.choices([*WRITING, *EDITING], k=dice.randint(20, 80))
    return dice.choice(PATHS)


@pytest.mark.parametrize("seed", [11, 12])
async def test_bursts_of_keys_do_no_harm(start, fake, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dice = random.Random(seed)
    fake.answers = [dice.choice(["short", "```\ncode\n```\n", "<think>hm</think>ok", ""]) for _ in range(PRESSES)]
    pressed = 0
    async with start(size=dice.choice([(60, 20), (90, 30)])) as s:
        monkeypatch.setattr(s.app, "exit", lambda: None)  # which the palette offers too
        while pressed < PRESSES:
            keys = burst(dice)
            pressed += len(keys)
            for key in keys:
                s.app.simulate_key(key)
            await s.pilot.pause()
            assert s.app.is_running
            assert s.app._exception is None
    store = Store.open()
    for listed in store.listed():
        assert store.load(listed.id) is not None
    store.close()


async def test_undo_of_many_lines_that_take_the_scroll_bar_away_does_no_harm(start):
    """Found by the bursts: Textual looked for the cursor on a line that was gone."""
    async with start(size=(60, 20)) as s:
        await s.press(*["ctrl+j"] * 14)
        for key in ["ctrl+z"] * 14:
            s.app.simulate_key(key)
        await s.pilot.pause()
        assert s.app.is_running
        assert s.prompt.text == ""
