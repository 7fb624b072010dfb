"""What the demo model is taught and asked: the TOML files of `corpus/` as frozen dataclasses.

Training, `bench/demo.py` and the tests read the corpus through this module alone, so they agree on what was held out of
training and on what counts as a right answer. Needs the standard library only (tomli on Python 3.10).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
CORPUS_FOLDER = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Question:
    """One question in one language. The same `id` in the other language is the same question."""

    id: str
    topic: str  # the file's name: models, quantization, usage, commands or talk
    lang: Language
    ask: tuple[str, ...]  # wordings in training
    held_out: str  # one wording that no training step sees
    answer: str


@dataclass(frozen=True)
class Other:
    """Questions about anything else, all with the one answer that says what the model is."""

    lang: Language
    ask: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Round:
    """A user's text and the assistant's answer to it."""

    user: str
    answer: str


@dataclass(frozen=True)
class Dialogue:
    """A conversation whose last user text can only be answered from the rounds before it."""

    id: str
    lang: Language
    history: tuple[Round, ...]
    ask: tuple[str, ...]  # wordings of the last user text in training
    held_out: str
    answer: str


@dataclass(frozen=True)
class Corpus:
    """Everything that was written for the demo model."""

    questions: tuple[Question, ...]
    others: tuple[Other, ...]
    dialogues: tuple[Dialogue, ...]

    def training_texts(self) -> Iterator[str]:
        """Every text that training may see, held-out wordings excluded: the tokenizer learns from these."""
        for question in self.questions:
            yield from (*question.ask, question.answer)
        for other in self.others:
            yield from (*other.ask, other.answer)
        for dialogue in self.dialogues:
            for past in dialogue.history:
                yield from (past.user, past.answer)
            yield from (*dialogue.ask, dialogue.answer)


def is_right(answer: str, expected: str) -> bool:
    """The same text but for whitespace: a small model either knows an answer by heart or is wrong."""
    return " ".join(answer.split()) == " ".join(expected.split())


def load_corpus(folder: Path = CORPUS_FOLDER) -> Corpus:
    """Reads every TOML file of `folder`, in the order of their names."""
    questions: list[Question] = []
    others: list[Other] = []
    dialogues: list[Dialogue] = []
    for path in sorted(folder.glob("*.toml")):
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        for table in tables.get("qa", ()):
            questions.extend(_questions(table, path.stem))
        others.extend(_other(table) for table in tables.get("other", ()))
        dialogues.extend(_dialogue(table) for table in tables.get("dialogue", ()))
    return Corpus(tuple(questions), tuple(others), tuple(dialogues))


def _questions(table: Mapping[str, Any], topic: str) -> Iterator[Question]:
    for lang in LANGUAGES:
        if lang in table:
            *ask, held_out = table[lang]["ask"]
            yield Question(table["id"], topic, lang, tuple(ask), held_out, table[lang]["answer"])


def _other(table: Mapping[str, Any]) -> Other:
    return Other(table["lang"], tuple(table["ask"]), tuple(table["held_out"]), table["answer"])


def _dialogue(table: Mapping[str, Any]) -> Dialogue:
    """`turns` alternates user and assistant; `last` rewords the last user text and holds its own last one out."""
    *past, last, answer = table["turns"]
    *ask, held_out = table["last"]
    wordings = tuple(dict.fromkeys((last, *ask)))
    return Dialogue(table["id"], table["lang"], _rounds(past), wordings, held_out, answer)


def _rounds(turns: Sequence[str]) -> tuple[Round, ...]:
    return tuple(Round(user, answer) for user, answer in zip(turns[::2], turns[1::2], strict=True))
