"""Thinking in the app: `/think` and the settings say whether a model thinks before it answers."""

import json

from textual.widgets import Select

from bq.tui.dialogs.settings import SettingsScreen
from bq.tui.settings import Settings, load

from .fake import ModelInfo


async def test_think_is_told_to_a_model_that_knows_modes_of_it(start, fake):
    fake.info = ModelInfo(thinks=True)
    async with start() as s:
        await s.ask("x")
        assert fake.keywords["think"] == "auto"
        await s.send("/think on")
        await s.until(lambda: s.shows("thinks before each answer"))
        await s.ask("y")
        assert fake.keywords["think"] == "on"


async def test_another_model_refuses_it_and_minds_no_setting(start, fake):
    async with start(settings=Settings(think="on")) as s:
        await s.send("/think on")
        await s.until(lambda: s.shows("no thinking mode"))
        await s.ask("x")
        assert fake.keywords["think"] == "auto"


async def test_the_setting_is_there_for_those_models_and_is_kept(start, fake, own_home):
    fake.info = ModelInfo(thinks=True)
    async with start(size=(110, 50)) as s:
        await s.press("f5")
        await s.until(lambda: isinstance(s.app.screen, SettingsScreen))
        s.app.screen.query_one("#think", Select).value = "off"
        await s.press("ctrl+s")
        await s.ask("x")
        assert fake.keywords["think"] == "off"
    assert load().think == "off"
    assert json.loads((own_home / "settings.json").read_text("utf-8"))["think"] == "off"


async def test_other_models_have_no_such_setting(start):
    async with start(size=(110, 50)) as s:
        await s.press("f5")
        await s.until(lambda: isinstance(s.app.screen, SettingsScreen))
        assert not s.app.screen.query("#think")
