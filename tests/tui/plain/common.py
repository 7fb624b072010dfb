"""What the line mode kept and said."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.tui.conversation import Conversation
from bq.tui.store import Store

Scripted = Callable[..., Path]
GREEDY = ("--greedy", "--repeat-penalty", 1, "--threads", 1)
PATIENCE_SECONDS = 120
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX terminals and signals")


def kept() -> list[Conversation]:
    """What the store has, the last one first."""
    store = Store.open()
    try:
        return [found for one in store.listed() if (found := store.load(one.id))]
    finally:
        store.close()


def said(conversation: Conversation) -> list[str]:
    return [node.content for node in conversation.path()]


def told(done: Any) -> str:
    text: str = done.stderr.decode()
    return text
