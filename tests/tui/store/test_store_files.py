"""The store's file is brought to the version of the program; one that is damaged, of another program or on a full disk is a line."""

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.errors import BqError
from bq.runtime.language import set_language
from bq.tui import store_schema
from bq.tui.store import Store
from bq.tui.store_schema import STEPS, connect

from .common import public, talk

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
