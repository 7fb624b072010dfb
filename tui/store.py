"""What was said, kept: conversations in an SQLite database, for the app and for the next day.

A save is one transaction and adds: it removes nothing that another window has said, and writes of a conversation's own
fields only what has changed here. After a crash everything that was saved is there. What is deleted stays for 30 days.
Synchronous, for one thread at a time; other processes may use the same file.
"""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bq.runtime.errors import BqError
from bq.tui.chosen_model import home
from bq.tui.conversation import Conversation, Mode, Node, heading_of
from bq.tui.store_schema import connect, has_index, reading, writing
from bq.tui.store_search import condition, first_hit, searchable, snippet, words_of

DELETED_DAYS = 30
_DAY = 86400.0
_NODE = ("id", "parent", "role", "content", "stop", "model", "pinned", "created", "tokens", "seconds")
_OPEN = ("mode", "system", "title", "draft", "created", "head")


@dataclass(frozen=True)
class Listed:
    """A conversation in a list. `snippet` is where a search found something; "" if that was in the title alone."""

    id: str
    heading: str
    mode: Mode
    changed: float  # seconds since 1970
    rounds: int
    snippet: str = ""


def store_path() -> Path:
    """Where the conversations of this user are."""
    return home() / "conversations.db"


class Store:
    """An open database of conversations. Every method raises BqError if the disk or the file refuses; it can be used on."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self._path = db, path
        self._known: dict[str, dict[str, Any]] = {}  # by conversation: its fields as read or written here last
        self._is_indexed = has_index(db, path)

    @classmethod
    def open(cls, path: Path | None = None) -> "Store":
        """Opens the file, which is made if it is not there. What was deleted long ago goes now."""
        path = path or store_path()
        db = connect(path)
        try:
            store = cls(db, path)
        except BaseException:
            db.close()
            raise
        store._purge_if_possible()
        return store

    def close(self) -> None:
        self._db.close()

    # Conversations

    def save(self, conversation: Conversation, nodes: Iterable[Node] = ()) -> None:
        """Keeps the conversation's fields, these messages, and those that the store does not have.

        A deleted conversation to which messages are added comes back. One without a message and a draft is not kept.
        """
        fields, id = _fields(conversation), conversation.id
        with self._writing():
            stored = {row[0] for row in self._db.execute("SELECT id FROM node WHERE conversation = ?", (id,))}
            fresh = {node.id: node for node in [*conversation.nodes.values()] if node.id not in stored}
            fresh.update((node.id, node) for node in nodes)
            self._write_fields(conversation, fields, bool(fresh))
            for node in fresh.values():
                self._write_node(id, node)
            is_kept = self._keep_unless_empty(id)
        if is_kept:
            self._known[id] = fields
        else:
            self._known.pop(id, None)

    def forget(self, conversation: str, node: str) -> None:
        """Removes a message that brought nothing, if nothing was said after it."""
        with self._writing():
            at = self._db.execute(
                "SELECT serial FROM node WHERE conversation = :conversation AND id = :node AND NOT EXISTS "
                "(SELECT 1 FROM node WHERE conversation = :conversation AND parent = :node)",
                {"conversation": conversation, "node": node},
            ).fetchone()
            if at is not None:
                self._unindex("serial = ?", at[0])
                self._db.execute("DELETE FROM node WHERE serial = ?", at)
                self._keep_unless_empty(conversation)

    def load(self, id: str) -> Conversation | None:
        """A conversation with its messages in the order in which they were made; None if there is none, or it is deleted.

        An answer that nobody went on writing was stopped, or brought nothing and is left out.
        """
        with self._reading():
            sql = f"SELECT {', '.join(_OPEN)} FROM conversation WHERE id = ? AND deleted IS NULL"
            row = self._db.execute(sql, (id,)).fetchone()
            if row is None:
                return None
            sql = f"SELECT {', '.join(_NODE)} FROM node WHERE conversation = ? ORDER BY serial"
            nodes = self._db.execute(sql, (id,)).fetchall()
        conversation = Conversation(id, **dict(zip(_OPEN, row, strict=True)))
        _fill(conversation, (Node(**dict(zip(_NODE, node, strict=True))) for node in nodes))
        self._known[id] = _fields(conversation)
        return conversation

    def listed(self, search: str = "", limit: int = 500, mode: Mode | None = None) -> list[Listed]:
        """The conversations that have all words of the search, the one changed last first."""
        words = words_of(search)
        where, values = condition(words, self._is_indexed)
        hit, hit_values = first_hit(words)
        with self._reading():
            rows = self._db.execute(
                f"SELECT id, title, heading, mode, changed, rounds, ({hit}) FROM conversation "
                f"WHERE {where} AND mode = ifnull(?, mode) ORDER BY changed DESC, rowid DESC LIMIT ?",
                (*hit_values, *values, mode, limit),
            ).fetchall()
        return [
            Listed(id, heading_of(title) or heading, mode, changed, rounds, snippet(text, words) if text else "")
            for id, title, heading, mode, changed, rounds, text in rows
        ]

    def latest(self, mode: Mode = "chat") -> str | None:
        """The conversation that was changed last."""
        return next((one.id for one in self.listed(limit=1, mode=mode)), None)

    def questions(self, limit: int = 200) -> list[str]:
        """What was asked, each once, the newest first."""
        found: dict[str, None] = {}
        with self._reading():
            for (content,) in self._db.execute(
                "SELECT content FROM node WHERE role = 'user' AND "
                "conversation IN (SELECT id FROM conversation WHERE deleted IS NULL) ORDER BY created DESC, serial DESC"
            ):
                if len(found) >= limit:
                    break
                found.setdefault(content)
        return list(found)

    def rename(self, id: str, title: str) -> None:
        """Gives a conversation another title; "" gives back the one of its first question."""
        self._set("title = ?", id, _text(title))

    # Deleting

    def delete(self, id: str) -> None:
        """Takes a conversation off the list; for 30 days it can be restored."""
        self._set("deleted = ?", id, time.time())

    def restore(self, id: str) -> None:
        """Takes `delete` back."""
        self._set("deleted = ?", id, None)

    def purge(self) -> None:
        """Removes what was deleted more than 30 days ago, for good."""
        old = "SELECT id FROM conversation WHERE deleted < ?"
        before = (time.time() - DELETED_DAYS * _DAY,)
        with self._reading():
            is_due = self._db.execute(old, before).fetchone() is not None
        if is_due:
            with self._writing():
                self._unindex(f"conversation IN ({old})", *before)
                self._db.execute(f"DELETE FROM conversation WHERE id IN ({old})", before)

    def _purge_if_possible(self) -> None:
        try:
            self.purge()
        except BqError:  # the next time will do
            return

    # The library of system prompts

    def system_prompts(self) -> list[tuple[str, str]]:
        """The kept system prompts: name and text, by name."""
        with self._reading():
            return self._db.execute("SELECT name, text FROM system_prompt ORDER BY name").fetchall()

    def save_system_prompt(self, name: str, text: str) -> None:
        """Keeps a system prompt, in place of one of the same name."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO system_prompt VALUES (?, ?)", (_text(name), _text(text)))

    def delete_system_prompt(self, name: str) -> None:
        with self._writing():
            self._db.execute("DELETE FROM system_prompt WHERE name = ?", (_text(name),))

    # Inside a transaction

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return writing(self._db, self._path)

    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        return reading(self._db, self._path)

    def _set(self, what: str, id: str, value: Any) -> None:
        with self._writing():
            self._db.execute(f"UPDATE conversation SET {what} WHERE id = ?", (value, id))

    def _write_fields(self, conversation: Conversation, fields: dict[str, Any], is_said: bool) -> None:
        """Writes the fields that have changed here; what another window has changed meanwhile stays.

        The place in the list is the one of the last message or draft: looking at another version does not move it.
        """
        known = self._known.get(conversation.id, {})
        changes = {name: value for name, value in fields.items() if name not in known or known[name] != value}
        if is_said or not known or changes.keys() & {"draft", "system"}:
            changes["changed"] = time.time()
        if is_said:
            changes["deleted"] = None
        self._db.execute(
            "INSERT INTO conversation (id, mode, system, title, draft, head, heading, rounds, created, changed) "
            "VALUES (:id, :mode, :system, :title, :draft, :head, :heading, :rounds, :created, :now) ON CONFLICT DO NOTHING",
            {**fields, "id": conversation.id, "created": conversation.created, "now": time.time()},
        )
        if changes:
            places = ", ".join(f"{name} = :{name}" for name in changes)
            self._db.execute(f"UPDATE conversation SET {places} WHERE id = :id", {**changes, "id": conversation.id})

    def _write_node(self, conversation: str, node: Node) -> None:
        """Writes a message. The index gets it when it is whole: an answer being written is saved again and again."""
        content = _text(node.content)
        before = self._db.execute(
            "SELECT content = ? AND indexed FROM node WHERE conversation = ? AND id = ?",
            (content, conversation, node.id),
        ).fetchone()
        indexed = self._is_indexed and bool(node.stop)
        values = [getattr(node, name) for name in _NODE]
        self._db.execute(
            f"INSERT INTO node (conversation, indexed, {', '.join(_NODE)}) VALUES (?, ?, {', '.join('?' * len(values))}) "
            "ON CONFLICT (conversation, id) DO UPDATE SET content = excluded.content, stop = excluded.stop, "
            "model = excluded.model, pinned = excluded.pinned, tokens = excluded.tokens, seconds = excluded.seconds, "
            "indexed = excluded.indexed",
            (conversation, indexed, *map(_storable, values)),
        )
        if indexed and not (before and before[0]):
            self._db.execute(
                "INSERT OR REPLACE INTO text_index (rowid, text) "
                "SELECT serial, lower(?) FROM node WHERE conversation = ? AND id = ?",
                (searchable(content), conversation, node.id),
            )

    def _keep_unless_empty(self, id: str) -> bool:
        """Whether there is something to keep; what has neither a message nor a draft goes."""
        done = self._db.execute(
            "DELETE FROM conversation WHERE id = :id AND draft = '' "
            "AND NOT EXISTS (SELECT 1 FROM node WHERE conversation = :id)",
            {"id": id},
        )
        return done.rowcount == 0

    def _unindex(self, which: str, *values: Any) -> None:
        if self._is_indexed:
            self._db.execute(f"DELETE FROM text_index WHERE rowid IN (SELECT serial FROM node WHERE {which})", values)


def _fields(conversation: Conversation) -> dict[str, Any]:
    """What the store keeps of a conversation beside its messages, by column."""
    first = next((node.content for node in conversation.path()), conversation.draft)
    return {
        "mode": conversation.mode,
        "system": _text(conversation.system),
        "title": _text(conversation.title),
        "draft": _text(conversation.draft),
        "head": conversation.head,
        "heading": heading_of(_text(first)),
        "rounds": len(conversation.rounds),
    }


def _text(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _storable(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _fill(conversation: Conversation, nodes: Iterable[Node]) -> None:
    """Put the messages in. Only those whose parent is there are taken, so that every path ends."""
    for node in nodes:
        if node.parent is None or node.parent in conversation.nodes:
            node.pinned = bool(node.pinned)
            conversation.nodes[node.id] = node
    if conversation.head is not None and conversation.head not in conversation.nodes:
        conversation.head = next(reversed(conversation.nodes), None)
    for node in [node for node in conversation.nodes.values() if not node.stop]:
        _end(conversation, node)


def _end(conversation: Conversation, answer: Node) -> None:
    """What is to become of an answer that nobody goes on writing."""
    if answer.content or answer.parent is None or conversation.children(answer.id):
        answer.stop = "cancel"
        return
    del conversation.nodes[answer.id]
    if conversation.head == answer.id:
        conversation.show(answer.parent)
