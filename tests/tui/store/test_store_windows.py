"""Windows and processes that keep at the same time take nothing from each other, and a crash takes nothing that was kept."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bq.tui import store_schema
from bq.tui.store import Store, store_path

from .common import ids, posix, public, talk

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
