"""How the messages of a conversation are written for a model: what stands before each, after each, and at the end.

Three ways. Baichuan 1 and 2: a role id, the content, nothing else (generation_utils.py of the releases). Baichuan-M1: the
same with a piece for the system text too (its chat_template). Baichuan-M2 and M3: ChatML, where a role is a word between
`<|im_start|>` and a line end, and a `thinking_mode` decides how the answer begins. Ids are found by the names of the pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

BAICHUAN, M1, CHATML = "baichuan", "baichuan-m1", "chatml"  # as `bq.prompt` in a file names them
PROMPT_KEY = "bq.prompt"
M1_SYSTEM, M1_USER, M1_ASSISTANT = "<B_SYS>", "<C_Q>", "<C_A>"
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
THINK, THOUGHT = "<think>", "</think>"

Think = Literal["on", "off", "auto"]
THINK_MODES: tuple[Think, ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class Roles:
    """The ids that begin a user's and an assistant's message of a Baichuan 1 or 2."""

    user: int = 195
    assistant: int = 196


@dataclass(frozen=True)
class Opening:
    """What stands before a message's content: ids, then text that is encoded with the content as one."""

    ids: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Thinking:
    """How an answer is made to begin: with an open thought, or with one that is closed. `end` is the id that closes it."""

    on: str
    off: str
    end: int


@dataclass(frozen=True)
class PromptFormat:
    """`after` stands behind every message that is whole; `ends` end an answer beside the vocabulary's own.

    `control` are the ids that no text may forge. `thinking` is None for a model that knows no modes of it.
    """

    name: str
    system: Opening
    user: Opening
    assistant: Opening
    after: Opening = Opening()
    ends: frozenset[int] = frozenset()
    control: frozenset[int] = field(default=frozenset(), compare=False)
    thinking: Thinking | None = None

    @property
    def role_ids(self) -> tuple[int, ...]:
        """The ids that mark roles."""
        return (*self.user.ids, *self.assistant.ids)

    def spoken(self, answer: str) -> str:
        """An earlier answer as later rounds read it: of a model with modes of thinking, without what it thought."""
        if self.thinking is None or THOUGHT not in answer:
            return answer
        return answer.rpartition(THOUGHT)[2].lstrip("\n")

    def begins(self, think: Think) -> str:
        """What an answer is made to begin with."""
        if self.thinking is None or think == "auto":
            return ""
        return self.thinking.on if think == "on" else self.thinking.off


def baichuan_format(roles: Roles | None = None) -> PromptFormat:
    """Of Baichuan 1 and 2, the usual ids where none are given. `<unk>`, `<s>` and `</s>` are no text's either."""
    ids = roles or Roles()
    return PromptFormat(
        name=BAICHUAN,
        system=Opening(),
        user=Opening((ids.user,)),
        assistant=Opening((ids.assistant,)),
        ends=frozenset({ids.user}),
        control=frozenset({0, 1, 2, ids.user, ids.assistant}),
    )


def m1_format(pieces: Sequence[str]) -> PromptFormat:
    """Raises KeyError with the name of a piece that is missing."""
    system, user, assistant = (_id(pieces, name) for name in (M1_SYSTEM, M1_USER, M1_ASSISTANT))
    return PromptFormat(
        name=M1,
        system=Opening((system,)),
        user=Opening((user,)),
        assistant=Opening((assistant,)),
        ends=frozenset({user, assistant}),
        control=frozenset({0, 1, 2, 3, system, user, assistant}),
    )


def chatml_format(pieces: Sequence[str]) -> PromptFormat:
    """Raises KeyError with the name of a piece that is missing."""
    start, end = _id(pieces, IM_START), _id(pieces, IM_END)
    document = {_id(pieces, END_OF_TEXT)} if END_OF_TEXT in pieces else set()
    thinks = THINK in pieces and THOUGHT in pieces
    return PromptFormat(
        name=CHATML,
        system=Opening((start,), "system\n"),
        user=Opening((start,), "user\n"),
        assistant=Opening((start,), "assistant\n"),
        after=Opening((end,), "\n"),
        ends=frozenset({start, end, *document}),
        control=frozenset({start, end, *document}),
        thinking=Thinking(f"{THINK}\n", f"{THINK}\n\n{THOUGHT}\n\n", _id(pieces, THOUGHT)) if thinks else None,
    )


def _id(pieces: Sequence[str], name: str) -> int:
    try:
        return pieces.index(name)
    except ValueError:
        raise KeyError(name) from None
