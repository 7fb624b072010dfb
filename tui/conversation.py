"""What was asked and answered, as plain objects: the screen draws them, the engine reads them, the store keeps them.

A conversation is a tree of messages, because a question can be asked in other words and an answer made anew: those are
siblings, and nothing that was said is lost. One path through the tree is on the screen, from the first message to `head`.
A round is one question on that path with its answer. A round without an answer (failed, or stopped before the first word)
stays on the screen and is not sent.
"""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bq.runtime.prompt import Message, split_rounds
from bq.tui.thinking import spoken

Mode = Literal["chat", "instruct", "complete"]
Role = Literal["user", "assistant"]
Stop = Literal["", "end", "length", "stop", "cancel", "error", "incomplete"]  # "" while the answer is being written

_HEADING_CHARACTERS = 60


def new_id() -> str:
    """16 hexadecimal digits that no other conversation or message has, made here so that nothing waits for the store."""
    return secrets.token_hex(8)


@dataclass
class Node:
    """A message and its place in the tree. Of an answer: how it ended, who wrote it, in how many tokens and seconds.

    `pinned` is a question's: its round stays in the context when older ones are left out.
    """

    id: str
    parent: str | None
    role: Role
    content: str = ""
    stop: Stop = "end"
    model: str = ""
    pinned: bool = False
    created: float = field(default_factory=time.time)  # seconds since 1970
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Round:
    """A question of the path, and its answer if there is one."""

    question: Node
    answer: Node | None = None

    @property
    def is_sent(self) -> bool:
        """Whether later questions have it before them."""
        return self.answer is not None and bool(self.answer.content)


@dataclass
class Conversation:
    """A tree of messages. `draft` is what is written and not yet sent; `title` is empty until someone gives it one."""

    id: str = field(default_factory=new_id)
    mode: Mode = "chat"
    system: str = ""
    title: str = ""
    draft: str = ""
    created: float = field(default_factory=time.time)
    nodes: dict[str, Node] = field(default_factory=dict)  # by id, parents before their children
    head: str | None = None
    _before: str | None = None  # the head to go back to if an answer that was begun brings nothing
    _stop_before: Stop = "end"  # of an answer that is being continued
    _length_before: int = 0

    @classmethod
    def of(cls, messages: Sequence[Message], mode: Mode = "chat", model: str = "") -> "Conversation":
        """A conversation of these messages: a system prompt, if any, and questions each with its answer by this model."""
        system, rounds = split_rounds(messages)
        made = cls(mode=mode, system=system)
        for message in (message for one in rounds for message in one):
            role: Role = "user" if message.role == "user" else "assistant"
            made._add(Node(new_id(), made.head, role, message.content, model=model if role == "assistant" else ""))
        return made

    # The path

    def path(self) -> list[Node]:
        """The messages on the screen, from the first to the head."""
        found: list[Node] = []
        at = self.head
        while at is not None:
            found.append(self.nodes[at])
            at = found[-1].parent
        return found[::-1]

    @property
    def rounds(self) -> list[Round]:
        """The path's questions with their answers."""
        found: list[Round] = []
        for node in self.path():
            if node.role == "user":
                found.append(Round(node))
            elif found and found[-1].answer is None:
                found[-1] = Round(found[-1].question, node)
        return found

    @property
    def current(self) -> Round | None:
        """The last round."""
        return rounds[-1] if (rounds := self.rounds) else None

    @property
    def last_answer(self) -> str:
        """What was said last, without what was thought before it."""
        found = (one.answer.content for one in reversed(self.rounds) if one.answer and one.answer.content)
        return spoken(next(found, ""))

    @property
    def heading(self) -> str:
        """The title, else the beginning of the first question: in a line."""
        return self.title or heading_of(next((node.content for node in self.path()), ""))

    def versions(self, id: str) -> list[Node]:
        """A message and its siblings, in the order in which they were made."""
        node = self.nodes[id]
        return [one for one in self.nodes.values() if one.parent == node.parent and one.role == node.role]

    def children(self, id: str | None) -> list[Node]:
        """The messages right after one."""
        return [one for one in self.nodes.values() if one.parent == id]

    def show(self, id: str) -> None:
        """Bring a message onto the path, and below it what was said last."""
        self.head = id
        while below := self.children(self.head):
            self.head = below[-1].id

    # Asking and answering

    def ask(self, question: str) -> Node:
        """Add a question at the end of the path."""
        return self._add(Node(new_id(), self.head, "user", question))

    def edit(self, id: str, question: str) -> Node:
        """Ask a question of the path in other words, as a sibling: what followed the old one stays with it."""
        self.head = self.nodes[id].parent
        return self.ask(question)

    def begin(self, model: str = "") -> Node:
        """Open the answer to the path's last question; an answer that it has already becomes a sibling.

        Raises ValueError if nothing was asked.
        """
        last = self.current
        if last is None:
            raise ValueError("nothing was asked")
        self._before, self._length_before = self.head, 0
        self.head = last.question.id
        return self._add(Node(new_id(), self.head, "assistant", stop="", model=model))

    def go_on(self) -> Node | None:
        """Open the path's last answer again, to be continued; None if there is none."""
        last = self.current
        if last is None or last.answer is None or not last.answer.content:
            return None
        self._before, self._stop_before, self._length_before = self.head, last.answer.stop, len(last.answer.content)
        self.head = last.answer.id
        last.answer.stop = ""
        return last.answer

    def write(self, text: str) -> None:
        """Add to the open answer."""
        self._open().content += text

    def finish(self, stop: Stop, tokens: int = 0, seconds: float = 0.0) -> Node | None:
        """End the open answer and return it; None for one that brought nothing, whose place the one before takes again."""
        answer = self._open()
        if not answer.content:
            del self.nodes[answer.id]
            self.head = self._before
            return None
        was_longer = len(answer.content) > self._length_before
        answer.stop = stop if was_longer or stop == "end" else self._stop_before
        answer.tokens, answer.seconds = answer.tokens + tokens, answer.seconds + seconds
        return answer

    @property
    def is_open(self) -> bool:
        """Whether an answer is being written."""
        return self.head is not None and self.nodes[self.head].role == "assistant" and not self.nodes[self.head].stop

    def undo(self) -> Node | None:
        """Take the last round off the path and return its question; it stays in the tree. None if there is none."""
        last = self.current
        if last is None:
            return None
        self.head = last.question.parent
        return last.question

    def fork(self, id: str) -> "Conversation":
        """A new conversation that begins with the path up to this message, by copies of its own."""
        names: dict[str | None, str | None] = {None: None}
        made = Conversation(mode=self.mode, system=self.system, title=self.title)
        for node in self.path():
            names[node.id] = new_id()
            made._add(replace(node, id=names[node.id] or "", parent=names[node.parent]))
            if node.id == id:
                break
        return made

    # What the model reads

    def messages(self) -> tuple[Message, ...]:
        """What the model is to read for the open answer: the path up to it, with what there is of it if it is continued."""
        rounds = self.rounds
        messages = list(self._asking(rounds[:-1], rounds[-1].question.content if rounds else None))
        if rounds and rounds[-1].is_sent and rounds[-1].answer:
            messages.append(Message("assistant", rounds[-1].answer.content))
        return tuple(messages)

    def messages_with(self, question: str) -> tuple[Message, ...]:
        """What the model would have to read if this were asked next."""
        return self._asking(self.rounds, question)

    def messages_again(self) -> tuple[Message, ...]:
        """What the model has to read to answer the path's last question anew."""
        rounds = self.rounds
        return self._asking(rounds[:-1], rounds[-1].question.content) if rounds else ()

    def transcript(self) -> tuple[Message, ...]:
        """What was said on the path: whole rounds."""
        return self._asking(self.rounds, None)

    def pinned(self) -> frozenset[int]:
        """Which of the rounds that are sent stay in the context, numbered from 0."""
        sent = [one for one in self.rounds if one.is_sent]
        return frozenset(i for i, one in enumerate(sent) if one.question.pinned)

    def _asking(self, earlier: Iterable[Round], question: str | None) -> tuple[Message, ...]:
        messages = [Message("system", self.system)] if self.system else []
        for one in earlier:
            if one.answer and one.is_sent:
                messages += [Message("user", one.question.content), Message("assistant", spoken(one.answer.content))]
        if question is not None:
            messages.append(Message("user", question))
        return tuple(messages)

    def _add(self, node: Node) -> Node:
        self.nodes[node.id] = node
        self.head = node.id
        return node

    def _open(self) -> Node:
        if not self.is_open:
            raise ValueError("no answer is open")
        return self.nodes[self.head or ""]


def heading_of(text: str) -> str:
    """The beginning of a text in one line, for a list."""
    line = " ".join(text.split())
    return line if len(line) <= _HEADING_CHARACTERS else line[: _HEADING_CHARACTERS - 1] + "…"


def instruction_text(instruction: str, material: str) -> str:
    """An instruction with the text that it is about below it."""
    return f"{instruction}\n\n{material}" if material.strip() else instruction
