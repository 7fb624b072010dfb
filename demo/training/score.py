"""How often the network answers right, greedily.

A greedy answer is the expected one exactly if, with the expected answer given, every next piece has the highest logit.
So one forward pass per question decides, without generating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from corpus import Corpus, Language
from sentencepiece import SentencePieceProcessor
from tokenizer import ASSISTANT_ID, EOS_ID, USER_ID, encode

from .network import Network
from .samples import prompt

_IDS_PER_BATCH = 16_384


@dataclass(frozen=True)
class Exam:
    """One prompt with the answer that it must get."""

    part: str
    lang: Language
    asked: str
    expected: str
    prompt: list[int]
    answer: list[int]  # with eos


def exams(corpus: Corpus, tokenizer: SentencePieceProcessor) -> list[Exam]:
    """Every wording of the corpus; `part` says what it proves."""

    def exam(part: str, lang: Language, asked: str, expected: str, ids: list[int]) -> Exam:
        return Exam(part, lang, asked, expected, ids, [*encode(tokenizer, expected), EOS_ID])

    found: list[Exam] = []
    for item in (*corpus.questions, *corpus.others):
        held_out = (item.held_out,) if isinstance(item.held_out, str) else item.held_out
        parts = (
            ("training", "held-out") if isinstance(item.held_out, str) else ("off-topic training", "off-topic held-out")
        )
        for part, wordings in zip(parts, (item.ask, held_out), strict=True):
            found += [exam(part, item.lang, text, item.answer, prompt(tokenizer, text)) for text in wordings]
    for talk in corpus.dialogues:
        for part, wordings in (("dialogue training", talk.ask), ("dialogue held-out", (talk.held_out,))):
            for text in wordings:
                found.append(exam(part, talk.lang, text, talk.answer, prompt(tokenizer, text, talk.history)))
    return found


@torch.inference_mode()
def failures(network: Network, asked: Sequence[Exam], norm_head: bool = True) -> list[Exam]:
    """The exams whose greedy answer is not the expected one."""
    failed: list[Exam] = []
    order = sorted(asked, key=lambda exam: len(exam.prompt) + len(exam.answer))
    while order:
        longest = len(order[-1].prompt) + len(order[-1].answer)
        batch, order = order[-(_IDS_PER_BATCH // longest) :], order[: -(_IDS_PER_BATCH // longest)]
        failed += _failed_batch(network, batch, norm_head)
    return failed


def _failed_batch(network: Network, batch: Sequence[Exam], norm_head: bool) -> list[Exam]:
    longest = max(len(exam.prompt) + len(exam.answer) for exam in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, exam in enumerate(batch):
        whole = exam.prompt + exam.answer
        ids[row, : len(whole)] = torch.tensor(whole)
    hidden = network.hidden(ids.to(network.lm_head.device))
    failed = []
    for row, exam in enumerate(batch):
        start = len(exam.prompt) - 1
        best = network.logits(hidden[row, start : start + len(exam.answer)], norm_head).argmax(-1)
        if best.tolist() != exam.answer:
            failed.append(exam)
    return failed


@torch.inference_mode()
def greedy(network: Network, ids: Sequence[int], norm_head: bool = True, longest: int = 128) -> list[int]:
    """Generates without a cache: slow, for showing what goes wrong."""
    answer: list[int] = []
    while len(answer) < longest:
        hidden = network.hidden(torch.tensor([[*ids, *answer]], device=network.lm_head.device))
        following = int(network.logits(hidden[0, -1], norm_head).argmax())
        if following in (EOS_ID, USER_ID, ASSISTANT_ID):
            break
        answer.append(following)
    return answer


def scores(asked: Sequence[Exam], failed: Sequence[Exam]) -> dict[str, tuple[int, int]]:
    """Right answers and questions, for each part and language."""
    table: dict[str, tuple[int, int]] = {}
    wrong = {id(exam) for exam in failed}
    for exam in asked:
        for key in (exam.part, f"{exam.part} {exam.lang}"):
            right, total = table.get(key, (0, 0))
            table[key] = (right + (id(exam) not in wrong), total + 1)
    return table
