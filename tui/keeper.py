"""Keeps conversations without ever making the screen wait: the store works in one thread of its own, in order.

What is kept is a copy made at once, so that the conversation may go on meanwhile. Failures are told, once for each cause,
and do not end anything: what is on the screen stays there.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from bq.runtime.errors import BqError
from bq.tui.conversation import Conversation, Node

if TYPE_CHECKING:
    from bq.tui.store import Store

T = TypeVar("T")


class Keeper:
    """`tell` hears, in the store's thread, of what could not be kept."""

    def __init__(self, tell: Callable[[BqError], None]) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._unsaved: dict[str, set[str]] = {}  # messages of a conversation
        self.errors: list[BqError] = []  # all that went wrong
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._store: Store | None = None

    async def ask(self, question: Callable[["Store"], T]) -> T:
        """What the store answers. Raises BqError if it cannot."""
        return await asyncio.wrap_future(self._thread.submit(self._with_store, question))

    def keep(self, conversation: Conversation, nodes: Iterable[Node] = ()) -> "Future[None]":
        """Keep a conversation's own fields and these messages."""
        copy = replace(conversation, nodes={id: replace(node) for id, node in conversation.nodes.items()})
        ids = {node.id for node in nodes}
        return self.do(lambda store: self._save(store, copy, ids))

    def _save(self, store: "Store", conversation: Conversation, ids: set[str]) -> None:
        """Save these messages, and those whose last save failed."""
        ids = ids | self._unsaved.pop(conversation.id, set())
        try:
            store.save(conversation, [node for id, node in conversation.nodes.items() if id in ids])
        except BqError:
            self._unsaved[conversation.id] = ids
            raise

    def do(self, work: Callable[["Store"], None]) -> "Future[None]":
        """Have something done when its turn comes."""
        return self._thread.submit(self._tried, work)

    def close(self) -> None:
        """Wait until all is kept."""
        self._thread.shutdown(wait=True)
        if self._store is not None:
            self._store.close()

    def _with_store(self, question: Callable[["Store"], T]) -> T:
        if self._store is None:
            from bq.tui.store import Store

            self._store = Store.open()
        return question(self._store)

    def _tried(self, work: Callable[["Store"], None]) -> None:
        try:
            self._with_store(work)
        except BqError as error:
            self._hear(error)
        except Exception as error:  # a defect: told like the rest, and the next save may do better
            self._hear(BqError(f"{type(error).__name__}: {error}"))

    def _hear(self, error: BqError) -> None:
        if error.cause not in self._told:
            self._told.add(error.cause)
            self.errors.append(error)
            self._tell(error)
