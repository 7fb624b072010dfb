"""Every slash command does what its line in the help says."""

import json

import pytest

from bq.runtime.language import get_language
from bq.tui.dialogs.conversations import ConversationsScreen
from bq.tui.dialogs.help import HelpScreen
from bq.tui.dialogs.models import ModelsScreen
from bq.tui.slash import commands


async def test_every_command_of_the_app_is_done_by_something():
    from bq.tui.app_commands import _DOES

    assert set(_DOES) == {one.name for one in commands("app")}


async def test_a_command_is_not_sent_to_the_model(start, fake):
    async with start() as s:
        await s.send("/context")
        await s.until(lambda: s.shows("The context is empty"))
        assert fake.asked == []
        assert s.prompt.text == ""


async def test_an_unknown_command_is_given_back_with_the_nearest_one(start, fake):
    async with start() as s:
        await s.send("/undoo")
        await s.until(lambda: s.shows("There is no command /undoo.", "/undo"))
        assert s.prompt.text == "/undoo"


@pytest.mark.parametrize(
    ("line", "text"), [("/etc/passwd is what?", "/etc/passwd is what?"), ("//help me", "/help me")]
)
async def test_a_text_that_begins_with_a_slash_is_sent(start, fake, line, text):
    async with start() as s:
        await s.ask(line)
        assert fake.asked[-1][0].content == text


async def test_system_params_and_context(start, fake):
    async with start(size=(120, 40)) as s:
        await s.send("/system Be brief.")
        await s.pilot.pause()
        await s.send("/params temp 0.7 seed=5")
        await s.until(lambda: s.shows("temp 0.7", "seed 5"))
        await s.ask("one")
        assert fake.asked[-1][0].content == "Be brief."
        sampling = fake.keywords["sampling"]
        assert (sampling.temperature, sampling.seed, sampling.top_k) == (0.7, 5, 5)
        await s.send("/context")
        await s.until(lambda: s.shows("tokens before the answer"))
        await s.send("/system")
        await s.until(lambda: s.shows("System prompt: Be brief."))
        await s.send("/params reset")
        await s.until(lambda: s.shows("temp 0.3"))
        await s.send("/system -")
        await s.pilot.pause()
        assert s.app.desk.conversation.system == ""


async def test_a_wrong_parameter_is_told_with_its_range(start):
    async with start() as s:
        await s.send("/params top-p 3")
        await s.until(lambda: s.shows("top-p", "0 to 1"))


async def test_undo_gives_the_question_back_and_retry_answers_anew(start, fake):
    fake.answers = ["first", "second"]
    async with start() as s:
        await s.ask("one")
        await s.send("/retry")
        await s.ready()
        assert s.shows("second", "‹2/2›")
        await s.send("/undo")
        await s.until(lambda: s.prompt.text == "one")
        assert not s.shows("second")


async def test_clear_takes_all_back_and_keeps_it_in_the_tree(start, fake):
    async with start() as s:
        await s.ask("one")
        await s.send("/clear")
        await s.until(lambda: not s.app.desk.conversation.rounds)
        assert not s.shows("An answer.")
        assert len(s.app.desk.conversation.nodes) == 2


async def test_export_and_import_bring_the_conversation_back(start, fake, tmp_path):
    fake.answers = ["# first\n\n## You\n\ntricky", "second"]
    async with start() as s:
        await s.ask("one")
        await s.ask("two")
        for name in ("talk.md", "talk.json"):
            path = tmp_path / name
            await s.send(f"/export {path}")
            await s.until(path.exists)
            await s.send(f"/export {path}")
            await s.until(lambda: s.shows("/export! replaces it."))
            s.prompt.clear()
            await s.send(f"/export! {path}")
            await s.pilot.pause()
        json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
        said = s.app.desk.conversation.transcript()
        for name in ("talk.md", "talk.json"):
            await s.press("ctrl+n")
            await s.send(f"/import {tmp_path / name}")
            await s.until(lambda: len(s.app.desk.conversation.rounds) == 2)
            assert s.app.desk.conversation.transcript() == said


async def test_import_of_something_else_is_one_line(start, tmp_path):
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    async with start() as s:
        await s.send(f"/import {tmp_path / 'x.json'}")
        await s.until(lambda: s.prompt.text.startswith("/import"))
        assert s.app.desk.conversation.nodes == {}


async def test_rename_delete_and_bring_back(start, fake):
    async with start() as s:
        await s.ask("one")
        await s.send("/rename My talk")
        await s.until(lambda: s.app.desk.conversation.title == "My talk")
        old = s.app.desk.conversation.id
        await s.send("/delete")
        await s.until(lambda: s.app.desk.conversation.id != old and s.shows("Deleted"))
        assert not s.shows("An answer.")
        await s.send("/undo")
        await s.until(lambda: s.app.desk.conversation.id == old)
        assert s.shows("one", "An answer.")
        assert s.app.desk.conversation.title == "My talk"


async def test_language_and_theme_are_switched_live_and_kept(start, own_home):
    async with start() as s:
        await s.send("/lang zh")
        await s.until(lambda: s.shows("就绪", "消息", "模式"))
        assert get_language() == "zh"
        await s.send("/theme dracula")
        await s.until(lambda: s.app.theme == "dracula")
    kept = json.loads((own_home / "settings.json").read_text(encoding="utf-8"))
    assert (kept["language"], kept["theme"]) == ("zh", "dracula")


@pytest.mark.parametrize(
    ("line", "screen"),
    [("/help", HelpScreen), ("/list", ConversationsScreen), ("/find x", ConversationsScreen), ("/model", ModelsScreen)],
)
async def test_dialogs_are_opened_by_their_commands(start, line, screen):
    async with start() as s:
        await s.send(line)
        await s.until(lambda: isinstance(s.app.screen, screen))
        await s.press("escape")
        await s.until(lambda: s.app.screen.focused is s.prompt)


async def test_help_of_one_command_is_a_line(start):
    async with start() as s:
        await s.send("/help export")
        await s.until(lambda: s.shows("/export [FILE]: Write the conversation"))


async def test_a_template_fills_the_single_mode(start, fake):
    fake.answers = ["positive"]
    async with start(size=(100, 40)) as s:
        await s.send("/template classify I like it")
        await s.until(lambda: s.app.desk_mode == "instruct")
        view = s.app.desk.view
        assert view.prompt.text == "Is the mood of the following text positive, negative or neutral?"
        assert view.material.text == "I like it"
        assert s.shows("Output: one of")
        await s.press("enter")
        await s.ready()
        form = fake.keywords["form"]
        assert (form.kind, form.text) == ("choices", "positive,negative,neutral")


async def test_commands_that_change_the_path_wait_for_the_answer(start, fake):
    fake.writing.shut()
    async with start() as s:
        await s.send("one")
        await s.until(lambda: s.shows("writing"))
        await s.send("/undo")
        assert s.shows("Still answering")
        assert len(s.app.desk.conversation.rounds) == 1


async def test_a_conversation_of_the_list_is_opened_and_deleted_by_its_number(start):
    from bq.tui.conversation import Conversation
    from bq.tui.store import Store

    store = Store.open()
    for name in ("older", "newer"):
        made = Conversation()
        made.ask(name)
        store.save(made, made.nodes.values())
    store.close()
    async with start() as s:
        await s.send("/open 2")
        await s.until(lambda: s.app.desk.conversation.heading == "older")
        await s.send("/delete 1")
        await s.until(lambda: s.shows("Deleted"))
        assert s.app.desk.conversation.heading == "older", "the one on the screen stays"
        await s.send("/open 7")
        await s.until(lambda: s.shows("There is no conversation 7."))


@pytest.mark.parametrize("line", ["/model /nowhere/x.gguf", "/model ~nobody-of-this-name/x", "/compare " + "x" * 300])
async def test_a_model_that_is_not_there_costs_nothing(start, fake, line):
    async with start() as s:
        await s.ask("one")
        await s.send(line)
        await s.until(lambda: s.prompt.text == line)
        assert s.app.engine.model is not None
        assert fake.open_models == 1


async def test_a_text_that_is_edited_while_an_answer_is_written_is_not_lost(start, fake):
    async with start() as s:
        await s.ask("one")
        fake.writing.shut()
        await s.send("two")
        await s.until(lambda: s.shows("writing"))
        await s.send("/edit better words")
        assert s.shows("Still answering")
        assert s.prompt.text == "/edit better words"


async def test_templates_that_cannot_be_read_are_told_and_no_more(start, own_home):
    (own_home / "templates.json").write_text("{", encoding="utf-8")
    async with start() as s:
        await s.press(*"/template ")
        await s.send("/template x")
        await s.until(lambda: s.shows("templates.json"))


async def test_an_own_template_goes_before_the_built_in_one_of_its_name(start):
    from bq.tui.templates import Template, save_template

    save_template(Template("summarise", "In one word:"))
    async with start(size=(100, 40)) as s:
        await s.press("ctrl+t")
        await s.until(lambda: s.shows("summarise: In one word:"))
        await s.press("enter")
        await s.until(lambda: s.app.desk_mode == "instruct")
        assert s.prompt.text == "In one word:"
