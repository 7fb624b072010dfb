"""The database file of the conversations: made so that only the user reads it, recognised before anything is written,
brought to the version that this bq knows, and its errors told in plain words.

A file of another program, of a newer bq or a damaged one is left as it is.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bq.runtime.errors import BqError
from bq.runtime.language import say

BUSY_SECONDS = 5.0
APPLICATION_ID = 0x62714368  # "bqCh": `PRAGMA application_id`, by which a file says whose it is

Step = Sequence[str]

# A step brings the file from the version of its place to the next one. Steps that were released never change.
# `node.serial` is the order of making; `node.indexed` says whether the search index has the text as it is now.
STEPS: tuple[Step, ...] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE conversation (
            id TEXT PRIMARY KEY,
            mode TEXT NOT NULL,
            system TEXT NOT NULL,
            title TEXT NOT NULL,
            draft TEXT NOT NULL,
            head TEXT,
            heading TEXT NOT NULL,
            rounds INTEGER NOT NULL,
            created REAL NOT NULL,
            changed REAL NOT NULL,
            deleted REAL
        )""",
        "CREATE INDEX conversation_changed ON conversation(changed)",
        """CREATE TABLE node (
            serial INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation TEXT NOT NULL REFERENCES conversation(id) ON DELETE CASCADE,
            id TEXT NOT NULL,
            parent TEXT,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            stop TEXT NOT NULL,
            model TEXT NOT NULL,
            pinned INTEGER NOT NULL,
            created REAL NOT NULL,
            tokens INTEGER NOT NULL,
            seconds REAL NOT NULL,
            indexed INTEGER NOT NULL,
            UNIQUE (conversation, id),
            FOREIGN KEY (conversation, parent) REFERENCES node(conversation, id) DEFERRABLE INITIALLY DEFERRED
        )""",
        "CREATE INDEX node_parent ON node(conversation, parent)",
        "CREATE INDEX node_asked ON node(created) WHERE role = 'user'",
        "CREATE INDEX node_not_indexed ON node(serial) WHERE NOT indexed",
        "CREATE TABLE system_prompt (name TEXT PRIMARY KEY, text TEXT NOT NULL)",
    ),
)

_CREATE_INDEX = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS text_index "
    "USING fts5(text, tokenize = 'trigram case_sensitive 1', detail = none, columnsize = 0)"
)


def connect(path: Path, steps: Sequence[Step] = STEPS) -> sqlite3.Connection:
    """The database at `path`, made if need be, at the version of `steps`. Raises BqError, and then has changed nothing."""
    _make_private(path)
    with explained(path):
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with explained(path):
            _recognise(db, path, len(steps))
            _use_wal(db)
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
            _migrate(db, path, steps)
    except BaseException:
        db.close()
        raise
    return db


def has_index(db: sqlite3.Connection, path: Path) -> bool:
    """Whether this SQLite has an index for substrings; it is made if it is not there yet.

    The index keeps its own copy of the texts, in small letters: an SQLite without FTS5 may write to the same file.
    """
    try:
        with explained(path):
            is_made = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'text_index'").fetchone()
        if not is_made:
            with writing(db, path):
                db.execute(_CREATE_INDEX)
        with explained(path):
            db.execute("SELECT 1 FROM text_index LIMIT 0")
    except NoSuchPart:
        return False
    return True


class NoSuchPart(BqError):
    """This SQLite was built without something that was asked for."""


@contextmanager
def writing(db: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction that is committed when the block ends well and leaves nothing when it does not."""
    with explained(path), _transaction(db, "IMMEDIATE"):
        yield db


@contextmanager
def reading(db: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """A block that sees one state of the database."""
    with explained(path), _transaction(db, "DEFERRED"):
        yield db


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # what went wrong first is what is told
            if db.in_transaction:
                db.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises what SQLite says as a BqError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _error(path, str(error)) from error


def _error(path: Path, text: str) -> BqError:
    """What a message of SQLite means. Python 3.10 has no error codes; the messages are as old as SQLite 3."""
    if "no such module" in text or "no such tokenizer" in text:
        return NoSuchPart(text)
    if "locked" in text:
        return BqError(
            say(f"{path} has been locked by another program for too long.", f"{path} 被其他程序锁定过久。"),
            say("Close the other bq, or try again.", "请关闭另一个 bq，或稍后再试。"),
        )
    if "is full" in text:
        return BqError(
            say(f"The disk has no room left for {path}.", f"磁盘空间不足，无法写入 {path}。"),
            say("Make room; what was kept before is not lost.", "请腾出空间；此前保存的内容没有丢失。"),
        )
    if "readonly" in text or "unable to open" in text:
        return _refused(path, say("it or its folder is read-only", "文件或文件夹为只读"))
    if "not a database" in text or "malformed" in text or "no such" in text:
        return BqError(
            say(f"{path} is damaged, or no file of conversations.", f"{path} 已损坏，或不是对话文件。"),
            say("It is left as it is; move it away to begin a new one.", "文件保持原样；将其移走即可重新开始。"),
        )
    return BqError(
        say(f"{path} cannot be used: {text}.", f"无法使用 {path}：{text}。"),
        say("Check the disk, or give another folder as BQ_HOME.", "请检查磁盘，或用 BQ_HOME 指定其他文件夹。"),
    )


def _refused(path: Path, why: str | None) -> BqError:
    return BqError(
        say(f"{path} cannot be written: {why}.", f"无法写入 {path}：{why}。"),
        say("Check the permissions, or give another folder as BQ_HOME.", "请检查权限，或用 BQ_HOME 指定其他文件夹。"),
    )


def _make_private(path: Path) -> None:
    """An empty file that only the user may read; SQLite gives the files beside it the same permissions."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _refused(path, error.strerror) from None


def _recognise(db: sqlite3.Connection, path: Path, known: int) -> None:
    """Raise BqError for a file that is not ours to write to."""
    with _transaction(db, "DEFERRED"):
        application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        is_new = not (application or version or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if not is_new and application != APPLICATION_ID:
        raise BqError(
            say(f"{path} is another program's database.", f"{path} 是其他程序的数据库。"),
            say("It is left as it is; move it away to begin a new one.", "文件保持原样；将其移走即可重新开始。"),
        )
    if version > known:
        raise BqError(
            say(f"{path} was written by a newer bq.", f"{path} 由更新版本的 bq 写入。"),
            say("Update this bq, or give another folder as BQ_HOME.", "请更新 bq，或用 BQ_HOME 指定其他文件夹。"),
        )


def _use_wal(db: sqlite3.Connection) -> None:
    """Readers and a writer side by side. Of two processes that ask at once, SQLite refuses one without waiting."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _migrate(db: sqlite3.Connection, path: Path, steps: Sequence[Step]) -> None:
    """Take the steps that the file has not taken yet, each whole or not at all."""
    while _pragma(db, "user_version") < len(steps):
        with writing(db, path):
            version = _pragma(db, "user_version")
            if version >= len(steps):  # another process was faster
                return
            for statement in steps[version]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {version + 1}")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
