"""The prompt that a Baichuan Chat model was trained on, as token ids.

No BOS, no separators: the system text, then for each message its role id and the ids of its content, then the assistant's
role id (generation_utils.py of the releases, `build_chat_input`). Contents are encoded apart, as plain text.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
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

    The rounds in `left_out`, by number, did not fit into `budget` and are not in `ids`. `pinned_tokens` are those of the
    older rounds that stay because they are pinned. `continues` says that the ids end within a text, which is gone on with.
    """

    ids: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    system_tokens: int = 0
    round_tokens: tuple[int, ...] = ()
    budget: int = 0
    pinned_tokens: int = 0
    continues: bool = False

    @property
    def dropped_rounds(self) -> int:
        """How many rounds are not in `ids`."""
        return len(self.left_out)

    @property
    def fits(self) -> bool:
        """Whether what must stay, the system text, the pinned rounds and the newest one, is within the budget."""
        return len(self.ids) <= self.budget


def build_prompt(
    messages: Sequence[Message],
    encode: Encode,
    roles: Roles,
    budget: int,
    headroom: float = 0.0,
    pinned: AbstractSet[int] = frozenset(),
) -> Prompt:
    """As `measure_prompt`, but raises BqError where what must stay exceeds the budget alone.

    The reference would cut off their beginning, and with it the role.
    """
    return fitting(measure_prompt(messages, encode, roles, budget, headroom, pinned=pinned))


def fitting(prompt: Prompt) -> Prompt:
    """The prompt itself. Raises BqError if it does not fit."""
    if not prompt.fits and len(prompt.ids) - prompt.pinned_tokens <= prompt.budget:
        raise BqError(
            say(
                f"The message and the pinned rounds need {len(prompt.ids)} tokens, and there is room for {prompt.budget}.",
                f"这条消息与固定的轮次共需 {len(prompt.ids)} 个词元，而空间只有 {prompt.budget} 个。",
            ),
            say("Unpin a round, or shorten the message.", "请取消固定某一轮，或缩短消息。"),
        )
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
    pinned: AbstractSet[int] = frozenset(),
) -> Prompt:
    """The ids of a conversation in `budget` tokens, and what was left out.

    Whole rounds are taken from the newest backwards until one does not fit; the system text and the newest round always
    stay, and so do the `pinned` rounds, numbered from 0: what they take is gone from the budget before. `headroom` 0 is the
    reference's way, which drops a round at nearly every turn once the context is full; above 0, that share of the budget is
    freed whenever rounds must go, so that the next turns find their beginning in the KV cache.
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
    older = frozenset(pinned) & frozenset(range(len(sizes) - 1))
    first = _first_round(sizes, asked, budget - len(system_ids), headroom, older)
    pinned_tokens = sum(sizes[i] for i in older)
    if len(system_ids) + pinned_tokens + sizes[-1] > budget and alone is not None:
        first, budget = len(sizes) - 1, alone
    kept = [i for i in range(len(sizes)) if i >= first or i in older]
    return Prompt(
        ids=tuple(chain(system_ids, *(encoded[i] for i in kept))),
        left_out=tuple(i for i in range(first) if i not in older),
        system_tokens=len(system_ids),
        round_tokens=tuple(sizes),
        budget=budget,
        pinned_tokens=pinned_tokens,
        continues=messages[-1].role == "assistant" and bool(messages[-1].content),
    )


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


def _first_round(
    sizes: Sequence[int], asked: Sequence[int], budget: int, headroom: float, pinned: AbstractSet[int]
) -> int:
    """The first round that stays, found by going through the conversation as it was held: no state is needed for it.

    `sizes` are the rounds' tokens, `asked` what each had when it was the newest and unanswered. The `pinned` ones before
    it stay too, as if they had been pinned from the beginning.
    """
    first = before = held = 0  # tokens of the pinned rounds before `first`, and of all rounds from there on
    target = int(budget * (1 - headroom))
    for newest, open_size in enumerate(asked):
        if before + held + open_size > budget:
            first = _first_that_fits(sizes, newest, open_size, target, pinned)
            before = sum(sizes[i] for i in pinned if i < first)
            held = sum(sizes[first:newest])
        held += sizes[newest]
    return first


def _first_that_fits(sizes: Sequence[int], newest: int, open_size: int, budget: int, pinned: AbstractSet[int]) -> int:
    """The oldest of the newest rounds that fit, beside the pinned ones, the newest in any case (the reference's loop)."""
    used = open_size + sum(sizes[i] for i in pinned if i < newest)
    first = newest
    while first > 0:
        size = 0 if first - 1 in pinned else sizes[first - 1]
        if used + size > budget:
            break
        used += size
        first -= 1
    return first
