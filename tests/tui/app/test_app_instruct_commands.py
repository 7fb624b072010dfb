"""Single instructions: commands work as in a conversation, and an output of a given form is shown as it is."""

import pytest

from bq.runtime.prompt import Message
from bq.tui.answer_form import AnswerForm

JSON = '{"a*b*c": "`x` __y__", "d": ["1. one", "# two"]}'


async def test_a_command_is_done_and_two_slashes_are_sent_as_one(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.press(*"/par")
        assert s.app.desk.view.suggestions.display
        await s.press("tab", "enter")
        await s.until(lambda: s.shows("repeat-penalty"))
        assert (fake.asked, s.prompt.text) == ([], "")
        await s.send("/nosuch")
        await s.until(lambda: s.shows("There is no command /nosuch"))
        s.app.desk.view.material.load_text("the text")
        await s.ask("//params")
        assert fake.asked == [(Message("user", "/params\n\nthe text"),)]
        assert s.prompt.text == "//params"


async def test_undo_brings_the_instruction_back_that_a_command_took_the_place_of(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        s.app.desk.view.material.load_text("the text")
        await s.ask("do it")
        s.app.desk.view.material.load_text("")
        await s.send("/undo")
        await s.until(lambda: s.prompt.text == "do it")
        assert s.app.desk.view.material.text == "the text"


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_an_output_of_a_given_form_is_shown_as_the_characters_it_is(start, fake, is_streamed):
    fake.answers = [JSON]
    async with start(mode="instruct", size=(90, 40)) as s:
        if is_streamed:
            s.app.desk.view.form = AnswerForm("json_schema", "{}")
        await s.ask("x")
        if not is_streamed:  # shown again on another day, when nobody knows of the form
            await s.app.show_path(s.app.desk, is_new=True)
        await s.until(lambda: s.shows(JSON))
        await s.press("ctrl+o")
        assert s.app.clipboard == JSON


async def test_an_output_of_free_text_is_markdown_still(start, fake):
    fake.answers = ["a **word**"]
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("x")
        assert s.shows("a word")
