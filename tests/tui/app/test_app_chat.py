"""The chat: questions, answers as they come, stopping, answering again, and the scroll position."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from textual import events

from bq.runtime.errors import BqError
from bq.runtime.prompt import Message
from bq.runtime.values import Sampling
from bq.tui import app_answers
from bq.tui.widgets.message import Question

from .fake import FakeModel


async def test_a_question_is_answered_and_the_box_is_empty_again(start, fake):
    fake.answers = ["Hello **you**."]
    async with start() as s:
        await s.ask("Hi [b]there[/b]")
        assert s.shows("You", "Hi [b]there[/b]", "Baichuan2-7B-Chat", "Hello you.", "12.5 tok/s", "ready")
        assert s.prompt.text == ""


async def test_several_rounds_are_sent_along(start, fake):
    fake.answers = ["first", "second"]
    async with start(system="Be brief.") as s:
        await s.ask("one")
        await s.ask("two")
        assert fake.asked[1] == (
            Message("system", "Be brief."),
            Message("user", "one"),
            Message("assistant", "first"),
            Message("user", "two"),
        )
        assert s.shows("one", "first", "two", "second")


async def test_sampling_and_length_are_passed_on(start, fake):
    async with start(sampling=Sampling(temperature=0), max_tokens=7) as s:
        await s.ask("x")
        assert (fake.keywords["sampling"], fake.keywords["max_tokens"]) == (Sampling(temperature=0), 7)


async def test_text_is_shown_while_it_is_written(start, fake):
    fake.answers = ["first block\n\nsecond **block** goes on and on"]
    fake.writing.shut()
    fake.hold_after = 7
    async with start() as s:
        await s.send("x")
        await s.until(lambda: s.shows("second", "writing"))
        assert not s.shows("goes on and on")
        fake.writing.open()
        await s.ready()
        assert s.shows("second block goes on and on")


async def test_the_prompt_is_read_with_a_percentage_and_esc_stops_it(start, fake):
    fake.reading.shut()
    async with start() as s:
        await s.send("a long question")
        await s.until(lambda: s.shows("reading the prompt 40%"))
        await s.press("escape")
        await s.ready()
        assert s.shows("a long question", "Stopped before the answer began", "ready")
        fake.reading.open()
        await s.ask("next")
        assert fake.asked[-1] == (Message("user", "next"),)


async def test_esc_while_writing_keeps_what_is_written_marked_as_stopped(start, fake):
    fake.answers = ["partial answer that never ends"]
    fake.writing.shut()
    async with start() as s:
        await s.send("x")
        await s.until(lambda: s.shows("writing") and bool(s.app.desk.conversation.last_answer))
        await s.press("escape")
        await s.ready()
        partial = s.app.desk.conversation.last_answer
        assert "partial answer that never ends".startswith(partial)
        assert s.shows(partial.strip(), "Stopped")
        assert not s.shows("never ends")


async def test_an_answer_cut_off_at_the_limit_says_so(start, fake):
    fake.stop = "length"
    async with start() as s:
        await s.ask("x")
        assert s.shows("Cut off: the limit of the length")


async def test_an_empty_answer_says_so(start, fake):
    fake.answers = [""]
    async with start() as s:
        await s.ask("x")
        assert s.shows("The model gave an empty answer.")


async def test_a_third_message_is_refused_while_one_waits_and_its_text_kept(start, fake):
    fake.writing.shut()
    async with start() as s:
        await s.send("first")
        await s.send("second")
        await s.send("third")
        assert s.shows("One message waits already", "Waiting to be sent (Esc or Up takes it back): second")
        assert s.prompt.text == "third"
        assert len(s.app.desk.conversation.rounds) == 1


async def test_nothing_is_sent_when_nothing_is_written(start, fake):
    async with start() as s:
        await s.send(" \n ")
        assert fake.asked == []
        assert not s.app.screen.query(Question)


async def test_a_question_that_fails_is_given_back_with_the_reason(start, fake):
    fake.answers = [BqError("The message needs 5000 tokens.", "Shorten it.")]
    async with start() as s:
        await s.ask("too long")
        assert s.shows("The message needs 5000 tokens.", "Shorten it.")
        assert s.prompt.text == "too long"
        await s.ask("shorter")
        assert fake.asked[-1] == (Message("user", "shorter"),)
        assert s.shows("An answer.")


async def test_a_failed_question_does_not_overwrite_what_is_being_written(start, fake):
    fake.error_at = 0
    fake.reading.shut()
    async with start() as s:
        await s.send("first")
        s.prompt.load_text("the next thing")
        fake.reading.open()
        await s.ready()
        assert s.prompt.text == "the next thing"
        assert s.shows("first", "The engine broke.")


async def test_an_answer_that_breaks_off_is_kept(start, fake):
    fake.answers = ["a beginning without an end"]
    fake.error_at = 3
    async with start() as s:
        await s.ask("x")
        assert s.shows(s.app.desk.conversation.last_answer.strip(), "Broken off", "The engine broke.", "Try again.")
        assert s.app.desk.conversation.last_answer
        assert s.prompt.text == ""


async def test_a_defect_of_the_engine_is_shown_and_the_app_lives_on(start, fake, monkeypatch):
    async with start() as s:
        with monkeypatch.context() as patch:
            patch.setattr(FakeModel, "chat", lambda self, messages, **keywords: 1 // 0)
            await s.ask("x")
        assert s.shows("ZeroDivisionError")
        await s.ask("y")
        assert s.shows("An answer.")


async def test_ctrl_r_answers_again_in_place(start, fake):
    fake.answers = ["first try", "second try"]
    async with start() as s:
        await s.ask("x")
        await s.press("ctrl+r")
        await s.ready()
        assert s.shows("second try")
        assert not s.shows("first try")
        assert fake.asked[1] == (Message("user", "x"),)


async def test_an_attempt_that_is_stopped_at_once_keeps_the_old_answer(start, fake):
    fake.answers = ["first try", "second try"]
    async with start() as s:
        await s.ask("x")
        fake.reading.shut()
        await s.press("ctrl+r")
        await s.until(lambda: s.shows("reading the prompt"))
        await s.press("escape")
        await s.ready()
        assert s.shows("first try", "No new answer")
        assert s.app.desk.conversation.last_answer == "first try"


async def test_ctrl_r_with_no_answer_says_so(start):
    async with start() as s:
        await s.press("ctrl+r")
        assert s.shows("There is no answer yet.")


async def test_ctrl_n_starts_a_new_conversation(start, fake):
    fake.answers = ["old answer", "new answer"]
    async with start() as s:
        await s.ask("old question")
        await s.press("ctrl+n")
        assert not s.shows("old question")
        assert s.shows("ctx 0 /")
        await s.ask("new question")
        assert fake.asked[1] == (Message("user", "new question"),)
        assert s.shows("new answer")


@pytest.mark.parametrize("key", ["ctrl+n", "ctrl+r"])
async def test_a_running_answer_is_not_thrown_away_by_a_key(start, fake, key):
    fake.writing.shut()
    async with start() as s:
        await s.send("x")
        await s.until(lambda: s.shows("writing"))
        await s.press(key)
        assert s.shows("Still answering")
        fake.writing.open()
        await s.ready()
        assert s.shows("An answer.")


@pytest.mark.parametrize("key", ["ctrl+n", "ctrl+r"])
async def test_an_answer_that_has_just_ended_is_shown_before_a_key_counts(start, fake, monkeypatch, key):
    """Its last text has come from the model, and the app has not looked yet."""
    fake.answers = ["the whole answer"]
    looks = asyncio.Event()
    async with start() as s:
        monkeypatch.setattr(app_answers, "asyncio", SimpleNamespace(sleep=lambda _: looks.wait()))
        await s.send("first")
        await s.until(lambda: s.app.desk.job is not None and s.app.desk.job.done)
        s.prompt.load_text("second")
        await s.press(key)
        assert s.shows("Still answering")
        looks.set()
        await s.ready()
        assert s.shows("first", "the whole answer")
        assert s.prompt.text == "second"
        assert [one.answer.content for one in s.app.desk.conversation.rounds] == ["the whole answer"]


async def test_a_count_that_comes_late_is_not_shown(start, fake, monkeypatch):
    async with start() as s:
        counted, may_end = threading.Event(), threading.Event()
        measure = s.app.engine.measure

        def held(*arguments):
            unsent = measure(*arguments)
            counted.set()
            may_end.wait(60)
            return unsent

        monkeypatch.setattr(s.app.engine, "measure", held)
        s.prompt.load_text("some text")
        await s.until(counted.is_set)
        await s.press("enter")
        await s.ready()
        may_end.set()
        await s.app.workers.wait_for_complete()
        await s.pilot.pause()
        assert s.app.desk.unsent is None
        assert not s.shows("to send")


async def test_a_count_that_comes_late_has_what_is_written_now_counted(start, fake, monkeypatch):
    """While the first one is under way there is no second one."""
    async with start() as s:
        counted, may_end = threading.Event(), threading.Event()
        measure = FakeModel.measure

        def held(*arguments):
            counted.set()
            may_end.wait(60)
            return measure(*arguments)

        monkeypatch.setattr(FakeModel, "measure", held)
        s.prompt.load_text("some text")
        await s.until(counted.is_set)
        s.prompt.load_text("longer text")
        await asyncio.sleep(0.3)
        may_end.set()
        await s.until(lambda: s.shows("to send 13 /"))


async def test_ctrl_o_copies_the_last_answer_as_written(start, fake):
    fake.answers = ["Hello **you**."]
    async with start() as s:
        await s.press("ctrl+o")
        assert s.shows("There is no answer yet.")
        await s.ask("x")
        await s.press("ctrl+o")
        assert s.app.clipboard == "Hello **you**."
        await s.until(lambda: fake.copied == ["Hello **you**."])
        assert s.shows("Copied 14 characters.")


async def test_left_out_rounds_are_told(start, fake):
    fake.dropped_rounds = 2
    fake.context_used = 3500
    async with start() as s:
        await s.ask("x")
        assert s.shows("2 oldest rounds left out", "ctx 3.5k / 4.1k (85%)")


LONG = "\n\n".join(f"paragraph {n}" for n in range(60))


async def test_the_end_is_followed_while_text_comes(start, fake):
    fake.answers = [LONG]
    async with start() as s:
        await s.ask("x")
        assert s.shows("paragraph 59")
        assert not s.shows("paragraph 1\n")


async def test_the_scroll_position_is_kept_when_the_user_has_scrolled_up(start, fake):
    fake.answers = [LONG, LONG]
    async with start() as s:
        await s.ask("x")
        fake.writing.shut()
        fake.hold_after = 40
        await s.send("y")
        await s.until(lambda: s.shows("writing"))
        await s.press("pageup", "pageup")
        log = s.app.desk.view.log_area
        position = log.scroll_y
        assert position < log.max_scroll_y
        fake.writing.open()
        await s.ready()
        assert log.scroll_y == position
        await s.press(*["pagedown"] * 8)
        assert s.shows("paragraph 59")


async def test_a_new_question_goes_to_the_end_again(start, fake):
    fake.answers = [LONG, "the short answer"]
    async with start() as s:
        await s.ask("x")
        await s.press("pageup")
        await s.ask("y")
        assert s.shows("the short answer")


async def test_the_mouse_wheel_scrolls(start, fake):
    fake.answers = [LONG]
    async with start() as s:
        await s.ask("x")
        log = s.app.desk.view.log_area
        end = log.scroll_y
        await s.pilot._post_mouse_events([events.MouseScrollUp], widget=log)
        await s.until(lambda: log.scroll_y < end)


async def test_a_click_on_a_link_opens_nothing_and_copies_the_address(start, fake, monkeypatch):
    fake.answers = ["[click](http://evil.example/%1b%5D52)"]
    async with start() as s:
        opened = []
        monkeypatch.setattr(s.app, "open_url", lambda *a, **k: opened.append(a))
        await s.ask("x")
        await s.pilot.click(s.answer.query_one("MarkdownParagraph"), offset=(1, 0))
        await s.until(lambda: s.shows("Copied the link: http://evil.example/]52"))
        assert opened == []
        assert s.app.clipboard == "http://evil.example/]52"


async def test_no_control_character_of_an_answer_reaches_the_terminal(start, fake):
    fake.answers = ["<http://x/%1b%5B31mred> and \x1b]0;title\x07"]
    async with start() as s:
        await s.ask("x")
        assert s.shows("http://x/[31mred and ]0;title")


async def test_quitting_in_the_middle_of_an_answer_frees_the_model(start, fake):
    fake.writing.shut()
    async with start() as s:
        await s.send("x")
        await s.until(lambda: s.shows("writing"))
        await s.press("ctrl+q")
        await s.until(lambda: not s.app.is_running)
    await asyncio.sleep(0)
    assert fake.open_models == 0
