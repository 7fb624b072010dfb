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

Encode = Callable[[str], Sequence[int]]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation; "system" only as the first."""

    role: Role
    content: str


@dataclass(frozen=True)
class Roles:
    """The ids that begin a user's and an assistant's message."""

    user: int = 195
    assistant: int = 196


@dataclass(frozen=True)
class Prompt:
    """Token ids ready to decode, and what they are made of: sizes in tokens, rounds from the oldest to the newest.

    The first `dropped_rounds` of the rounds did not fit into `budget` and are not in `ids`.
    """

    ids: tuple[int, ...]
    dropped_rounds: int = 0
    system_tokens: int = 0
    round_tokens: tuple[int, ...] = ()
    budget: int = 0

    @property
    def fits(self) -> bool:
        """Whether what must stay, the system text and the newest round, is within the budget."""
        return len(self.ids) <= self.budget


def build_prompt(
    messages: Sequence[Message], encode: Encode, roles: Roles, budget: int, headroom: float = 0.0
) -> Prompt:
    """As `measure_prompt`, but raises BqError where system text and newest round alone exceed the budget.

    The reference would cut off their beginning, and with it the role.
    """
    return fitting(measure_prompt(messages, encode, roles, budget, headroom))


def fitting(prompt: Prompt) -> Prompt:
    """The prompt itself. Raises BqError if it does not fit."""
    if not prompt.fits:
        raise BqError(
            say(
                f"The message needs {len(prompt.ids)} tokens, and there is room for {prompt.budget}.",
                f"这条消息需要 {len(prompt.ids)} 个词元，而空间只有 {prompt.budget} 个。",
            ),
            say(
                "Shorten it, or ask for a shorter answer (`--max-tokens`).",
                "请缩短内容，或限制回答的长度（`--max-tokens`）。",
            ),
        )
    return prompt


def measure_prompt(
    messages: Sequence[Message],
    encode: Encode,
    roles: Roles,
    budget: int,
    headroom: float = 0.0,
    alone: int | None = None,
) -> Prompt:
    """The ids of a conversation in `budget` tokens, and what was left out.

    Whole rounds are taken from the newest backwards until one does not fit; the system text and the newest round always
    stay. `headroom` 0 is the reference's way, which drops a round at nearly every turn once the context is full; above 0,
    that share of the budget is freed whenever rounds must go, so that the next turns find their beginning in the KV cache.
    `alone` is the budget of a newest round that exceeds the other one: what it takes from the answer, no older round shares.
    """
    if not messages:
        raise ValueError("a conversation has at least one message")
    system, rounds = split_rounds(messages)
    system_ids = encode(system)
    encoded = [_encode_round(one, encode, roles) for one in rounds or [[]]]
    if messages[-1].role != "assistant":
        encoded[-1].append(roles.assistant)
    sizes = [len(ids) for ids in encoded]
    asked = [_asked_tokens(ids, roles) for ids in encoded[:-1]] + sizes[-1:]
    first = _first_round(sizes, asked, budget - len(system_ids), headroom)
    if len(system_ids) + sizes[-1] > budget and alone is not None:
        first, budget = len(sizes) - 1, alone
    ids = tuple(chain(system_ids, *encoded[first:]))
    return Prompt(ids, first, len(system_ids), tuple(sizes), budget)


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


def _asked_tokens(ids: Sequence[int], roles: Roles) -> int:
    """How many tokens of a round were there when its answer began: up to the assistant's first role id."""
    return ids.index(roles.assistant) + 1 if roles.assistant in ids else len(ids)


def _first_round(sizes: Sequence[int], asked: Sequence[int], budget: int, headroom: float) -> int:
    """The first round that stays, found by going through the conversation as it was held: no state is needed for it.

    `sizes` are the rounds' tokens, `asked` what each had when it was the newest and unanswered.
    """
    first = 0
    target = int(budget * (1 - headroom))
    for newest, open_size in enumerate(asked):
        now = [*sizes[first:newest], open_size]
        if sum(now) > budget:
            first = newest + 1 - _rounds_that_fit(now, target)
    return first


def _rounds_that_fit(sizes: Sequence[int], budget: int) -> int:
    """How many of the newest rounds fit, the newest in any case (the reference's loop)."""
    used = kept = 0
    for size in reversed(sizes):
        if kept and used + size > budget:
            break
        used += size
        kept += 1
        if used >= budget:
            break
    return kept
