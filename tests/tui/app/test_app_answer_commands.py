"""Commands of the app for what keys do: both modes of bq chat have them."""

from textual.widgets import OptionList

from bq.runtime.language import set_language
from bq.tui.dialogs.compare import VersionsScreen
from bq.tui.slash import COMMANDS
from bq.tui.store import Store


def test_the_line_mode_has_every_command_but_the_one_for_colours():
    assert {one.name for one in COMMANDS if "plain" not in one.places} == {"theme"}
    assert all("app" in one.places for one in COMMANDS)


async def test_rounds_are_pinned_and_forked_by_their_numbers_and_versions_are_shown(start, fake):
    fake.answers = ["one", "two", "two again"]
    async with start() as s:
        await s.ask("first")
        await s.ask("second")
        await s.send("/versions")
        await s.until(lambda: s.shows("There is one version only."))
        await s.press("ctrl+r")
        await s.ready()
        await s.send("/versions")
        await s.until(lambda: isinstance(s.app.screen, VersionsScreen))
        await s.press("escape")
        await s.send("/versions 1")
        await s.until(lambda: s.app.desk.conversation.last_answer == "two")
        await s.send("/pin 1")
        await s.until(lambda: s.shows("pinned"))
        assert [one.question.pinned for one in s.app.desk.conversation.rounds] == [True, False]
        await s.send("/fork 1")
        await s.until(lambda: len(s.app.desk.conversation.rounds) == 1)
        await s.send("/pin 7")
        await s.until(lambda: s.shows("There is no round 7."))


async def test_the_mode_a_file_and_a_form_are_chosen_by_commands(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in put.txt").write_text("the text")
    async with start() as s:
        await s.send("/file in put.txt")
        await s.until(lambda: s.prompt.text == "the text")
        s.prompt.clear()
        await s.send("/form choices yes, no")
        await s.until(lambda: s.app.desk_mode == "instruct" and s.shows("Output: one of yes, no"))
        await s.send('/file "in put.txt" Shorten it')
        await s.until(lambda: s.app.desk.view.question() == "Shorten it\n\nthe text")
        await s.send("/mode chat")
        await s.until(lambda: s.app.desk_mode == "chat")
        await s.send("/mode")
        await s.until(lambda: s.app.desk_mode == "instruct")


async def test_system_prompts_are_kept_and_used(start):
    async with start() as s:
        for line in ("/system be brief", "/prompts keep short", "/system -"):
            await s.send(line)
            await s.pilot.pause()
        await s.until(lambda: not s.app.desk.conversation.system)
        await s.send("/prompts")
        await s.until(lambda: s.shows("1 short: be brief"))
        await s.press("enter")
        await s.until(lambda: s.app.desk.conversation.system == "be brief")
        await s.send("/prompts delete 1")
        await s.until(lambda: s.shows("Deleted: short"))
        await s.send("/prompts")
        await s.until(lambda: s.shows("No system prompt is kept yet"))


async def test_the_rows_of_the_pickers_have_the_numbers_that_the_commands_take(start, fake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    async with start() as s:
        await s.press("f4")
        await s.until(lambda: s.shows(" 1   a ", " 2   b "))
        await s.press("escape")
        await s.send("/model 2")
        await s.until(lambda: s.app.path == tmp_path / "b.gguf")
        await s.ready()
        await s.ask("the first")
        await s.press("ctrl+n")
        await s.ask("the second")
        await s.press("f3")
        await s.until(lambda: s.shows("1 ", "the second"))
        rows = [str(one.prompt) for one in s.app.screen.query_one(OptionList).options]
        assert [row.split()[0] for row in rows] == ["1", "2"]
        await s.press("escape")
        await s.send("/open 2")
        await s.until(lambda: s.app.desk.conversation.heading == "the first")


async def test_the_open_conversation_is_deleted_and_any_is_exported_in_the_list(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    set_language("zh")
    async with start() as s:
        await s.ask("第一个问题")
        await s.press("f3")
        await s.until(lambda: s.shows("第一个问题", "Ctrl+S"))
        await s.press("ctrl+s")
        await s.until(lambda: len(s.app.screen_stack) == 3)
        await s.press("enter")
        await s.until(lambda: len([*tmp_path.glob("*.md")]) == 1 and s.shows("已写入"))
        assert "第一个问题" in next(tmp_path.glob("*.md")).read_text("utf-8")
        await s.press("f8")
        await s.until(lambda: s.shows("没有找到"))
        assert s.app.desk.conversation.rounds == []
        await s.press("ctrl+z")
        await s.until(lambda: s.shows("第一个问题"))
        await s.press("f8")
        await s.until(lambda: s.shows("没有找到"))
        await s.press("escape")
        await s.ask("另一个问题")
    store = Store.open()
    assert [one.heading for one in store.listed()] == ["另一个问题"]
    store.close()
