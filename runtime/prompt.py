"""The prompt that a Baichuan Chat model was trained on, as token ids.

No BOS, no separators: the system text, then for each message its role id and the ids of its content, then the assistant's
role id (generation_utils.py of the releases, `build_chat_input`). Contents are encoded apart, as plain text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from bq.runtime.errors import BqError
from bq.runtime.language import say

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Message:
    """One message of a conversation; "system" only as the first."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Roles:
    """The ids that begin a user's and an assistant's message."""

    user: int = 195
    assistant: int = 196


@dataclass(frozen=True)
class Prompt:
    """Token ids ready to decode, and how many of the oldest rounds did not fit."""

    ids: tuple[int, ...]
    dropped_rounds: int


def build_prompt(messages: Sequence[Message], encode: Encode, roles: Roles, budget: int) -> Prompt:
    """The ids of a conversation in at most `budget` tokens.

    Whole rounds are taken from the newest backwards until one does not fit; the system text and the newest round always
    stay. Raises BqError if those two alone exceed the budget: cutting into them would cut off the role.
    """
    if not messages:
        raise ValueError("a conversation has at least one message")
    system, rounds = split_rounds(messages)
    system_ids = encode(system)
    encoded = [_encode_round(one, encode, roles) for one in rounds or [[]]]
    if messages[-1].role != "assistant":
        encoded[-1].append(roles.assistant)
    newest = len(encoded[-1])
    if len(system_ids) + newest > budget:
        raise BqError(
            say(
                f"The message needs {len(system_ids) + newest} tokens, and there is room for {budget}.",
                f"这条消息需要 {len(system_ids) + newest} 个词元，而空间只有 {budget} 个。",
            ),
            say(
                "Shorten it, or ask for a shorter answer (`--max-tokens`).",
                "请缩短内容，或限制回答的长度（`--max-tokens`）。",
            ),
        )
    kept = _rounds_that_fit([len(ids) for ids in encoded], budget - len(system_ids))
    return Prompt(tuple(chain(system_ids, *encoded[len(encoded) - kept :])), len(encoded) - kept)


def split_rounds(messages: Sequence[Message]) -> tuple[str, list[list[Message]]]:
    """The system text ("" if none) and the rounds, each begun by a user's message."""
    system = messages[0].content if messages and messages[0].role == "system" else ""
    rounds: list[list[Message]] = []
    for message in messages[1 if messages and messages[0].role == "system" else 0 :]:
        if message.role == "system":
            raise ValueError("a system message stands only at the beginning")
        if message.role == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return system, rounds


def _encode_round(messages: Sequence[Message], encode: Encode, roles: Roles) -> list[int]:
    ids: list[int] = []
    for message in messages:
        ids.append(roles.user if message.role == "user" else roles.assistant)
        ids.extend(encode(message.content))
    return ids


def _rounds_that_fit(sizes: Sequence[int], budget: int) -> int:
    """How many of the newest rounds fit, the newest in any case."""
    used = kept = 0
    for size in reversed(sizes):
        if kept and used + size > budget:
            break
        used += size
        kept += 1
        if used >= budget:
            break
    return kept
