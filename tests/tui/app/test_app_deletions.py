"""What is deleted comes back by the list and by /undo alike, and nothing else goes with it."""

from bq.tui import app_kept

from .test_app_conversations import kept, store_conversations, talk


def headings() -> set[str]:
    return {one.heading for one in kept()}


async def test_an_empty_conversation_is_not_deleted_in_place_of_the_last_one(start, fake):
    async with start() as s:
        await s.ask("kept question")
        await s.send("/delete")
        await s.until(lambda: headings() == set())
        await s.send("/delete")
        await s.until(lambda: s.shows("nothing kept here to delete"))
        await s.send("/undo")
        await s.until(lambda: s.shows("kept question", "An answer."))
        assert headings() == {"kept question"}


async def test_what_the_list_deleted_comes_back_by_undo_and_in_the_list_that_is_opened_again(start, fake):
    store_conversations(talk("older", "a"), talk("newer", "b"))
    async with start() as s:
        await s.ask("open one")
        await s.press("f3")
        await s.until(lambda: s.shows("older", "newer"))
        await s.press("down", "f8")
        await s.until(lambda: len(headings()) == 2)
        await s.press("down", "f8")
        await s.until(lambda: headings() == {"open one"})
        await s.press("escape", "f3")
        await s.until(lambda: s.shows("Ctrl+Z brings back"))
        await s.press("ctrl+z")
        await s.until(lambda: len(headings()) == 2)
        await s.press("escape")
        await s.send("/undo")
        await s.until(lambda: headings() == {"open one", "older", "newer"})


async def test_undo_takes_a_question_back_that_was_asked_after_a_deletion(start, fake):
    store_conversations(talk("older", "a"))
    async with start() as s:
        await s.press("f3")
        await s.until(lambda: s.shows("older"))
        await s.press("f8")
        await s.until(lambda: headings() == set())
        await s.press("escape")
        await s.ask("asked since")
        await s.send("/undo")
        await s.until(lambda: s.prompt.text == "asked since")
        assert "older" not in headings()


async def test_a_conversation_that_is_open_in_another_mode_goes_from_there(start, fake):
    single = talk("do it", "done", mode="instruct")
    store_conversations(single)
    async with start(size=(90, 40)) as s:
        await app_kept.open_conversation(s.app, single.id)
        await s.press("f2", "f2")
        assert s.app.desk_mode == "chat"
        await s.ask("chat question")
        await s.send("/delete 2")
        await s.until(lambda: headings() == {"chat question"})
        assert s.shows("chat question", "An answer.")
        assert s.app.desks["instruct"].conversation.id != single.id
        await s.press("f2")
        assert not s.shows("done")
