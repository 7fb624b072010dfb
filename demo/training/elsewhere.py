"""Questions about anything but bq and Baichuan, put together from frames and subjects.

The frames are those that questions about bq have, too, so the network learns that the subject decides: an unfamiliar
subject means the answer that says what the model is.
"""

from __future__ import annotations

import random
from pathlib import Path

from corpus import tomllib

_TEXTS = Path(__file__).with_suffix(".toml")


class Elsewhere:
    """Draws such questions. Subjects that the corpus asks about are left out."""

    def __init__(self, asked: str, generator: random.Random) -> None:
        self._random = generator
        texts = tomllib.loads(_TEXTS.read_text(encoding="utf-8"))
        self._frames = {lang: texts[lang]["frames"] for lang in texts}
        self._subjects = {
            lang: [subject for subject in texts[lang]["subjects"] if subject.lower() not in asked.lower()]
            for lang in texts
        }

    def __call__(self, lang: str) -> str:
        one, other = self._random.sample(self._subjects[lang], 2)
        numbers = {"a": self._random.randrange(2, 1000), "b": self._random.randrange(2, 1000)}
        return self._random.choice(self._frames[lang]).format(x=one, y=other, **numbers)
