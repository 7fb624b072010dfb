"""The box to write in: earlier questions come back, long texts collapse to a note, commands are completed."""

from textual import events

from bq.tui.widgets.suggestions import Suggestions

LONG = "line\n" * 30


async def test_up_brings_earlier_questions_and_down_what_was_being_written(start):
    async with start() as s:
        s.prompt.remember(["newest", "older\nof two lines"])
        await s.press(*"new", "up")
        assert s.prompt.text == "newest"
        await s.press("up")
        assert s.prompt.text == "older\nof two lines"
        await s.press("up")
        assert s.prompt.text == "older\nof two lines", "first to the line above"
        await s.press("down", "down", "down")
        assert s.prompt.text == "new"


async def test_a_question_that_was_asked_is_the_first_to_come_back(start):
    async with start() as s:
        await s.ask("one")
        await s.ask("two")
        await s.press("up")
        assert s.prompt.text == "two"
        await s.press("up")
        assert s.prompt.text == "one"


async def test_a_long_text_that_is_pasted_is_a_note_and_sent_whole(start, fake):
    async with start() as s:
        await s.press(*"see")
        s.app.post_message(events.Paste(" " + LONG))
        await s.pilot.pause()
        assert s.prompt.text == "see[pasted 1: 151 characters, 31 lines]"
        await s.press("enter")
        await s.ready()
        assert fake.asked[-1][0].content == ("see " + LONG).strip()


async def test_a_text_that_looks_like_a_note_is_none(start, fake):
    async with start() as s:
        await s.ask("[pasted 1: 151 characters, 31 lines]")
        assert fake.asked[-1][0].content == "[pasted 1: 151 characters, 31 lines]"


async def test_commands_are_offered_while_they_are_written(start):
    async with start() as s:
        suggestions = s.app.desk.page.query_one(Suggestions)
        assert not suggestions.display
        await s.press("/", "u")
        assert suggestions.display
        assert s.shows("/undo", "Take the last question and its answer back.")
        await s.press("tab")
        assert s.prompt.text == "/undo "
        await s.press(*["backspace"] * 6, "/", "down")
        await s.press("tab")
        assert s.prompt.text == "/new "


async def test_half_a_command_is_completed_before_it_is_sent(start):
    async with start() as s:
        await s.press("/", "u", "n", "enter")
        assert s.prompt.text == "/undo "
        await s.press("enter")
        assert s.shows("There is nothing to take back.")


async def test_arguments_are_completed_too(start):
    async with start() as s:
        await s.press(*"/theme mono")
        await s.press("tab")
        assert s.prompt.text.strip() == "/theme monokai"
