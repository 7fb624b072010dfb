"""What was said is kept: whole after a crash, found again, private, beside other windows, and never at another file's cost."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError
from bq.runtime.language import set_language
from bq.runtime.prompt import Message
from bq.tui import store as store_module
from bq.tui import store_schema, store_search
from bq.tui.conversation import Conversation, Node, new_id
from bq.tui.store import Store, store_path
from bq.tui.store_schema import STEPS, connect

posix = pytest.mark.skipif(os.name == "nt", reason="signals and permissions of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(3600)`: it is so much later from now on."""
    later = 0.0
    real = time.time
    monkeypatch.setattr(store_module.time, "time", lambda: real() + later)

    def advance(seconds: float) -> None:
        nonlocal later
        later += seconds

    return advance


def talk(*texts: str, mode: Any = "chat") -> Conversation:
    """A conversation of these questions and answers in turn."""
    roles = ("user", "assistant")
    return Conversation.of([Message(roles[i % 2], text) for i, text in enumerate(texts)], mode)  # type: ignore[arg-type]


def public(conversation: Conversation | None) -> dict[str, Any]:
    """What must come back: the fields that are not those of an answer under way, and the messages in their order."""
    assert conversation is not None
    kept = {one.name: getattr(conversation, one.name) for one in fields(Conversation) if not one.name.startswith("_")}
    return {**kept, "nodes": list(conversation.nodes.values())}


def ids(store: Store, search: str = "", **keywords: Any) -> list[str]:
    return [one.id for one in store.listed(search, **keywords)]


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


# Searching


def small(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def has(conversation: Conversation, search: str) -> bool:
    """The meaning of a search: every word occurs in the title or in a message, the letters of ASCII in either size."""
    texts = [small(text) for text in (conversation.title, *(node.content for node in conversation.nodes.values()))]
    return all(any(small(word) in text for text in texts) for word in search.replace("\0", " ").split())


HARD = st.text(st.sampled_from("aAbBéÉ\"%_*^-:()\\'\0 \n啊不从İſKß😀\uffff\ufffd"), max_size=8)


@pytest.mark.parametrize("is_indexed", [True, False])
@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(HARD, HARD, HARD), min_size=1, max_size=4), st.lists(HARD, min_size=1, max_size=6), st.data())
def test_a_search_finds_exactly_what_has_the_words(
    tmp_path_factory: pytest.TempPathFactory,
    is_indexed: bool,
    texts: list[tuple[str, str, str]],
    searches: list[str],
    data: st.DataObject,
) -> None:
    store = Store.open(tmp_path_factory.mktemp("store") / "c.db")
    store._is_indexed &= is_indexed
    made = []
    for title, question, answer in texts:
        conversation = talk(question, answer)
        conversation.title = title
        store.save(conversation)
        made.append(conversation)
    joined = data.draw(st.sampled_from([text for one in texts for text in one]))
    begin = data.draw(st.integers(0, 4))
    for search in [*searches, joined[begin : begin + 4], joined.swapcase()]:
        assert set(ids(store, search)) == {one.id for one in made if has(one, search)}, search
    store.close()


@pytest.mark.parametrize(
    "search", ["量", "量化", "量化模", "化模型很小", "gguf", "GGUF 模型", "q4_k", "100%", '"', "小 量"]
)
def test_substrings_are_found_in_chinese_too(store: Store, search: str) -> None:
    found = talk("介绍一下", '量化模型很小：GGUF 的 Q4_K，100% "正确"')
    store.save(found)
    store.save(talk("别的", "q4xk 100 percent"))
    assert ids(store, search) == [found.id]


@pytest.mark.parametrize(
    "search", ["a OR b", "NEAR(a b)", "text:a", "a*", "^a", "a AND", "NOT a", "(", '"a', "{x}", "--", "';", "a%", "_"]
)
def test_the_syntax_of_a_database_means_nothing(store: Store, search: str) -> None:
    store.save(talk("abc", "aXb bbb text"))
    exact = talk("here: " + search)
    store.save(exact)
    assert exact.id in ids(store, search)
    assert ids(store, search + "#") == []


def test_trigrams_alone_are_no_hit(store: Store) -> None:
    store.save(talk("xabcx bcdx"))
    assert (ids(store, "abcx bcd"), ids(store, "abcd")) == (ids(store), [])


def test_the_snippet_is_a_line_around_the_first_hit(store: Store) -> None:
    made = talk("question", "x" * 50 + "\n\x1b[31m the\tNeedle\u202e in it " + "y" * 90, "needle again")
    made.title = "a title"
    store.save(made)
    (one,) = store.listed("needle")
    assert one.snippet.startswith("…xxxx")
    assert "the Needle in it yyy" in one.snippet
    assert one.snippet.endswith("y…")
    assert one.snippet.isprintable()
    assert [one.snippet for one in store.listed("title")] == [""]
    assert [one.snippet for one in store.listed("title question")] == ["question"]


def test_what_is_searched_is_what_is_said_now(store: Store, path: Path) -> None:
    made = talk("question", "the old answer")
    store.save(made)
    answer = made.go_on()
    assert answer is not None
    made.write(" goes further")
    store.save(made, [answer])
    assert ids(store, "goes further") == [made.id], "while it is being written"
    left_for_later = sqlite3.connect(path).execute("SELECT id FROM node WHERE NOT indexed").fetchall()
    assert left_for_later == [(answer.id,)], "an answer is indexed once, at its end"
    made.finish("end")
    answer.content = "another answer"
    store.save(made, [answer])
    assert (ids(store, "old answer"), ids(store, "another answer")) == ([], [made.id])


def test_an_sqlite_without_trigrams_may_write_to_the_same_file(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = talk("question", "said with an index")
    store.save(both)
    monkeypatch.setattr(store_module, "has_index", lambda db, path: False)
    plain = Store.open(path)
    assert ids(plain, "with an index") == [both.id]
    both.nodes[both.head or ""].content = "said without one"
    plain.save(both, both.nodes.values())
    gone = talk("a word for a day")
    plain.save(gone)
    assert ids(store, "without one") == ids(plain, "without one") == [both.id]
    assert ids(store, "with an index") == ids(plain, "with an index") == []
    store.save(both, both.nodes.values())
    assert ids(store, "without one") == [both.id]
    plain.close()


def test_a_missing_part_of_sqlite_is_no_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in ("USING fts9(text)", "USING fts5(text, tokenize = 'trigrams')"):
        monkeypatch.setattr(store_schema, "_CREATE_INDEX", f"CREATE VIRTUAL TABLE text_index {index}")
        store = Store.open(path)
        made = talk("the question")
        store.save(made)
        assert made.id in ids(store, "question")
        assert not store._is_indexed
        store.close()


def test_an_endless_search_is_bounded(store: Store) -> None:
    made = talk("ab " * 300)
    store.save(made)
    assert ids(store, "ab " * 100_000) == [made.id]
    assert store_search.words_of("x" * 100_000) == ["x" * store_search.MAX_CHARACTERS]
    assert (
        len(store_search.words_of("".join(f"{letter} " for letter in "abcdefghijklmnopqrstuvwxyz")))
        == store_search.MAX_WORDS
    )


# Two windows


def test_a_window_takes_nothing_from_the_other(store: Store, path: Path) -> None:
    made = talk("question", "answer")
    store.save(made)
    other = Store.open(path)
    there = other.load(made.id)
    assert there is not None
    there.ask("asked there")
    there.title, there.draft = "named there", "a thought"
    other.save(there)
    made.ask("asked here")
    store.save(made)
    loaded = store.load(made.id)
    assert loaded is not None
    assert [node.content for node in loaded.nodes.values()] == ["question", "answer", "asked there", "asked here"]
    assert (loaded.title, loaded.draft) == ("named there", "a thought")
    assert loaded.path()[-1].content == "asked here"
    other.close()


def test_a_deleted_conversation_comes_back_with_what_is_said_in_the_other_window(store: Store, path: Path) -> None:
    made = talk("question", "answer")
    store.save(made)
    other = Store.open(path)
    other.delete(made.id)
    made.head = None
    store.save(made)
    assert ids(store) == [], "nothing was said"
    made.ask("is it there?")
    store.save(made)
    assert public(other.load(made.id)) == public(made)
    other.close()


def test_a_purged_conversation_comes_back_whole(store: Store, path: Path, clock: Callable[[float], None]) -> None:
    made = talk("question", "answer")
    store.save(made)
    store.delete(made.id)
    clock(31 * 86400)
    Store.open(path).close()
    made.ask("is it there?")
    store.save(made)
    assert public(store.load(made.id)) == public(made)


def test_a_file_whose_messages_form_a_circle_is_read(store: Store, path: Path) -> None:
    made = talk("question", "answer")
    store.save(made)
    db = sqlite3.connect(path)
    db.execute("UPDATE node SET parent = ? WHERE parent IS NULL", (made.head,))
    db.commit()
    assert store.load(made.id).path() == []  # type: ignore[union-attr]
    db.execute("UPDATE node SET parent = NULL WHERE role = 'user'")
    db.execute("UPDATE conversation SET head = 'gone'")
    db.commit()
    assert public(store.load(made.id)) == public(made)


# Processes

WRITER = """
import sys
from pathlib import Path
from bq.tui.conversation import Conversation
from bq.tui.store import Store
store, made = Store.open(Path(sys.argv[1])), Conversation(id=sys.argv[2])
for number in range(int(sys.argv[3])):
    made.ask(f"question-{number}-of-{made.id}.")
    answer = made.begin()
    made.write("answer " * 500)
    store.save(made)
    made.finish("end")
    store.save(made, [answer])
    print(number, flush=True)
"""


def start_writer(path: Path, name: str, rounds: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(path), name, str(rounds)]
    # What a buffer read ahead would be lost to communicate().
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)


@posix
def test_a_killed_process_leaves_all_that_it_had_saved(path: Path) -> None:
    chance = random.Random(15)
    for attempt in range(15):
        process = start_writer(path, str(attempt), 100_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate()
        assert errors == b""
        saved = 1 + rest.count(b"\n")
        store = Store.open(path)
        loaded = store.load(str(attempt))
        assert loaded is not None
        assert (
            saved <= sum(node.stop == "end" for node in loaded.nodes.values() if node.role == "assistant") <= saved + 1
        )
        assert ids(store, f"question-{saved - 1}-of-{attempt}.") == [str(attempt)]
        store.close()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.execute("INSERT INTO text_index (text_index) VALUES ('integrity-check')")


def test_processes_that_begin_and_write_at_once_lose_nothing(path: Path) -> None:
    writers = [start_writer(path, name, 20) for name in ("one", "two", "three")]
    for process in writers:
        out, errors = process.communicate(timeout=60)
        assert (errors, len(out.split())) == (b"", 20)
    store = Store.open(path)
    assert {(one.id, one.rounds) for one in store.listed()} == {("one", 20), ("two", 20), ("three", 20)}
    store.close()


class Refusing(sqlite3.Connection):
    """What happens once in a thousand times when several processes begin at once: SQLite refuses without waiting."""

    refusals = 3

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.refusals:
            self.refusals -= 1
            raise sqlite3.OperationalError("database is locked")
        return super().execute(sql, *parameters)


def test_a_process_that_begins_beside_others_waits_for_its_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_schema.sqlite3, "connect", partial(sqlite3.connect, factory=Refusing))
    store = Store.open(path)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


@posix
def test_only_the_user_reads_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BQ_HOME", str(tmp_path / "new" / "home"))
    modes = set()
    real = os.open

    def watch(path: Any, flags: int, mode: int = 0o777, **keywords: Any) -> int:
        handle = real(path, flags, mode, **keywords)
        modes.add(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    before = os.umask(0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(store_schema.os, "open", watch)
            store = Store.open()
        store.save(talk("question"))
        folder = store_path().parent
        found = {one.name: stat.S_IMODE(one.stat().st_mode) for one in folder.iterdir()}
    finally:
        os.umask(before)
    assert found == {"conversations.db": 0o600, "conversations.db-wal": 0o600, "conversations.db-shm": 0o600}
    assert (modes, stat.S_IMODE(folder.stat().st_mode)) == ({0o600}, 0o700)
    store.close()
    assert [one.name for one in folder.iterdir()] == ["conversations.db"]


# Versions


def test_a_file_is_brought_to_the_version_of_the_program(path: Path) -> None:
    store = Store.open(path)
    made = talk("question", "answer")
    store.save(made)
    store.close()
    newer = (
        *STEPS,
        ("ALTER TABLE conversation ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",),
        ("CREATE TABLE more (x)",),
    )
    for _ in range(2):
        db = connect(path, newer)
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
        assert db.execute("SELECT id, colour FROM conversation").fetchall() == [(made.id, "red")]
        db.close()


class Beaten(sqlite3.Connection):
    """Another process brings the file to today's version just before this one begins to."""

    is_beaten = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE" and not Beaten.is_beaten:
            Beaten.is_beaten = True
            connect(Path(super().execute("PRAGMA database_list").fetchone()[2])).close()
        return super().execute(sql, *parameters)


def test_a_step_that_another_process_took_is_not_taken_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_schema.sqlite3, "connect", partial(sqlite3.connect, factory=Beaten))
    monkeypatch.setattr(Beaten, "is_beaten", False)
    db = connect(path)
    assert (Beaten.is_beaten, db.execute("PRAGMA user_version").fetchone()) == (True, (1,))
    db.close()


def test_a_step_that_fails_leaves_the_file_at_the_version_before(path: Path) -> None:
    Store.open(path).close()
    broken = (*STEPS, ("CREATE TABLE half (x)", "SELECT * FROM nowhere_at_all", "CREATE TABLE more (x)"))
    with pytest.raises(BqError):
        connect(path, broken)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert db.execute("SELECT name FROM sqlite_master WHERE name IN ('half', 'more')").fetchall() == []
    db.close()
    Store.open(path).close()


def test_a_file_of_a_newer_version_is_left(path: Path) -> None:
    connect(path, (*STEPS, ())).close()
    before = path.read_bytes()
    with pytest.raises(BqError, match=r"was written by a newer bq\. Update this bq"):
        Store.open(path)
    assert path.read_bytes() == before


# Files that are none


def another_program(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE conversation (id)")
    db.commit()
    db.close()


def random_bytes(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20_000))


def short(path: Path) -> None:
    path.write_bytes(b"hello")


def cut(path: Path) -> None:
    store = Store.open(path)
    for number in range(50):
        store.save(talk(f"question {number}", "answer " * 300))
    store.close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def cut_to_a_page(path: Path) -> None:
    cut(path)
    path.write_bytes(path.read_bytes()[:4096])


def without_tables(path: Path) -> None:
    connect(path, (STEPS[0][:1],)).close()


@pytest.mark.parametrize("make", [another_program, random_bytes, short, cut, cut_to_a_page, without_tables])
def test_a_file_that_is_none_of_ours_or_damaged_is_a_line_and_stays(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(BqError, match=r"is damaged, or no file|is another program's database") as caught:
        Store.open(path).listed()
    assert "move it away" in str(caught.value)
    if make is not without_tables:
        assert path.read_bytes() == before
        assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_damage_inside_is_a_line_when_it_is_met(path: Path) -> None:
    cut_free = Store.open(path)
    made = [talk(f"question {number}", "answer " * 300) for number in range(30)]
    for one in made:
        cut_free.save(one)
    cut_free.close()
    chance = random.Random(2)
    whole = path.read_bytes()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(20):
            at = chance.randrange(4096, len(data) - 64)
            data[at : at + 64] = chance.randbytes(64)
        path.write_bytes(data)
        try:
            store = Store.open(path)
        except BqError:
            continue
        for use in (
            Store.questions,
            lambda store: store.listed("answer"),
            *(partial(Store.load, id=one.id) for one in made),
        ):
            with suppress(BqError):  # a line; anything else fails here
                use(store)
        store.close()


def test_a_folder_in_its_place_and_a_file_in_the_folders_place_are_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "c.db"):
        with pytest.raises(BqError, match=r"cannot be written: .*BQ_HOME"):
            Store.open(path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that refuses")
def test_a_folder_that_refuses_is_a_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BqError, match="cannot be written: Permission denied"):
        Store.open(tmp_path / "c.db")


# A disk that refuses


def test_a_full_disk_a_read_only_file_and_a_lock_are_lines_and_nothing_is_lost(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = talk("question", "answer")
    store.save(made)
    before = public(made)
    made.ask("more " * 100_000)

    store._db.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full
    with pytest.raises(BqError, match=r"has no room left for .*conversations\.db\. Make room"):
        store.save(made)
    assert public(store.load(made.id)) == before
    store._db.execute("PRAGMA max_page_count = 1000000")

    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(BqError, match=r"cannot be written: it or its folder is read-only\. Check"):
        store.save(made)
    store._db.execute("PRAGMA query_only = 0")

    store._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BqError, match="has been locked by another program for too long"):
        store.save(made)
    assert public(store.load(made.id)) == before, "reading goes on"
    other.execute("ROLLBACK")

    set_language("zh")
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(BqError, match=r"无法写入 .*文件或文件夹为只读。请检查权限"):
        store.rename(made.id, "title")
    store._db.execute("PRAGMA query_only = 0")

    store.save(made)
    assert public(store.load(made.id)) == public(made)


def test_a_store_that_cannot_purge_opens(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(path)
    store.save(talk("question"))

    def refuse(store: Store) -> None:
        raise BqError("locked")

    monkeypatch.setattr(Store, "purge", refuse)
    again = Store.open(path)
    assert len(again.listed()) == 1
    again.close()
    store.close()
