"""What can be done with messages: reached by keys and mouse, copied, edited, forked, pinned, and shown in other versions."""

from bq.runtime.prompt import Message
from bq.tui import app_kept
from bq.tui.dialogs.compare import VersionsScreen
from bq.tui.dialogs.small import Choice, Editor
from bq.tui.widgets.message import Answer, Question


def focused(s):
    return s.app.screen.focused


async def test_ctrl_up_goes_through_the_messages_and_back_to_writing(start):
    async with start() as s:
        await s.ask("one")
        await s.press("ctrl+up")
        assert isinstance(focused(s), Answer)
        await s.press("up")
        assert isinstance(focused(s), Question)
        await s.press("up")
        assert isinstance(focused(s), Question), "there is none above"
        await s.press("down", "down")
        assert focused(s) is s.prompt
        await s.press("ctrl+up", "escape", "y")
        assert s.prompt.text == "y"


async def test_a_message_and_its_blocks_of_code_are_copied(start, fake):
    fake.answers = ["Two:\n\n```sh\nls\n```\n\n- x\n  ```\n  pwd\n  ```\n"]
    async with start() as s:
        await s.ask("one")
        await s.press("ctrl+up", "b")
        assert s.app.clipboard == "ls"
        assert s.shows("Copied block 1 of 2")
        await s.press("b")
        assert s.app.clipboard == "pwd"
        await s.press("b")
        assert s.app.clipboard == "ls"
        await s.press("c")
        assert s.app.clipboard.startswith("Two:")
        await s.press("up", "b")
        assert s.shows("There is no block of code in it.")


async def test_a_click_on_a_block_of_code_copies_it(start, fake):
    fake.answers = ["```sh\nls -l\n```\n"]
    async with start() as s:
        await s.ask("one")
        await s.pilot.click(s.answer.query_one("_Fence"))
        assert s.app.clipboard == "ls -l"


async def test_editing_asks_anew_and_the_old_words_are_a_version(start, fake):
    fake.answers = ["first", "second", "third"]
    async with start() as s:
        await s.ask("one")
        await s.ask("two")
        await s.press("ctrl+up", "up", "up", "up", "e")
        await s.until(lambda: isinstance(s.app.screen, Editor))
        await s.press(*"!!", "ctrl+s")
        await s.ready()
        assert fake.asked[-1] == (Message("user", "one!!"),)
        assert s.shows("one!!", "‹2/2›", "third")
        assert not s.shows("second")
        await s.press("ctrl+up", "up", "left")
        await s.pilot.pause()
        assert s.shows("first", "two", "second", "‹1/2›")


async def test_versions_of_an_answer_are_kept_and_stand_side_by_side(start, fake):
    fake.answers = ["the red fox", "the blue fox"]
    async with start() as s:
        await s.ask("one")
        await s.press("ctrl+r")
        await s.ready()
        assert s.shows("the blue fox", "‹2/2›")
        await s.press("ctrl+up", "v")
        await s.until(lambda: isinstance(s.app.screen, VersionsScreen))
        assert s.shows("the red fox", "the blue fox")
        await s.press("escape", "left")
        await s.pilot.pause()
        assert s.shows("the red fox", "‹1/2›")
        await s.press("escape")
        await s.ask("two")
        assert [m.content for m in fake.asked[-1]] == ["one", "the red fox", "two"]


async def test_a_fork_goes_on_and_leaves_the_conversation_as_it_is(start, fake):
    fake.answers = ["first", "second", "other"]
    async with start() as s:
        await s.ask("one")
        await s.ask("two")
        old = s.app.desk.conversation
        await s.press("ctrl+up", "up", "up", "f")
        await s.until(lambda: s.app.desk.conversation is not old)
        assert s.shows("one", "first")
        assert not s.shows("second")
        await s.ask("three")
        assert [m.content for m in fake.asked[-1]] == ["one", "first", "three"]
        assert [one.question.content for one in old.rounds] == ["one", "two"]
        assert old.id != s.app.desk.conversation.id


async def test_a_pinned_round_is_marked_and_sent_as_such(start, fake):
    async with start() as s:
        await s.ask("one")
        await s.press("ctrl+up", "p")
        assert s.shows("You · pinned")
        await s.press("escape")
        await s.ask("two")
        assert fake.keywords["pinned"] == {0}
        await s.press("ctrl+up", "up", "up", "p")
        assert not s.shows("You · pinned")


async def test_the_menu_opens_by_key_and_by_a_click_on_the_name(start, fake):
    async with start(size=(90, 40)) as s:
        await s.ask("one")
        await s.press("ctrl+up", "enter")
        await s.until(lambda: isinstance(s.app.screen, Choice))
        assert s.shows("Copy", "Answer again", "Fork", "Pin the round")
        assert not s.shows("Versions side by side")
        await s.press("escape")
        await s.pilot.click(s.app.desk.view.query_one(Question).query_one(".role"))
        await s.until(lambda: isinstance(s.app.screen, Choice))
        assert s.shows("Edit and ask again")
        await s.press("enter")
        assert s.app.clipboard == "one"


async def test_what_changes_the_path_waits_for_the_answer(start, fake):
    async with start() as s:
        await s.ask("one")
        fake.writing.shut()
        await s.send("two")
        await s.until(lambda: s.shows("writing"))
        await s.press("ctrl+up", "up", "up", "f")
        assert s.shows("Still answering")
        assert len(s.app.desk.conversation.rounds) == 2


async def test_an_answer_is_continued_where_it_stopped(start, fake):
    fake.answers = ["one two three four five six", " seven"]
    fake.writing.shut()
    async with start() as s:
        await s.send("count")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer))
        await s.press("escape")
        await s.ready()
        partial = s.app.desk.conversation.last_answer
        assert s.shows("Stopped. Ctrl+G goes on.")
        fake.writing.open()
        await s.press("ctrl+g")
        await s.ready()
        assert fake.asked[-1] == (Message("user", "count"), Message("assistant", partial))
        assert s.app.desk.conversation.last_answer == partial + " seven"
        assert s.shows(partial + " seven")
        assert not s.shows("Stopped.")


async def test_there_is_nothing_to_go_on_with_at_the_start(start):
    async with start() as s:
        await s.press("ctrl+g")
        assert s.shows("There is no answer to go on with.")


async def test_what_was_thought_is_folded_and_opens_by_a_click(start, fake):
    fake.answers = ["<think>\nsecret steps\n</think>\n\nThe result.", "more"]
    async with start() as s:
        await s.ask("one")
        assert s.shows("▸ Thought (14 characters)", "The result.")
        assert not s.shows("secret steps")
        await s.pilot.click(s.answer.query_one(".fold"))
        assert s.shows("▾ Thought", "secret steps")
        await s.press("ctrl+up", "t")
        assert not s.shows("secret steps")
        await s.press("escape")
        await s.ask("two")
        assert [m.content for m in fake.asked[-1]] == ["one", "The result.", "two"]


async def test_a_long_conversation_shows_its_end_and_the_rest_when_asked(start, fake):
    from bq.tui.conversation import Conversation

    async with start() as s:
        made = Conversation()
        for n in range(40):
            made.ask(f"question {n}")
            made.begin()
            made.write(f"answer {n}")
            made.finish("end")
        await app_kept.show_conversation(s.app, made)
        await s.pilot.pause()
        assert len(s.app.desk.view.query(Question)) == 12
        assert s.shows("question 39")
        s.app.desk.view.log_area.scroll_home(animate=False)
        await s.pilot.pause()
        assert s.shows("earlier messages")
        await s.press("pageup")
        await s.until(lambda: len(s.app.desk.view.query(Question)) == 24)
        asked = [one.node.content for one in s.app.desk.view.query(Question)]
        assert asked == [f"question {n}" for n in range(16, 40)]
