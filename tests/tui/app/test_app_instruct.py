"""The single-instruction mode: an instruction, its input, the result apart, and nothing carried over."""

import pytest

from bq.runtime.prompt import Message


async def test_instruction_and_input_are_one_message_and_the_result_stands_apart(start, fake):
    fake.answers = ["a **summary**"]
    async with start(mode="instruct", system="Be brief.", size=(90, 40)) as s:
        s.app.desk.view.material.load_text("a long text")
        await s.ask("Summarise")
        assert fake.asked == [(Message("system", "Be brief."), Message("user", "Summarise\n\na long text"))]
        assert s.shows("Summarise", "a long text", "Result", "a summary")


async def test_nothing_is_carried_over_and_the_fields_stay(start, fake):
    fake.answers = ["first result", "second result"]
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("one")
        assert s.prompt.text == "one"
        await s.ask("two")
        assert fake.asked[1] == (Message("user", "two"),)
        assert s.shows("second result")
        assert not s.shows("first result")


async def test_f2_switches_and_both_sides_are_kept(start, fake):
    fake.answers = ["chat answer", "task result"]
    async with start(size=(90, 40)) as s:
        await s.ask("chat question")
        await s.press("f2")
        assert s.shows("Instruction", "Input (optional)")
        assert not s.shows("chat answer")
        await s.ask("do it")
        assert fake.asked[1] == (Message("user", "do it"),)
        assert s.shows("task result")
        await s.press("f2", "f2")
        assert s.shows("chat question", "chat answer")
        assert not s.shows("task result")
        await s.ask("more")
        assert [m.content for m in fake.asked[2]] == ["chat question", "chat answer", "more"]


async def test_an_answer_goes_on_while_the_other_mode_is_shown(start, fake):
    fake.answers = ["chat answer"]
    fake.writing.shut()
    fake.hold_after = 1
    async with start(size=(90, 40)) as s:
        await s.send("x")
        await s.press("f2")
        await s.press("ctrl+n")
        assert s.shows("Still answering")
        fake.writing.open()
        await s.ready()
        assert not s.shows("chat answer")
        await s.press("f2", "f2")
        assert s.shows("chat answer")


@pytest.mark.parametrize("how", ["key", "mouse"])
async def test_the_result_is_copied(start, fake, how):
    fake.answers = ["the **result**"]
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("x")
        if how == "key":
            await s.press("ctrl+o")
        else:
            await s.pilot.click("#copy-answer")
        await s.until(lambda: s.app.clipboard == "the **result**")


async def test_an_input_without_an_instruction_is_not_sent(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        s.app.desk.view.material.load_text("text")
        await s.press("tab", "enter")
        assert fake.asked == []


async def test_enter_in_the_input_runs_too(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.press("g", "o", "tab", "t", "ctrl+j", "u", "enter")
        await s.ready()
        assert fake.asked == [(Message("user", "go\n\nt\nu"),)]


async def test_ctrl_n_empties_the_fields_and_the_result(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("x")
        await s.press("ctrl+n")
        assert (s.prompt.text, s.app.desk.view.material.text) == ("", "")
        assert not s.shows("An answer.")
        await s.press("ctrl+r")
        assert s.shows("There is no answer yet.")


async def test_esc_keeps_the_partial_result(start, fake):
    fake.answers = ["partial result that never ends"]
    fake.writing.shut()
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.send("x")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer))
        await s.press("escape")
        await s.ready()
        assert s.shows(s.app.desk.conversation.last_answer.strip(), "Stopped")


async def test_a_failure_keeps_the_fields(start, fake):
    fake.error_at = 0
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("do it")
        assert s.prompt.text == "do it"
        assert s.shows("The engine broke.")
        fake.error_at = None
        await s.press("ctrl+r")
        await s.ready()
        assert s.shows("An answer.")
        assert not s.shows("The engine broke.")


@pytest.mark.parametrize(("width", "is_beside"), [(90, False), (120, True)])
async def test_a_wide_terminal_has_the_result_beside_the_task(start, width, is_beside):
    async with start(mode="instruct", size=(width, 30)) as s:
        task, outcome = s.app.screen.query_one("#task").region, s.app.screen.query_one("#outcome").region
        assert (outcome.y == task.y) is is_beside
