"""Training samples: conversations as token ids and labels, in the official prompt form.

A round is 195, the user's text, 196, the answer. A finished answer is labelled with eos where the next user piece
stands, as the release's fine-tuning does it, so eos never appears in the history. Loss on answers alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile

from corpus import Corpus, Dialogue, Other, Question, Round
from sentencepiece import SentencePieceProcessor
from tokenizer import ASSISTANT_ID, EOS_ID, USER_ID, encode

from .augment import Augmenter
from .elsewhere import Elsewhere

Item = Question | Dialogue | Other
IGNORED = -100
_CUT_ANSWERS = 0.6  # share of short samples whose answer is cut
_OTHERS_IN_A_ROUND = 60  # per language, beside each question once
_MADE_UP_OTHERS = 0.5  # share of them that is put together from frames and subjects
_SYSTEM_PROMPTS = (
    *(
        "You are a helpful assistant.",
        "Answer briefly.",
        "Be concise.",
        "Answer in one sentence.",
        "You are bq's assistant.",
    ),
    *(
        "You are an expert on Baichuan models.",
        "Be polite and precise.",
        "你是一个乐于助人的助手。",
        "请简短回答。",
        "用中文回答。",
    ),
    *(
        "你是百川大模型的专家。",
        "回答要准确。",
        "Answer truthfully.",
        "You are a support engineer.",
        "Keep it short and clear.",
    ),
)


@dataclass(frozen=True)
class Sample:
    """A sequence of ids; `labels[i]` is what should follow `ids[i]`, or IGNORED.

    `subjects[i]` is the number of the question where the answer to it begins, IGNORED elsewhere: an auxiliary
    target, so that the network settles what it was asked before the first piece of its answer.
    """

    ids: list[int]
    labels: list[int]
    subjects: list[int]


@dataclass(frozen=True)
class Turn:
    """One round as ids. `learn` says whether its answer is a target or only history; `cut` ends the answer early."""

    user: list[int]
    answer: list[int]
    subject: int = IGNORED
    learn: bool = True
    cut: int | None = None


def conversation(turns: Sequence[Turn], system: Sequence[int] = ()) -> Sample:
    """Strings rounds together as the release does."""
    ids, labels, subjects = list(system), [IGNORED] * len(system), [IGNORED] * len(system)
    for turn in turns:
        answer = turn.answer[: turn.cut]
        targets = [*turn.answer, EOS_ID][: len(answer) + 1]
        question = [USER_ID, *turn.user]
        ids += [*question, ASSISTANT_ID, *answer]
        labels += [IGNORED] * len(question) + (targets if turn.learn else [IGNORED] * len(targets))
        subjects += [IGNORED] * len(question) + [turn.subject] + [IGNORED] * len(answer)
    return Sample(ids, labels, subjects)


class Sampler:
    """Draws augmented samples for ever, from a seed."""

    def __init__(self, corpus: Corpus, tokenizer: SentencePieceProcessor, seed: int, strength: float = 1.0) -> None:
        self._random = random.Random(seed)
        self._tokenizer = tokenizer
        self._augment = Augmenter([question.ask for question in corpus.questions], seed + 1, strength)
        self._elsewhere = Elsewhere(
            "\n".join(text for question in corpus.questions for text in question.ask), self._random
        )
        self._items: list[Item] = [*corpus.questions, *corpus.dialogues]
        self._others = corpus.others
        answers = dict.fromkeys(item.answer for item in (*self._items, *self._others))
        self._answers = {answer: encode(tokenizer, answer) for answer in answers}
        self._decided = dict(zip(answers, decided_after(list(self._answers.values())), strict=True))
        self._subject = {answer: index for index, answer in enumerate(answers)}
        self._known = {wording: question.answer for question in corpus.questions for wording in question.ask}
        self._systems = [encode(tokenizer, text) for text in _SYSTEM_PROMPTS]
        self._queue: list[Item] = []

    @property
    def subjects(self) -> int:
        return len(self._subject)

    def short(self) -> Sample:
        """One question or one dialogue; most answers stop where nothing is left to decide."""
        item = self._next()
        turns = self._turns(item)
        if self._random.random() < _CUT_ANSWERS:
            turns[-1] = replace(turns[-1], cut=self._decided[item.answer] + self._random.randrange(1, 6))
        system = self._random.choice(self._systems) if self._random.random() < 0.06 else ()
        return conversation(turns, system)

    def long(self, length: int) -> Sample:
        """Unrelated rounds, up to `length` ids, so that what came before does not decide what comes next."""
        system = self._random.choice(self._systems) if self._random.random() < 0.2 else ()
        turns: list[Turn] = []
        size = len(system)
        while True:
            added = self._turns(self._next())
            size += sum(len(turn.user) + len(turn.answer) + 2 for turn in added)
            if size > length and turns:
                return conversation(turns, system)
            turns += added

    def _next(self) -> Item:
        """Every question and dialogue once in a round; the others, which are about anything, more often."""
        if not self._queue:
            self._queue = self._items + [other for other in self._others for _ in range(_OTHERS_IN_A_ROUND)]
            self._random.shuffle(self._queue)
        return self._queue.pop()

    def _turns(self, item: Item) -> list[Turn]:
        past = self._past(item) if isinstance(item, Dialogue) else ()
        user = self._encode_user(self._augment(self._wordings(item), item.lang))
        return [*past, Turn(user, self._answers[item.answer], self._subject[item.answer])]

    def _wordings(self, item: Item) -> Sequence[str]:
        """The texts that one augmented text is made of; those of an Other have nothing in common."""
        if not isinstance(item, Other):
            return item.ask
        made_up = self._random.random() < _MADE_UP_OTHERS
        return [self._elsewhere(item.lang) if made_up else self._random.choice(item.ask)]

    def _past(self, dialogue: Dialogue) -> Iterator[Turn]:
        """History is no target: the same question may have an answer of its own among the questions."""
        for past in dialogue.history:
            user = past.user if self._random.random() < 0.5 else self._augment([past.user], dialogue.lang)
            answer = self._known.get(past.user, past.answer) if self._random.random() < 0.5 else past.answer
            yield Turn(self._encode_user(user), encode(self._tokenizer, answer), learn=False)

    def _encode_user(self, text: str) -> list[int]:
        roughness = self._random.choice((0.0, 0.0, 0.0, 0.0, 0.05, 0.15))
        return encode(self._tokenizer, text, roughness)


def decided_after(answers: Sequence[Sequence[int]]) -> list[int]:
    """How many ids each answer shares at most with another one: from there on it only has to be known by heart."""
    order = sorted(range(len(answers)), key=lambda index: answers[index])
    shared = [0] * len(answers)
    for one, other in pairwise(order):
        length = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answers[one], answers[other], strict=False))
        )
        shared[one], shared[other] = max(shared[one], length), max(shared[other], length)
    return shared


def prompt(tokenizer: SentencePieceProcessor, user: str, history: Sequence[Round] = ()) -> list[int]:
    """The ids that an answer to `user` follows."""
    turns = [Turn(encode(tokenizer, past.user), encode(tokenizer, past.answer)) for past in history]
    return [*conversation(turns).ids, USER_ID, *encode(tokenizer, user), ASSISTANT_ID]
