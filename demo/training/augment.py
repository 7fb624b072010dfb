"""The ways in which people type the same question, so that a wording never seen is not a surprise.

Input: one wording of the corpus. Output: a text that asks the same. What is kept is what tells one question from
another: a word is dropped or changed the more readily, the more questions share it.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .phrases import FILLERS, NAMES, PREFIXES, SUFFIXES, SYNONYMS

_WORD = re.compile(r"[A-Za-z0-9_./'-]*[A-Za-z0-9_/'-]|\s+|.", re.S)
_CJK = re.compile(r"[\u3400-\u9fff]")


def words(text: str) -> list[str]:
    """Words, runs of spaces, single Chinese characters and marks; joined they are the text again."""
    return _WORD.findall(text)


class Augmenter:
    """Rewords questions with its own random numbers, so that a seed gives the same training set again."""

    def __init__(self, questions: Iterable[Sequence[str]], seed: int, strength: float = 1.0) -> None:
        """`questions` holds the training wordings question by question: they tell which words are common."""
        self._random = random.Random(seed)
        self.strength = strength
        self._shared: Counter[str] = Counter()
        for wordings in questions:
            self._shared.update({word.lower() for wording in wordings for word in words(wording)})

    def __call__(self, wordings: Sequence[str], lang: str) -> str:
        """One wording, now and then spliced with another of the same question, then roughened."""
        text = self._random.choice(wordings)
        for probability, change in self._changes(wordings, lang):
            if self._random.random() < probability * self.strength:
                changed = change(text)
                text = changed if changed.strip() else text
        return text

    def _changes(self, wordings: Sequence[str], lang: str) -> list[tuple[float, Callable[[str], str]]]:
        return [
            (0.10, lambda text: self._splice(text, wordings, lang)),
            (0.35, lambda text: self._synonym(text, lang)),
            (0.15, lambda text: self._synonym(text, lang)),
            (0.30, lambda text: self._drop(text, self._random.choice((0.15, 0.3, 0.5)))),
            (0.08, lambda text: self._swap(text)),
            (0.10, lambda text: self._insert(text, lang)),
            (0.35, self._end),
            (0.22, lambda text: self._prefix(text, lang)),
            (0.15, lambda text: text.rstrip("?？.。!！ ") + self._random.choice(SUFFIXES[lang])),
            (0.30, self._case),
            (0.10, self._typo),
            (0.25, self._spacing),
            (0.08, lambda text: text.translate(self._random.choice((_TO_HALF, _TO_FULL)))),
        ]

    def _commonness(self, word: str) -> float:
        """0 for a name or a word of one question alone, 1 for a word that a score of questions share."""
        if word.lower() in NAMES or not (
            (word.isalpha() and word[1:].islower()) or (len(word) == 1 and not word.isdigit())
        ):
            return 0.0
        return min(1.0, max(0, self._shared[word.lower()] - 1) / 20)

    def _drop(self, text: str, rate: float) -> str:
        """Loses words, the common ones first, but never the two rarest."""
        parts = words(text)
        ranked = sorted(
            {part for part in parts if part.strip("?？.。!！，, ")}, key=lambda word: self._shared[word.lower()]
        )
        rarest = set(ranked[:2])

        def keeps(word: str) -> bool:
            return word.isspace() or word in rarest or self._random.random() > max(0.02, self._commonness(word)) * rate

        return re.sub(r" {2,}", " ", "".join(filter(keeps, parts))).strip()

    def _swap(self, text: str) -> str:
        """Exchanges the two halves of the question, or two neighbouring words."""
        parts = words(text.rstrip("?？.。!！ "))
        solid = [index for index, part in enumerate(parts) if not part.isspace()]
        if len(solid) < 3:
            return text
        cut = self._random.randrange(1, len(solid) - 1)
        if self._random.random() < 0.5:
            left, right = solid[cut - 1], solid[cut]
            parts[left], parts[right] = parts[right], parts[left]
            return "".join(parts)
        joint = " " if parts[solid[cut] - 1].isspace() else ""
        return ("".join(parts[solid[cut] :]) + joint + "".join(parts[: solid[cut]])).strip()

    def _insert(self, text: str, lang: str) -> str:
        """Puts a common word somewhere, since such words must not decide."""
        parts = words(text)
        place = self._random.randrange(len(parts) + 1)
        filler = self._random.choice(FILLERS[lang])
        return (
            "".join([*parts[:place], f" {filler} " if lang == "en" else filler, *parts[place:]])
            .replace("  ", " ")
            .strip()
        )

    def _splice(self, text: str, wordings: Sequence[str], lang: str) -> str:
        other = self._random.choice(wordings)
        joint = self._random.choice((" ", ", ", ". ") if lang == "en" else ("，", "。", " "))
        return text.rstrip("?？.。!！ ") + joint + other

    def _prefix(self, text: str, lang: str) -> str:
        if lang == "en" and self._random.random() < 0.7 and text[:2].istitle():
            text = text[0].lower() + text[1:]
        return self._random.choice(PREFIXES[lang]) + text

    def _synonym(self, text: str, lang: str) -> str:
        lowered = text.lower()
        groups = list(SYNONYMS[lang])
        self._random.shuffle(groups)
        for group in groups:
            for member in group:
                found = _find_words(lowered, member) if member else -1
                if found >= 0:
                    other = self._random.choice(group)
                    capital = lang == "en" and text[found].isupper() and other[:1].isalpha()
                    other = other[:1].upper() + other[1:] if capital else other
                    return text[:found] + other + text[found + len(member) :]
        return text

    def _end(self, text: str) -> str:
        return text.rstrip("?？.。!！ ") + self._random.choice(
            ("", "", "", "?", "？", ".", "。", "!", "！", "??", "...")
        )

    def _case(self, text: str) -> str:
        kind = self._random.random()
        if kind < 0.7:
            return text.lower()
        if kind < 0.85:
            return text.upper()
        return text.title() if kind < 0.9 else text[:1].lower() + text[1:]

    def _typo(self, text: str) -> str:
        """One letter lost, doubled or exchanged with its neighbour, in a longer word."""
        parts = words(text)
        places = [index for index, part in enumerate(parts) if len(part) >= 5 and part.isascii()]
        if not places:
            return text
        index = self._random.choice(places)
        word = parts[index]
        at = self._random.randrange(1, len(word) - 1)
        parts[index] = self._random.choice(
            (
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            )
        )
        return "".join(parts)

    def _spacing(self, text: str) -> str:
        """Spaces between Chinese and Latin script come and go."""
        if not _CJK.search(text):
            return text
        if self._random.random() < 0.7:
            return re.sub(r"(?<=[\u3400-\u9fff]) | (?=[\u3400-\u9fff])", "", text)
        return re.sub(r"(?<=[\u3400-\u9fff])(?=[A-Za-z0-9])|(?<=[A-Za-z0-9])(?=[\u3400-\u9fff])", " ", text)


_TO_HALF = str.maketrans("，。？！：；（）“”", ',.?!:;()""')
_TO_FULL = str.maketrans(",?!:;()", "，？！：；（）")


def _find_words(text: str, phrase: str) -> int:
    """Where `phrase` stands in `text`, as whole words if it is Latin; -1 if nowhere."""
    if not phrase.isascii():
        return text.find(phrase)
    found = re.search(rf"(?<![a-z0-9_]){re.escape(phrase)}(?![a-z0-9_])", text)
    return found.start() if found else -1
