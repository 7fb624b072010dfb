"""The prompt that a Baichuan model was trained on, as token ids.

No BOS: the system text, then each message as the model's format writes it (bq.runtime.prompt_format), then what begins the
assistant's answer. Contents are encoded as plain text. What does not fit is left out as the releases do it
(generation_utils.py, `build_chat_input`).
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from bq.runtime.errors import BqError
from bq.runtime.language import say
from bq.runtime.prompt_format import Opening, PromptFormat, Think
from bq.runtime.prompt_format import Roles as Roles  # where it is looked for

Encode = Callable[[str], Sequence[int]]
Role = Literal["system", "user", "assistant"]
_NOTHING = Opening()


@dataclass(frozen=True)
class Message:
    """One message of a conversation; "system" only as the first."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """Token ids ready to decode, and what they are made of: sizes in tokens, rounds from the oldest to the newest.

    The rounds in `left_out`, by number, did not fit into `budget` and are not in `ids`. `pinned_tokens` are those of the
    older rounds that stay because they are pinned. `continues` says that the ids end within a text, which is gone on with.
    `opens` is text at the end of the ids that belongs to the answer: the mark of a thought.
    """

    ids: tuple[int, ...]
    left_out: tuple[int, ...] = ()
    system_tokens: int = 0
    round_tokens: tuple[int, ...] = ()
    budget: int = 0
    pinned_tokens: int = 0
    continues: bool = False
    opens: str = ""

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
    form: PromptFormat,
    budget: int,
    headroom: float = 0.0,
    pinned: AbstractSet[int] = frozenset(),
) -> Prompt:
    """As `measure_prompt`, but raises BqError where what must stay exceeds the budget alone.

    The reference would cut off their beginning, and with it the role.
    """
    return fitting(measure_prompt(messages, encode, form, budget, headroom, pinned=pinned))


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
    form: PromptFormat,
    budget: int,
    headroom: float = 0.0,
    alone: int | None = None,
    pinned: AbstractSet[int] = frozenset(),
    think: Think = "auto",
) -> Prompt:
    """The ids of a conversation in `budget` tokens, and what was left out.

    Whole rounds are taken from the newest backwards until one does not fit; the system text and the newest round always
    stay, and so do the `pinned` rounds, numbered from 0: what they take is gone from the budget before. `headroom` 0 is the
    reference's way, which drops a round at nearly every turn once the context is full; above 0, that share of the budget is
    freed whenever rounds must go, so that the next turns find their beginning in the KV cache.
    `alone` is the budget of a newest round that exceeds the other one: what it takes from the answer, no older round shares.
    `think` is how the answer is made to begin, by a model that knows modes of it.
    """
    if not messages:
        raise ValueError("a conversation has at least one message")
    begins, is_answered = form.begins(think), messages[-1].role == "assistant"
    system_ids, encoded, asked = _encode_all(messages, encode, form, begins)
    sizes = [len(ids) for ids in encoded]
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
        continues=is_answered and bool(messages[-1].content),
        opens="" if is_answered or think != "on" else begins,
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


def _encode_all(
    messages: Sequence[Message], encode: Encode, form: PromptFormat, begins: str
) -> tuple[list[int], list[list[int]], list[int]]:
    """The ids of the system text and of each round, and how many a round had when it was the newest and unanswered.

    The last round ends with what begins its answer, unless that is there.
    """
    system, rounds = split_rounds(messages)
    is_answered = messages[-1].role == "assistant"
    system_ids = _encode_message(system, form.system, encode, form.after) if system else []
    opening = _encode_message(begins, form.assistant, encode)
    encoded, asked = _encode_rounds(rounds or [[]], encode, form, is_answered, len(opening))
    if not is_answered:
        encoded[-1] += opening
    asked[-1] = len(encoded[-1])
    return system_ids, encoded, asked


def _encode_rounds(
    rounds: Sequence[Sequence[Message]], encode: Encode, form: PromptFormat, is_answered: bool, opening_tokens: int
) -> tuple[list[list[int]], list[int]]:
    """The ids of each round, and how many were there when its answer began; an answer at the very end is gone on with."""
    encoded: list[list[int]] = []
    asked: list[int] = []
    for number, one in enumerate(rounds, 1):
        ids: list[int] = []
        before: int | None = None
        for place, message in enumerate(one, 1):
            is_user = message.role == "user"
            if before is None and not is_user:
                before = len(ids) + opening_tokens
            is_open = is_answered and number == len(rounds) and place == len(one)
            opening = form.user if is_user else form.assistant
            content = message.content if is_user or is_open else form.spoken(message.content)
            ids += _encode_message(content, opening, encode, _NOTHING if is_open else form.after)
        encoded.append(ids)
        asked.append(len(ids) if before is None else before)
    return encoded, asked


def _encode_message(content: str, opening: Opening, encode: Encode, after: Opening = _NOTHING) -> list[int]:
    ids = [*opening.ids, *encode(opening.text + content), *after.ids]
    return [*ids, *encode(after.text)] if after.text else ids


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
