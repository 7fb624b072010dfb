"""Hundreds of keys in no order at all: the app stands, and what it keeps can be read."""

import random

import pytest

from bq.tui.store import Store

KEYS = [
    *"abé量 /[]",
    *("enter", "ctrl+j", "tab", "shift+tab", "escape", "backspace", "delete", "home", "end", "pageup", "pagedown"),
    *("up", "down", "left", "right", "ctrl+up", "ctrl+down", "alt+left", "alt+right", "alt+1", "alt+2"),
    *(
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "f8",
        "ctrl+n",
        "ctrl+r",
        "ctrl+g",
        "ctrl+o",
        "ctrl+s",
        "f6",
        "f7",
        "ctrl+t",
        "ctrl+p",
    ),
    *("c", "b", "e", "f", "p", "v", "t", "ctrl+z", "ctrl+c", "ctrl+a", "ctrl+k", "space"),
]
LINES = ["/undo", "/fork", "/pin", "/context", "/clear", "/retry", "/new", "/help", "/system x", "/params temp 1", "hi"]
PRESSES = 300


@pytest.mark.parametrize("seed", [1])
async def test_random_keys_do_no_harm(start, fake, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dice = random.Random(seed)
    fake.answers = [
        dice.choice(["short", "# h\n\n```\ncode\n```\n", "<think>hm</think>ok", ""]) for _ in range(PRESSES)
    ]
    async with start(size=dice.choice([(60, 20), (120, 40)]), drawn=True) as s:
        monkeypatch.setattr(s.app, "exit", lambda: None)  # which the palette offers too
        for _ in range(PRESSES // 10):
            if dice.random() < 0.3 and len(s.app.screen_stack) == 1 and s.app.desk_mode == "chat":
                s.prompt.load_text(dice.choice(LINES))
            for key in dice.choices(KEYS, k=10):
                s.app.simulate_key(key)
            await s.pilot.pause()
            assert s.app.is_running
    store = Store.open()
    for listed in store.listed():
        assert store.load(listed.id) is not None
    store.close()
