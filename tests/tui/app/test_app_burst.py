"""Keys that come faster than they are handled, as an input method commits a text with the Enter behind it."""

from textual import events


def burst(app, keys):
    """All keys at once, before the app has handled the first."""
    for key in keys:
        app.post_message(events.Key(key, key if len(key) == 1 else None))


async def test_enter_sends_the_letters_that_came_before_it_in_one_burst(start, fake):
    async with start() as s:
        burst(s.app, [*"go", "enter"])
        await s.until(lambda: bool(fake.asked))
        await s.ready()
        assert fake.asked[-1][-1].content == "go"
        assert s.prompt.text == ""


async def test_a_line_break_stands_where_it_was_typed_in_a_burst(start):
    async with start() as s:
        burst(s.app, [*"ab", "ctrl+j", *"cd"])
        await s.until(lambda: len(s.prompt.text) == 5)
        assert s.prompt.text == "ab\ncd"
