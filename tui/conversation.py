"""What was asked and answered, as plain objects: the screen draws them, the engine reads them, tests need neither.

A round is one question with its answer. A conversation of several rounds sends them all along; a single task sends
only its own. A round without an answer (failed, or stopped before the first word) stays on the screen and is not sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bq.runtime.prompt import Message, split_rounds

Stop = Literal["", "end", "length", "cancel", "error"]  # "" while the answer is being written


@dataclass
class Round:
    question: str
    answer: str = ""
    stop: Stop = ""
    previous: tuple[str, Stop] | None = None  # the answer that is being made anew


@dataclass
class Conversation:
    """Rounds in order. `single` is for one instruction at a time: nothing is carried over to the next."""

    system: str = ""
    single: bool = False
    rounds: list[Round] = field(default_factory=list)

    @property
    def current(self) -> Round | None:
        return self.rounds[-1] if self.rounds else None

    @property
    def last_answer(self) -> str:
        return next((r.answer for r in reversed(self.rounds) if r.answer), "")

    def take_up(self, messages: Sequence[Message]) -> None:
        """Begins with what was said before: a system prompt, if any, and questions each with its answer."""
        self.system, rounds = split_rounds(messages)
        self.rounds = [Round(question.content, answer.content, "end") for question, answer in rounds]

    def transcript(self) -> tuple[Message, ...]:
        """What was said, also in the last round: of an answer that is being made anew, what there is of it, or the old one."""
        messages = [Message("system", self.system)] if self.system else []
        for one in self.rounds:
            answer = one.answer or (one.previous[0] if one.previous else "")
            if answer:
                messages += [Message("user", one.question), Message("assistant", answer)]
        return tuple(messages)

    def ask(self, question: str) -> Round:
        if self.single:
            self.rounds.clear()
        self.rounds.append(Round(question))
        return self.rounds[-1]

    def ask_again(self) -> Round | None:
        """Opens the last round anew; its answer is kept until another one begins. None if there is no round."""
        last = self.current
        if last is None:
            return None
        last.previous = (last.answer, last.stop)
        last.answer, last.stop = "", ""
        return last

    def messages(self) -> tuple[Message, ...]:
        """What the model is to read for the round that is open: the last one, without its answer."""
        return self._asking(self.rounds[:-1], self.current.question if self.current else None)

    def messages_with(self, question: str) -> tuple[Message, ...]:
        """What the model would have to read if this were asked next."""
        return self._asking([] if self.single else self.rounds, question)

    def _asking(self, earlier: Sequence[Round], question: str | None) -> tuple[Message, ...]:
        messages = [Message("system", self.system)] if self.system else []
        for one in earlier:
            if one.answer:
                messages += [Message("user", one.question), Message("assistant", one.answer)]
        if question is not None:
            messages.append(Message("user", question))
        return tuple(messages)

    def write(self, text: str) -> None:
        self.rounds[-1].answer += text

    def finish(self, stop: Stop) -> Round:
        """Ends the open round. A new attempt that brought nothing gives the answer before it back."""
        last = self.rounds[-1]
        last.stop = stop
        if last.previous and not last.answer and stop in ("cancel", "error"):
            last.answer, last.stop = last.previous
        last.previous = None
        return last

    def clear(self) -> None:
        self.rounds.clear()


def instruction_text(instruction: str, material: str) -> str:
    """An instruction with the text that it is about below it."""
    return f"{instruction}\n\n{material}" if material.strip() else instruction
