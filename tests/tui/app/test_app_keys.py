"""Writing and keys: the box grows, Enter sends, lines break, help and palette name every key, small terminals work."""

import re

import pytest
from textual import events

from bq.runtime.language import set_language
from bq.tui.app import ChatApp
from bq.tui.dialogs.finder import Finder
from bq.tui.dialogs.help import HelpScreen
from bq.tui.widgets.prompt import Prompt


@pytest.mark.parametrize("key", ["ctrl+j", "shift+enter", "alt+enter"])
async def test_a_line_is_broken_and_enter_sends(start, fake, key):
    async with start() as s:
        await s.press("a", key, "b")
        assert s.prompt.text == "a\nb"
        await s.press("enter")
        await s.ready()
        assert fake.asked[0][0].content == "a\nb"


async def test_the_box_grows_to_some_lines(start):
    async with start() as s:
        heights = []
        for _ in range(12):
            await s.press("ctrl+j")
            heights.append(s.prompt.size.height)
        assert heights[0] == 2
        assert max(heights) == heights[-1] == 8


async def test_long_lines_wrap_by_the_width_of_han(start):
    async with start(size=(60, 20)) as s:
        s.prompt.load_text("量" * 40)
        await s.pilot.pause()
        assert s.prompt.size.height == 2
        await s.press("end")
        assert s.prompt.cursor_screen_offset.x % 2 == s.prompt.region.x % 2


async def test_han_is_typed_and_deleted_whole(start):
    async with start() as s:
        await s.press("量", "化", "backspace", "好")
        assert s.prompt.text == "量好"
        assert s.shows("量好")


async def test_pasted_control_characters_stay_out(start):
    async with start() as s:
        s.app.post_message(events.Paste("one\x1b]52;c;x\x07\r\ntwo\x9b"))
        await s.pilot.pause()
        assert s.prompt.text == "one]52;c;x\ntwo"


async def test_help_names_every_key(start):
    async with start(size=(100, 50)) as s:
        await s.press("f1")
        assert isinstance(s.app.screen, HelpScreen)
        drawn = s.text()
        for name in ["f1", "f2", "esc", "^n", "^r", "^o", "^p", "^q", "^j", "shift+⏎", "pgup", "pgdn"]:
            assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", drawn), name
        await s.press("escape")
        assert not isinstance(s.app.screen, HelpScreen)


async def test_every_binding_has_an_id_and_a_text():
    from bq.tui.keys import texts

    ours = [b for b in [*ChatApp.BINDINGS, *Prompt.BINDINGS] if not b.system]
    assert all(binding.id in texts() for binding in ours)


async def test_keys_can_be_changed_by_their_ids(start, fake):
    async with start(drawn=True) as s:
        s.app.set_keymap({"prompt.send": "f5", "chat.help": "f9"})
        await s.press("a", "f5")
        await s.ready()
        assert len(fake.asked) == 1
        await s.press("f9")
        assert s.shows("f5", "f9")


async def test_the_palette_has_the_commands_in_the_readers_language(start, fake):
    set_language("zh")
    async with start(size=(90, 50)) as s:
        await s.ask("x")
        await s.press("ctrl+p")
        assert isinstance(s.app.screen, Finder)
        await s.until(lambda: s.shows("搜索", "新建", "重新回答", "颜色主题"))
        await s.press(*"新建", "enter")
        await s.until(lambda: not s.app.desk.conversation.rounds)


async def test_the_palette_opens_a_dialog_of_its_own(start):
    async with start() as s:
        await s.press("ctrl+p", *"theme", "enter")
        await s.until(lambda: isinstance(s.app.screen, Finder) and s.shows("dracula"))
        await s.press(*"dracula", "enter")
        await s.until(lambda: s.app.theme == "dracula")


async def test_ctrl_c_says_how_to_quit(start):
    async with start() as s:
        await s.press("ctrl+c")
        assert s.shows("Ctrl+Q quits.")
        assert s.app.is_running


async def test_ctrl_c_copies_what_is_selected_with_the_mouse(start, fake):
    fake.answers = ["select me"]
    async with start() as s:
        await s.ask("x")
        paragraph = s.answer.query_one("MarkdownParagraph")
        await s.pilot.mouse_down(paragraph, offset=(0, 0))
        await s.pilot.hover(paragraph, offset=(6, 0))
        await s.pilot.mouse_up(paragraph, offset=(6, 0))
        await s.press("ctrl+c")
        assert s.app.clipboard.strip() == "select"


async def test_the_focus_stays_in_the_box_after_a_click_on_an_answer(start):
    async with start() as s:
        await s.ask("x")
        await s.pilot.click(s.answer)
        await s.press("y")
        assert s.prompt.text == "y"


async def test_esc_is_lit_only_while_there_is_something_to_stop(start, fake):
    async with start() as s:
        assert s.app.screen.active_bindings["escape"].enabled is False
        fake.writing.shut()
        await s.send("x")
        await s.pilot.pause()
        assert s.app.screen.active_bindings["escape"].enabled is True


@pytest.mark.parametrize("mode", ["chat", "instruct"])
async def test_it_fits_60_by_20(start, fake, mode):
    fake.answers = ["an answer"]
    async with start(size=(60, 20), mode=mode) as s:
        await s.ask("a question")
        assert s.shows("an answer", "ready", "ctx", "Help")
        assert all(len(line) <= 60 for line in s.text().splitlines())
