"""What was said is kept, comes back as it was, and is listed."""

import sqlite3
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.tui import store as store_module
from bq.tui.conversation import Conversation, Node, new_id
from bq.tui.store import Store

from .common import ids, public, talk

# What is saved comes back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
STOPS = st.sampled_from(["end", "length", "stop", "cancel", "error", "incomplete"])
SECONDS = st.floats(0, 1e11)


@st.composite
def trees(draw: st.DrawFn) -> Conversation:
    made = Conversation(
        mode=draw(st.sampled_from(["chat", "instruct", "complete"])),
        system=draw(TEXT),
        title=draw(TEXT),
        draft=draw(TEXT),
        created=draw(SECONDS),
    )
    for _ in range(draw(st.integers(1, 8))):
        parent = draw(st.sampled_from([None, *made.nodes]))
        role = "assistant" if parent and made.nodes[parent].role == "user" else "user"
        node = Node(
            new_id(), parent, role, draw(TEXT), draw(STOPS), draw(TEXT), draw(st.booleans()), draw(SECONDS),
            draw(st.integers(0, 1 << 40)), draw(SECONDS),
        )  # fmt: skip
        made.nodes[node.id] = node
    made.head = draw(st.sampled_from([None, *made.nodes]))
    return made


@settings(max_examples=25, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=3))
def test_whatever_was_saved_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, made: list[Conversation]
) -> None:
    path = tmp_path_factory.mktemp("store") / "c.db"
    store = Store.open(path)
    for conversation in made:
        store.save(conversation, conversation.nodes.values())
    store.close()
    again = Store.open(path)
    for conversation in made:
        assert public(again.load(conversation.id)) == public(conversation)
    again.close()


def test_every_field_of_a_message_is_kept() -> None:
    assert list(store_module._NODE) == [one.name for one in fields(Node)]


def test_an_answer_is_kept_as_it_grows_and_no_message_is_written_twice(store: Store) -> None:
    made = talk("question")
    store.save(made)
    made.begin("model")
    for piece in ("one ", "two ", "three"):
        made.write(piece)
        store.save(made, [made.nodes[made.head or ""]])
    answer = made.finish("length", 3, 1.5)
    assert answer is not None
    store.save(made, [answer])
    assert public(store.load(made.id)) == public(made)
    answer.content += " and on"
    store.save(made)
    assert store.load(made.id).nodes[answer.id].content == "one two three"  # type: ignore[union-attr]


def test_a_message_that_an_earlier_save_could_not_keep_comes_with_the_next(store: Store) -> None:
    made = talk("one", "1", "two", "2")
    store.save(made, [made.nodes[made.head or ""]])
    assert public(store.load(made.id)) == public(made)


def test_an_answer_whose_writer_died_is_stopped_in_memory_alone(store: Store, path: Path) -> None:
    made = talk("question")
    open_answer = made.begin()
    made.write("half an ans")
    store.save(made)
    loaded = store.load(made.id)
    assert loaded is not None
    assert (loaded.last_answer, loaded.nodes[open_answer.id].stop) == ("half an ans", "cancel")
    assert sqlite3.connect(path).execute("SELECT stop FROM node WHERE id = ?", (open_answer.id,)).fetchone() == ("",)


def test_an_answer_whose_writer_died_before_the_first_word_gives_its_place_back(store: Store) -> None:
    made = talk("question", "first answer")
    before = public(made)
    made.begin()
    store.save(made)
    assert public(store.load(made.id)) == before


def test_what_brought_nothing_is_forgotten_and_what_was_answered_is_not(store: Store, path: Path) -> None:
    made = talk("question", "answer")
    before = public(made)
    empty = made.begin()
    store.save(made)
    made.finish("error")
    store.forget(made.id, empty.id)
    store.forget(made.id, next(iter(made.nodes)))
    store.forget("no such", "message")
    assert sqlite3.connect(path).execute("SELECT count(*) FROM node").fetchone() == (2,)
    store.save(made)
    assert public(store.load(made.id)) == before


def test_a_conversation_of_nothing_is_not_kept(store: Store) -> None:
    made = Conversation(title="title", system="system")
    store.save(made)
    assert (ids(store), store.load(made.id), store.latest()) == ([], None, None)
    made.draft = "a thought"
    store.save(made)
    assert [one.heading for one in store.listed()] == ["title"]
    made.draft = ""
    store.save(made)
    assert ids(store) == []


def test_half_of_a_surrogate_pair_does_no_harm(store: Store) -> None:
    made = talk("a \ud800 b")
    made.title = "\udfff"
    store.save(made)
    assert [one.content for one in store.load(made.id).path()] == ["a ? b"]  # type: ignore[union-attr]


# The list


def test_the_one_changed_last_comes_first(store: Store, clock: Callable[[float], None]) -> None:
    first, second, task = talk("first", "1"), talk("second", "2"), talk("task", "3", mode="instruct")
    for made in (first, second, task):
        store.save(made)
        clock(1)
    assert ids(store) == [task.id, second.id, first.id]
    assert ids(store, mode="chat") == [second.id, first.id]
    assert ids(store, limit=1) == [task.id]
    assert (store.latest(), store.latest("instruct"), store.latest("complete")) == (second.id, task.id, None)

    first.show(first.path()[0].id)
    first.title = "looked at"
    store.save(first)
    assert ids(store) == [task.id, second.id, first.id], "looking is no change"
    first.draft = "a thought"
    store.save(first)
    clock(1)
    second.ask("more")
    store.save(second)
    assert ids(store) == [second.id, first.id, task.id]


def test_the_list_says_what_a_conversation_is_about(store: Store) -> None:
    made = talk("line\none " + "long " * 30, "answer", "again", "answer", mode="instruct")
    store.save(made)
    (one,) = store.listed()
    assert (one.heading[:14], len(one.heading), one.mode, one.rounds, one.snippet) == (
        "line one long ",
        60,
        "instruct",
        2,
        "",
    )
    store.rename(made.id, "名字")
    assert [one.heading for one in store.listed()] == ["名字"]
    assert store.load(made.id).title == "名字"  # type: ignore[union-attr]
    store.rename(made.id, "")
    assert store.listed() == [one]


def test_a_deleted_conversation_can_be_restored_for_30_days(
    store: Store, path: Path, clock: Callable[[float], None]
) -> None:
    gone, back, stays = talk("gone away", "1"), talk("comes back", "2"), talk("stays", "3")
    for made in (gone, back, stays):
        store.save(made)
    store.delete(gone.id)
    store.delete(back.id)
    assert (ids(store), ids(store, "gone"), store.load(back.id), store.questions()) == ([stays.id], [], None, ["stays"])
    clock(29 * 86400)
    Store.open(path).close()
    store.restore(back.id)
    assert public(store.load(back.id)) == public(back)
    clock(2 * 86400)
    Store.open(path).close()
    store.restore(gone.id)
    assert store.load(gone.id) is None
    assert len(ids(store)) == 2
    db = sqlite3.connect(path)
    for table in ("node", "text_index"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (4,)


def test_questions_come_once_and_the_newest_first(store: Store) -> None:
    made = talk("old", "answer", "twice", "answer", "new", "answer")
    store.save(made)
    store.save(talk("twice"))
    assert store.questions() == ["twice", "new", "old"]
    assert store.questions(limit=2) == ["twice", "new"]


def test_system_prompts_are_kept_by_name(store: Store) -> None:
    store.save_system_prompt("translator", "old")
    store.save_system_prompt("poet", "写诗")
    store.save_system_prompt("translator", "new")
    assert store.system_prompts() == [("poet", "写诗"), ("translator", "new")]
    store.delete_system_prompt("poet")
    store.delete_system_prompt("never was")
    assert store.system_prompts() == [("translator", "new")]
