"""One's own keys in the app: read from the settings, shown in footer, help and Settings, and changed by pressing them."""

import json

from textual.widgets import OptionList

from bq.runtime.language import set_language
from bq.tui import keymap, settings
from bq.tui.dialogs.help import HelpScreen
from bq.tui.dialogs.keys import CatchKey, KeysScreen
from bq.tui.dialogs.settings import SettingsScreen
from bq.tui.keys import places, texts
from bq.tui.settings import Settings

OWN = {"chat.model": "f9", "message.copy": "y", "chat.fly": "f12", "list.rename": "f10", "dialog.take": "f2"}


async def test_the_keys_of_the_settings_hold_and_stand_everywhere(start, fake):
    async with start(size=(120, 100), settings=Settings(keys=OWN)) as s:
        assert s.shows("f3 Chats f9 Model f5", "chat.fly: there is no such action")
        await s.press("f4")
        assert len(s.app.screen_stack) == 1
        await s.press("f9")
        await s.until(lambda: s.shows("Enter loads it."))
        await s.press("escape", "f5")
        await s.until(lambda: s.shows("f9 Model", "f2 takes it", "settings.json"))
        await s.press("f1")
        assert isinstance(s.app.screen, HelpScreen)
        assert s.shows("f9", "f10")
        await s.press("f1", "escape")
        await s.ask("hi")
        await s.press("ctrl+up", "y")
        assert fake.copied == ["An answer. It is long enough to be held."]


async def test_the_help_has_every_key_under_where_it_holds(start):
    async with start(size=(100, 200)) as s:
        for language in ("en", "zh"):
            set_language(language)
            await s.press("f1")
            await s.pilot.pause()
            drawn = s.text()
            at = [drawn.index(heading) for heading in places().values()]
            assert at == sorted(at)
            assert all(text in drawn for text in texts().values())
            for id in keymap.actions():
                rows = drawn[drawn.index(places()[id.partition(".")[0]]) :].splitlines()
                row = next(row for row in rows if texts()[id] in row)
                assert s.app.get_key_display(key_of(id)) in row, id
            assert all(name in drawn for name in ("NO_COLOR", "high-contrast-dark"))
            await s.press("escape")


def key_of(id):
    from textual.binding import Binding

    return Binding(keymap.actions()[id].keys[0], "", "")


async def test_the_help_opens_in_a_dialog_and_goes_back_to_it(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with start() as s:
        for key in ("f3", "f5"):
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 2)
            below = s.app.screen
            await s.press("f1")
            assert isinstance(s.app.screen, HelpScreen), key
            await s.press("f1")
            assert s.app.screen is below
            await s.press("escape")
            await s.until(lambda: len(s.app.screen_stack) == 1)


async def test_a_key_is_changed_by_pressing_another_one(start, fake):
    settings.save(Settings(theme="nord"))
    async with start(size=(100, 60), settings=settings.load()) as s:
        await s.press("f5")
        await s.until(lambda: isinstance(s.app.screen, SettingsScreen))
        await s.pilot.click("#keys")
        await s.until(lambda: isinstance(s.app.screen, KeysScreen))
        options = s.app.screen.query_one(OptionList)
        options.highlighted = options.get_option_index("chat.new")
        await s.press("enter")
        await s.until(lambda: isinstance(s.app.screen, CatchKey) and s.shows("Press the new key"))
        await s.press("f5")
        assert s.shows("f5 is for “Settings and system prompt” (chat.settings) already.")
        for key in ("f6", "ctrl+q", "ctrl+p"):  # the app's own, which do nothing here
            await s.press(key)
            assert s.shows(f"{key} is ")
            assert isinstance(s.app.screen, CatchKey)
        await s.press("x")
        assert s.shows("x is needed for writing.")
        await s.press("f9")
        await s.until(lambda: isinstance(s.app.screen, KeysScreen) and s.shows("f9: New"))
        assert json.loads(settings.settings_path().read_text())["keys"] == {"chat.new": "f9"}
        await s.press("escape", "escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)
        assert s.shows("f9 New")
        await s.ask("hi")
        await s.press("f9")
        await s.until(lambda: not s.app.desk.conversation.rounds)
        await s.press("f5")
        await s.pilot.click("#keys")
        await s.until(lambda: isinstance(s.app.screen, KeysScreen))
        s.app.screen.query_one(OptionList).highlighted = options.get_option_index("chat.new")
        await s.press("delete")
        assert json.loads(settings.settings_path().read_text())["keys"] == {}
        assert s.shows("^n")


async def test_settings_keep_the_keys_of_the_file(start):
    settings.settings_path().parent.mkdir(parents=True, exist_ok=True)
    settings.settings_path().write_text(json.dumps({"keys": {"chat.new": "f9", "chat.from-tomorrow": "f12"}}))
    async with start(size=(100, 40), settings=settings.load()) as s:
        await s.press("f5")
        await s.until(lambda: isinstance(s.app.screen, SettingsScreen))
        await s.press("ctrl+s")
        await s.until(lambda: len(s.app.screen_stack) == 1)
    kept = json.loads(settings.settings_path().read_text())["keys"]
    assert kept == {"chat.new": "f9", "chat.from-tomorrow": "f12"}
