"""Conversations are kept by themselves, found by their texts, opened again, renamed, deleted and brought back."""

import asyncio
import sqlite3

from textual.widgets import Input

from bq.tui import app_kept
from bq.tui.conversation import Conversation
from bq.tui.dialogs.conversations import ConversationsScreen
from bq.tui.dialogs.small import Entry
from bq.tui.store import Store, store_path


def kept() -> list[Conversation]:
    """What a second program finds in the store now."""
    store = Store.open()
    try:
        return [found for one in store.listed() if (found := store.load(one.id))]
    finally:
        store.close()


def talk(question: str, answer: str, **fields) -> Conversation:
    made = Conversation(**fields)
    made.ask(question)
    made.begin("Model")
    made.write(answer)
    made.finish("end")
    return made


def store_conversations(*conversations: Conversation) -> None:
    store = Store.open()
    for one in conversations:
        store.save(one, one.nodes.values())
    store.close()


async def test_each_message_is_kept_at_once(start, fake):
    fake.answers = ["first"]
    async with start() as s:
        await s.ask("one")
        await s.until(lambda: [one.content for one in kept()[0].path()] == ["one", "first"] if kept() else False)
        (found,) = kept()
        assert found.path()[1].model == "Baichuan2-7B-Chat"
        assert found.path()[1].stop == "end"


async def test_an_answer_is_kept_while_it_is_written(start, fake):
    fake.answers = ["one two three four " * 20]
    fake.writing.shut()
    async with start() as s:
        await s.send("count")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer))
        fake.piece_seconds = 0.3
        fake.writing.open()
        await s.until(lambda: bool(kept()) and len(kept()[0].path()) == 2)
        assert s.app.engine.busy, "it is not through yet"
        await s.press("escape")


async def test_what_is_written_and_not_sent_is_kept(start):
    async with start() as s:
        await s.press(*"unsent")
        await s.until(lambda: [one.draft for one in kept()] == ["unsent"])
        id = s.app.desk.conversation.id
    async with start(resume=id) as s:
        await s.until(lambda: s.prompt.text == "unsent")


async def test_quitting_in_the_middle_keeps_what_was_shown(start, fake):
    fake.answers = ["partial answer that never ends"]
    fake.writing.shut()
    async with start() as s:
        await s.send("one")
        await s.until(lambda: bool(s.app.desk.conversation.last_answer))
        await s.press("ctrl+q")
        await s.until(lambda: not s.app.is_running)
    await asyncio.sleep(0)
    (found,) = kept()
    assert "partial answer that never ends".startswith(found.last_answer)
    assert found.last_answer
    assert found.path()[1].stop == "cancel"


async def test_a_conversation_is_resumed_with_its_branch(start, fake):
    made = talk("one", "first", system="Be brief.")
    made.begin("Model")
    made.write("second")
    made.finish("length")
    store_conversations(made)
    async with start(resume=made.id) as s:
        await s.until(lambda: s.shows("one", "second", "‹2/2›", "Cut off"))
        await s.ask("next")
        assert [m.content for m in fake.asked[-1]] == ["Be brief.", "one", "second", "next"]


async def test_the_list_finds_chinese_and_opens_what_was_found(start):
    store_conversations(talk("量化是什么？", "把权重压缩"), talk("What is RoPE?", "rotation"))
    async with start(size=(90, 30)) as s:
        await s.press("f3")
        await s.until(lambda: s.shows("量化是什么？", "What is RoPE?"))
        await s.press("权", "重")
        await s.until(lambda: not s.shows("What is RoPE?"))
        assert s.shows("把权重压缩")
        await s.press("enter")
        await s.until(lambda: s.shows("量化是什么？", "把权重压缩") and len(s.app.screen_stack) == 1)
        assert s.app.desk.conversation.heading == "量化是什么？"


async def test_rename_delete_and_undo_in_the_list(start):
    store_conversations(talk("alpha", "a"), talk("beta", "b"))
    async with start(size=(90, 30)) as s:
        await s.press("f3")
        await s.until(lambda: s.shows("alpha", "beta"))
        await s.press(*"alpha")
        await s.until(lambda: not s.shows("beta"))
        await s.press("f2")
        await s.until(lambda: isinstance(s.app.screen, Entry))
        s.app.screen.query_one(Input).value = "gamma"
        await s.press("enter")
        await s.until(lambda: s.shows("gamma"))
        await s.press("f8")
        await s.until(lambda: s.shows("Nothing was found."))
        await s.press("ctrl+z")
        await s.until(lambda: s.shows("gamma"))
        assert isinstance(s.app.screen, ConversationsScreen)
    assert {one.heading for one in kept()} == {"gamma", "beta"}


async def test_a_conversation_is_not_deleted_while_its_answer_is_written(start, fake):
    async with start(size=(90, 30)) as s:
        fake.writing.shut()
        await s.send("one")
        await s.until(lambda: s.shows("writing"))
        await s.press("f3")
        await s.until(lambda: s.shows("● one"))
        await s.press("f8")
        await s.until(lambda: s.shows("An answer is being written in this one"))
        fake.writing.open()
    assert len(kept()) == 1


async def test_single_instructions_are_kept_each_on_its_own(start, fake):
    async with start(mode="instruct", size=(90, 40)) as s:
        await s.ask("one")
        await s.ask("two")
    assert sorted((one.mode, one.heading) for one in kept()) == [("instruct", "one"), ("instruct", "two")]


async def test_two_windows_on_one_conversation_keep_both_their_words(start, fake):
    made = talk("one", "first")
    store_conversations(made)
    async with start(resume=made.id) as s:
        await s.until(lambda: s.shows("first"))
        other = kept()[0]
        other.ask("from the other window")
        store_conversations(other)
        await s.ask("from this window")
    texts = {node.content for node in kept()[0].nodes.values()}
    assert {"from the other window", "from this window"} <= texts


async def test_a_store_that_cannot_be_used_is_told_and_the_chat_goes_on(start, fake):
    path = store_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"this is no database, and it is long enough to be told from one" * 100)
    before = path.read_bytes()
    async with start() as s:
        await s.until(lambda: s.shows("conversations.db"))
        await s.ask("one")
        assert s.shows("An answer.")
    assert path.read_bytes() == before


async def test_the_earlier_questions_of_all_conversations_come_back_with_up(start):
    store_conversations(talk("alpha", "a"))
    async with start() as s:
        await s.until(lambda: bool(s.prompt._earlier))
        await s.press("up")
        assert s.prompt.text == "alpha"


async def test_an_answer_that_brought_nothing_is_not_kept(start, fake):
    fake.reading.shut()
    async with start() as s:
        await s.send("one")
        await s.until(lambda: s.shows("reading the prompt"))
        await s.press("escape")
        await s.ready()
    (found,) = kept()
    assert [node.role for node in found.path()] == ["user"]


async def test_the_stored_file_is_the_users_alone(start):
    async with start() as s:
        await s.ask("one")
    assert store_path().stat().st_mode & 0o077 == 0
    with sqlite3.connect(store_path()) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_only_the_sessions_own_conversation_is_kept_in_its_file(start, fake, tmp_path):
    from bq.tui.kept_session import session_in_use

    with session_in_use(str(tmp_path / "s")) as session:
        async with start(session=session) as s:
            await s.ask("first")
            await s.press("ctrl+n")
            await s.ask("second")
    assert [said[0].content for said in fake.saved] == ["first"]
    assert [one.heading for one in kept()] == ["second"], "the store has what the file has not"


async def test_an_input_without_an_instruction_is_a_draft_too(start):
    async with start(mode="instruct", size=(90, 40)) as s:
        s.app.desk.view.material.load_text("long input")
        await s.until(lambda: [one.draft for one in kept()] == ["\n\nlong input"])
        id = s.app.desk.conversation.id
    async with start(resume=id, size=(90, 40)) as s:
        await s.until(lambda: s.app.desk_mode == "instruct")
        assert (s.prompt.text, s.app.desk.view.material.text) == ("", "long input")


async def test_what_was_being_written_outlives_a_switch_to_another_conversation(start):
    other = talk("other", "answer", draft="its own draft")
    store_conversations(other)
    async with start() as s:
        await s.press(*"mine")
        first = s.app.desk.conversation.id
        await app_kept.open_conversation(s.app, other.id)
        assert s.prompt.text == "its own draft"
        await s.until(lambda: {one.id: one.draft for one in kept()} == {first: "mine", other.id: "its own draft"})


async def test_a_recalled_question_is_not_the_draft(start):
    async with start() as s:
        await s.ask("asked")
        await s.press(*"new", "up")
        assert s.prompt.text == "asked"
        await s.until(lambda: [one.draft for one in kept()] == ["new"])


async def test_a_save_that_failed_is_made_up_by_the_next_one(start, monkeypatch):
    from bq.runtime.errors import BqError

    async with start() as s:
        save, fails = Store.save, [True]

        def held(store, conversation, nodes=()):
            if fails[0]:
                raise BqError("The disk is full.")
            save(store, conversation, nodes)

        monkeypatch.setattr(Store, "save", held)
        await s.ask("one")
        await s.until(lambda: s.shows("The disk is full."))
        fails[0] = False
        await s.press("x")
        await s.until(lambda: bool(kept()) and len(kept()[0].path()) == 2)
        assert kept()[0].path()[1].content == s.app.desk.conversation.last_answer
