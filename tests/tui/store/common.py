"""Conversations for the tests of the store."""

import os
from dataclasses import fields
from typing import Any

import pytest

from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation
from bq.tui.store import Store

posix = pytest.mark.skipif(os.name == "nt", reason="signals and permissions of POSIX")


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
