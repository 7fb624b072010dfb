"""The text mode: a Base model opens it, a text goes on from the cursor, and what was written is kept."""

from bq.tui import app_kept
from bq.tui.conversation import Conversation

from .fake import ModelInfo


async def test_a_base_model_opens_the_text_mode(start, fake):
    fake.info = ModelInfo(name="Baichuan2-7B-Base", variant="base")
    async with start() as s:
        assert s.app.desk_mode == "complete"
        assert s.shows("Ctrl+G goes on from the cursor")


async def test_the_mode_that_was_asked_for_stays(start, fake):
    fake.info = ModelInfo(name="Baichuan2-7B-Base", variant="base")
    async with start(mode="chat") as s:
        assert s.app.desk_mode == "chat"
        assert s.shows("This is a Base model", "F2")
        await s.ask("Hi")
        assert fake.keywords["force"], "it was warned of, and answers all the same"


async def test_an_instruct_model_opens_the_single_mode(start, fake):
    fake.info = ModelInfo(variant="instruct")
    async with start() as s:
        assert s.app.desk_mode == "instruct"


async def test_what_is_being_written_already_keeps_the_mode(start, fake):
    fake.info = ModelInfo(name="Baichuan2-7B-Base", variant="base")
    fake.loading.shut()
    async with start(load=False) as s:
        await s.press("h", "i")
        fake.loading.open()
        await s.ready()
        assert s.app.desk_mode == "chat"


async def test_a_text_goes_on_from_the_cursor_and_again(start, fake):
    fake.answers = [" upon a time", " there was"]
    async with start(mode="complete", size=(110, 30)) as s:
        await s.press(*"Once", "ctrl+g")
        await s.ready()
        assert fake.completed == ["Once"]
        page = s.app.desk.page
        assert page.view.text == "Once upon a time"
        await s.press("ctrl+g")
        await s.ready()
        assert fake.completed == ["Once", "Once upon a time"]
        assert page.view.text == "Once upon a time there was"


async def test_esc_stops_and_keeps_the_text(start, fake):
    fake.answers = [" one two three four five"]
    fake.writing.shut()
    async with start(mode="complete") as s:
        await s.press(*"Go", "ctrl+g")
        await s.until(lambda: len(s.app.desk.page.view.text) > 2)
        await s.press("escape")
        await s.ready()
        assert s.shows("Stopped. Ctrl+G goes on.")
        assert "Go one two three four five".startswith(s.app.desk.page.view.text)


async def test_the_text_is_kept_and_opened_again(start, fake):
    fake.answers = [" upon a time"]
    async with start(mode="complete") as s:
        await s.press(*"Once", "ctrl+g")
        await s.ready()
        id = s.app.desk.conversation.id
    async with start(resume=id) as s:
        await s.until(lambda: s.app.desk_mode == "complete")
        assert s.app.desk.page.view.text == "Once upon a time"


async def test_f2_goes_through_all_three_modes(start):
    async with start() as s:
        modes = []
        for _ in range(3):
            await s.press("f2")
            modes.append(s.app.desk_mode)
        assert modes == ["instruct", "complete", "chat"]


async def test_a_text_without_its_draft_is_shown_as_it_was_generated(start):
    made = Conversation(mode="complete")
    made.ask("Once")
    made.begin()
    made.write(" upon")
    made.finish("end")
    async with start() as s:
        await app_kept.show_conversation(s.app, made)
        assert s.app.desk.page.view.text == "Once upon"
