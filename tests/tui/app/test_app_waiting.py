"""A message that is sent before the model is ready waits for it, alone, and can be had back."""

from textual.screen import Screen

from .test_app_conversations import kept


async def test_one_message_waits_and_is_sent_when_the_answer_is_whole(start, fake):
    fake.answers = ["one", "two"]
    fake.reading.shut()
    async with start() as s:
        await s.send("first")
        await s.send("second")
        assert s.shows("Waiting to be sent (Esc or Up takes it back): second")
        await s.press(*"later")
        assert s.app.desk.page.draft() == "second\nlater", "neither is lost if the program ends now"
        fake.reading.open()
        await s.until(lambda: s.shows("two"))
        await s.ready()
        assert [m.content for m in fake.asked[-1]] == ["first", "one", "second"]
        assert s.prompt.text == "later"
        assert not s.shows("Waiting to be sent")
        await s.until(lambda: kept()[0].draft == "later")


async def test_esc_takes_it_back_and_stops_the_answer_only_after_that(start, fake):
    fake.reading.shut()
    async with start() as s:
        await s.send("first")
        await s.send("second")
        await s.press(*"xy", "escape")
        assert s.prompt.text == "second\nxy"
        assert not s.app.engine.job.cancel.is_set()
        await s.press("escape")
        await s.ready()
        assert len(fake.asked) == 1


async def test_up_takes_it_back(start, fake):
    fake.reading.shut()
    async with start() as s:
        await s.send("first")
        await s.send("second")
        await s.press("up")
        assert (s.prompt.text, s.app.desk.view.waiting.message) == ("second", None)
        fake.reading.open()
        await s.ready()
        assert len(fake.asked) == 1


async def test_it_waits_for_a_model_that_could_not_be_loaded(start, fake):
    fake.loading.shut()
    fake.load_error = OSError("no such file")
    async with start(load=False) as s:
        await s.send("hello")
        fake.loading.open()
        await s.ready()
        assert s.shows("Waiting to be sent")
        fake.load_error = None
        await s.press("ctrl+r")
        await s.until(lambda: bool(fake.asked))
        assert fake.asked[-1][-1].content == "hello"


async def test_a_single_instruction_waits_as_it_was_written(start, fake):
    fake.reading.shut()
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.send("first")
        await s.send("second")
        await s.press("end", *" more")
        fake.reading.open()
        await s.until(lambda: len(fake.asked) == 2)
        assert fake.asked[-1][-1].content == "second"
        assert s.prompt.text == "second more"


async def test_nothing_is_sent_while_two_models_are_compared_or_the_app_ends(start, fake):
    class Comparing(Screen[None]):
        asks_the_model = True

    fake.reading.shut()
    async with start() as s:
        await s.send("first")
        await s.send("second")
        await s.app.push_screen(Comparing())
        fake.reading.open()
        await s.ready()
        await s.pilot.pause()
        assert len(fake.asked) == 1
        s.app.pop_screen()
        await s.press("ctrl+q")
        await s.until(lambda: not s.app.is_running)
    assert len(fake.asked) == 1
    assert [one.draft for one in kept()] == ["second"]
