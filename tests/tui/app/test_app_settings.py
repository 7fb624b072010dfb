"""Settings and models: what is chosen holds at once, is kept, and never costs the conversation."""

import json

import pytest
from textual.widgets import Input, OptionList, Select, TextArea

from bq.runtime.language import get_language, set_language
from bq.tui.dialogs.models import ModelsScreen
from bq.tui.dialogs.settings import SettingsScreen
from bq.tui.dialogs.small import Choice, Entry
from bq.tui.engine import Candidate
from bq.tui.settings import Settings, load


async def opened(s):
    await s.press("f5")
    await s.until(lambda: isinstance(s.app.screen, SettingsScreen))
    return s.app.screen


async def test_sampling_is_shown_with_the_releases_values_and_changed(start, fake):
    async with start(size=(110, 45)) as s:
        screen = await opened(s)
        assert screen.query_one("#set-temperature", Input).placeholder == "0.3"
        assert s.shows("How freely words are chosen", "Longest answer in tokens")
        screen.query_one("#set-temperature", Input).value = "0.9"
        await s.press("ctrl+s")
        await s.ask("x")
        assert fake.keywords["sampling"].temperature == 0.9
        assert fake.keywords["sampling"].top_k == 5, "the rest is the release's"
    assert load().parameters == {"temperature": 0.9}


async def test_a_wrong_value_is_told_and_nothing_changes(start):
    async with start(size=(110, 45)) as s:
        screen = await opened(s)
        screen.query_one("#set-top_p", Input).value = "7"
        await s.press("ctrl+s")
        assert isinstance(s.app.screen, SettingsScreen)
        assert s.shows("0 to 1")
    assert load() == Settings()


async def test_leaving_gives_the_theme_back(start):
    async with start(size=(110, 45)) as s:
        screen, before = await opened(s), s.app.theme
        screen.query_one("#theme", Select).value = "dracula"
        await s.until(lambda: s.app.theme == "dracula")
        await s.press("escape")
        await s.until(lambda: s.app.theme == before)


async def test_language_and_system_prompt_hold_at_once(start, fake, own_home):
    async with start(size=(110, 45)) as s:
        screen = await opened(s)
        screen.query_one("#language", Select).value = "zh"
        screen.query_one("#system", TextArea).load_text("Be brief.")
        await s.press("ctrl+s")
        await s.until(lambda: s.shows("就绪", "消息"))
        assert get_language() == "zh"
        await s.ask("x")
        assert fake.asked[-1][0].content == "Be brief."
    assert json.loads((own_home / "settings.json").read_text(encoding="utf-8"))["language"] == "zh"


async def test_system_prompts_are_kept_in_a_library(start):
    async with start(size=(110, 50)) as s:
        screen = await opened(s)
        screen.query_one("#system", TextArea).load_text("You are a poet.")
        screen.query_one("#keep").press()
        await s.until(lambda: isinstance(s.app.screen, Entry))
        await s.press(*"poet", "enter")
        await s.until(lambda: s.app.screen is screen)
        screen.query_one("#system", TextArea).load_text("")
        screen.query_one("#library").press()
        await s.until(lambda: isinstance(s.app.screen, Choice))
        await s.press("enter")
        await s.until(lambda: screen.query_one("#system", TextArea).text == "You are a poet.")


async def test_the_command_line_goes_before_what_was_set_earlier(start, fake):
    from bq.runtime.values import Sampling

    async with start(settings=Settings(parameters={"temperature": 0.9}), sampling=Sampling(temperature=0)) as s:
        await s.ask("x")
        assert fake.keywords["sampling"].temperature == 0


async def test_another_model_is_loaded_and_the_conversation_stays(start, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    async with start(size=(100, 40)) as s:
        await s.ask("one")
        await s.press("f4")
        await s.until(lambda: isinstance(s.app.screen, ModelsScreen))
        await s.until(lambda: s.shows("a.gguf") or s.shows("needs"))
        options = s.app.screen.query_one(OptionList)
        assert options.option_count == 3, "two files, and any other"
        options.focus()
        await s.press("down", "enter")
        await s.ready()
        assert s.app.path.name == "b.gguf"
        assert fake.open_models == 1
        await s.ask("two")
        assert [m.content for m in fake.asked[-1]][::2] == ["one", "two"]


async def test_a_model_that_cannot_be_loaded_leaves_a_way_back(start, fake, tmp_path):
    from bq.runtime.errors import BqError

    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    async with start() as s:
        fake.load_error = BqError("b.gguf is damaged.", "Convert it again.")
        await s.send(f"/model {tmp_path / 'b.gguf'}")
        await s.until(lambda: s.shows("b.gguf is damaged.", "not loaded"))
        fake.load_error = None
        await s.press("ctrl+r")
        await s.ready()
        assert s.shows("ready")


async def test_what_the_command_line_said_does_not_replace_what_is_kept(start, fake):
    from bq.runtime.values import Sampling
    from bq.tui.settings import save

    save(Settings(parameters={"top_k": 9}))
    async with start(settings=load(), sampling=Sampling(temperature=0), max_tokens=50, size=(110, 45)) as s:
        await opened(s)
        await s.press("ctrl+s")
        await s.ask("x")
        assert fake.keywords["max_tokens"] == 50
    assert load().parameters == {"top_k": 9}


async def test_a_process_that_cannot_tell_is_told_in_the_picker(start, fake, monkeypatch):
    from bq.runtime.errors import BqError
    from bq.tui.engine import Engine

    def fail(engine, paths):
        raise BqError("The model's process cannot be started.")

    async with start(size=(100, 40)) as s:
        monkeypatch.setattr(Engine, "examine", fail)
        await s.press("f4")
        await s.until(lambda: s.shows("cannot be started"))


@pytest.mark.parametrize(
    ("language", "quality"),
    [("en", "KL 0.0123, top-1 95.2%"), ("zh", "KL 0.0123，首选一致 95.2%")],
)
async def test_the_picker_shows_what_was_measured_on_60_columns_too(
    start, fake, tmp_path, monkeypatch, language, quality
):
    set_language(language)
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    fake.candidates = {tmp_path / "a.gguf": Candidate(tmp_path / "a.gguf", name="measured", fits=True, quality=quality)}
    async with start(size=(60, 30)) as s:
        await s.press("f4")
        await s.until(lambda: s.shows("measured", quality, "Q4_K_M"))
        assert s.text().count("KL 0.0123") == 1, "the other one has no figures"


async def test_the_form_of_the_output_can_be_set_before_the_mode_was_ever_shown(start, fake):
    fake.warnings = ("something is wrong with it.",)
    async with start(size=(100, 40)) as s:
        await s.press("f7")
        await s.until(lambda: isinstance(s.app.screen, Choice))
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)
        assert s.app.desk_mode == "instruct"
        assert s.shows("something is wrong with it.")


async def test_a_kept_system_prompt_can_be_deleted(start):
    from bq.tui.store import Store

    store = Store.open()
    store.save_system_prompt("poet", "You are a poet.")
    store.close()
    async with start(size=(110, 50)) as s:
        screen = await opened(s)
        screen.query_one("#library").press()
        await s.until(lambda: isinstance(s.app.screen, Choice))
        await s.press("end", "enter")
        await s.until(lambda: s.app.screen is screen)
        screen.query_one("#library").press()
        await s.until(lambda: s.shows("No system prompt is kept yet."))


async def test_an_own_template_is_kept_and_deleted(start):
    from bq.tui.templates import own_templates

    async with start(mode="instruct", size=(100, 50)) as s:
        await s.press(*"Shorten it")
        await s.press("ctrl+t")
        await s.until(lambda: isinstance(s.app.screen, Choice))
        await s.press("end", "enter")
        await s.until(lambda: isinstance(s.app.screen, Entry))
        await s.press(*"mine", "enter")
        await s.until(lambda: [one.instruction for one in own_templates()] == ["Shorten it"])
        await s.press("ctrl+t")
        await s.until(lambda: isinstance(s.app.screen, Choice))
        await s.press("end", "enter")
        await s.until(lambda: s.shows("Delete which template?"))
        await s.press("enter")
        await s.until(lambda: own_templates() == [])
