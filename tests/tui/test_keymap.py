"""Own keys: what can be used holds, and what cannot is left out with a line that says why."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App
from textual.binding import Binding

from bq.runtime.errors import BqError
from bq.tui import keymap, settings
from bq.tui.keys import texts


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("f9", "f9"),
        (" Ctrl+K ", "ctrl+k"),
        ("shift+ctrl+alt+left", "alt+ctrl+shift+left"),
        ("PgUp", "pageup"),
        ("esc", "escape"),
        ("x", "x"),
        ("[", "left_square_bracket"),
        ("+", "plus"),
        ("ctrl++", "ctrl+plus"),
        ("量", "量"),
        ("", None),
        ("f25", None),
        ("ctrl+", None),
        ("hyper+a", None),
        ("two words", None),
        ("\x1b", None),
    ],
)
def test_a_key_is_understood_as_people_write_it(typed, key):
    assert keymap.named(typed) == key


@pytest.mark.parametrize(
    ("given", "holds", "said"),
    [
        ({"chat.model": "f9"}, {"chat.model": "f9"}, []),
        ({"chat.copy": ["alt+c", "f10"]}, {"chat.copy": "alt+c,f10"}, []),
        ({"chat.copy": "alt+c, f10"}, {"chat.copy": "alt+c,f10"}, []),
        ({"message.copy": "y"}, {"message.copy": "y"}, []),
        ({"chat.model": "f5", "chat.settings": "f4"}, {"chat.model": "f5", "chat.settings": "f4"}, []),
        ({"chat.stop": "escape", "chat.new": "f9"}, {"chat.stop": "escape", "chat.new": "f9"}, []),
        ({"chat.fly": "f9", "chat.new": "f10"}, {"chat.new": "f10"}, ["chat.fly: there is no such action"]),
        ({"chat.new": "f77"}, {}, ["chat.new: there is no key “f77”"]),
        ({"chat.new": "x"}, {}, ["chat.new: x is needed for writing"]),
        ({"chat.new": "shift+a"}, {}, ["needed for writing"]),
        ({"chat.new": "backspace"}, {}, ["needed for writing"]),
        ({"chat.new": "ctrl+u"}, {}, ["needed for writing"]),
        ({"list.rename": "r"}, {}, ["needed for writing"]),
        ({"chat.new": "ctrl+i"}, {}, ["is the same as tab in a terminal"]),
        ({"chat.new": "ctrl+c"}, {}, ["copies what is selected"]),
        ({"chat.new": "f5"}, {}, [r"chat.new: f5 is for “Settings and system prompt” \(chat.settings\) already"]),
        ({"chat.new": "f9", "chat.copy": "f9"}, {"chat.new": "f9"}, ["chat.copy: f9 is for “New” .chat.new. already"]),
        ({"message.copy": "e"}, {}, ["message.edit"]),
        ({"message.copy": "f1"}, {}, ["chat.help"]),
        ({"list.rename": "f3"}, {"list.rename": "f3"}, []),  # the app's keys wait while a dialog is open
        ({"list.rename": "ctrl+p"}, {}, ["chat.palette"]),  # but for those
        ({"chat.new": 5}, {}, ["chat.new: one to 3 keys"]),
        ({"chat.new": []}, {}, ["one to 3 keys"]),
        ({"chat.new": ""}, {}, ["there is no key “”"]),
        (["f9"], {}, ["a list of actions was expected"]),
    ],
)
def test_what_can_be_used_holds_and_the_rest_is_named(given, holds, said):
    found = keymap.read(given)
    assert found.keys == holds
    assert len(found.wrong) == len(said)
    for line, pattern in zip(found.wrong, said, strict=True):
        assert re.search(pattern, line), line


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=12), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(sorted(texts())) | st.text(max_size=8), VALUES, max_size=6) | VALUES)
def test_anything_in_the_file_is_used_or_named(value):
    found = keymap.read(value)
    if isinstance(value, dict):
        assert len(found.keys) + len(found.wrong) == len(value)
    assert all("\n" not in line for line in found.wrong)


@given(st.permutations(["f1", "f2", "f3", "f9", "f10"]), st.data())
def test_no_two_actions_that_hold_together_have_one_key(keys, data):
    ids = data.draw(st.lists(st.sampled_from(sorted(keymap.actions())), min_size=5, max_size=5, unique=True))
    found = keymap.read(dict(zip(ids, keys, strict=True)))
    mine = {id: {*keymap.effective(found.keys, id)} for id in keymap.actions()}
    for id in found.keys:
        for other in ("chat.help", "chat.mode", "chat.list", "chat.quit"):
            if id != other and id.startswith("chat."):
                assert not mine[id] & mine[other]


def test_every_action_of_the_help_can_have_another_key():
    assert {*keymap.actions()} == {*texts()} - {"complete.take_1"}
    assert all(action.keys for action in keymap.actions().values())


async def test_textual_binds_what_was_read():
    """The oracle is Textual: it presses the key."""

    class Small(App):
        BINDINGS = [Binding("f4", "models", id="chat.model"), Binding("f5", "settings", id="chat.settings")]
        done: list[str] = []

        def action_models(self):
            self.done.append("models")

        def action_settings(self):
            self.done.append("settings")

    app = Small()
    async with app.run_test() as pilot:
        app.set_keymap(dict(keymap.read({"chat.model": "f5", "chat.settings": "Alt+S"}).keys))
        await pilot.press("f5", "alt+s", "f4")
    assert app.done == ["models", "settings"]


def test_a_key_is_kept_beside_all_else_in_the_file():
    settings.save(settings.Settings(theme="nord"))
    keymap.keep("chat.new", "f9")
    keymap.keep("chat.copy", "f10")
    keymap.keep("chat.new", None)
    settings.save(settings.Settings(theme="dracula"))
    kept = json.loads(settings.settings_path().read_text())
    assert kept["keys"] == {"chat.copy": "f10"}
    assert kept["theme"] == "dracula"
    assert settings.load().keys == {"chat.copy": "f10"}


def test_a_file_that_is_no_json_is_left_alone():
    settings.settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings.settings_path().write_text("mine")
    with pytest.raises(BqError, match="cannot be read"):
        keymap.keep("chat.new", "f9")
    assert settings.settings_path().read_text() == "mine"
