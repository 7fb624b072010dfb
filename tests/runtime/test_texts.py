"""The sample texts: there, in the expected script, without repetition, and nothing measured that was calibrated on."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from bq.runtime.evaluation import texts
from bq.runtime.evaluation.texts import TEXT_NAME, Kind, sample_text

KINDS: tuple[Kind, Kind] = ("evaluation", "calibration")
FOLDER = Path(texts.__file__).parent / "samples"
LEAST = {"evaluation.en": 11_000, "evaluation.zh": 6_000, "calibration.en": 16_000, "calibration.zh": 7_800}
_ENDS = re.compile(r"[.!?。！？\n]+")


def _part(kind: Kind, language: str) -> str:
    return (FOLDER / f"{kind}.{language}.txt").read_text(encoding="utf-8")


def _sentences(text: str) -> list[str]:
    found = (re.sub(r"\s+", "", sentence) for sentence in _ENDS.split(text))
    return [sentence for sentence in found if len(sentence) >= 8]


def _han(text: str) -> int:
    return len(re.findall("[\u4e00-\u9fff]", text))


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_is_the_chinese_one_and_the_english_one_behind_it(kind: Kind) -> None:
    assert sample_text(kind) == _part(kind, "zh") + "\n" + _part(kind, "en")
    assert TEXT_NAME == "bundled"


@pytest.mark.parametrize("name", LEAST)
def test_each_part_is_long_enough_to_say_something(name: str) -> None:
    assert len((FOLDER / f"{name}.txt").read_text(encoding="utf-8")) >= LEAST[name]


def test_the_folder_holds_these_parts_and_nothing_that_would_ship_unseen() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.txt" for name in LEAST}


def test_no_sentence_stands_in_both_kinds() -> None:
    first, second = (set(_sentences(sample_text(kind))) for kind in KINDS)
    assert len(first) > 300
    assert len(second) > 300
    assert not first & second


def test_the_two_kinds_share_no_long_run_of_characters_either() -> None:
    first, second = ({text[i : i + 40] for i in range(len(text) - 40)} for text in map(sample_text, KINDS))
    assert [run for run in first & second if not set(run) <= set(' -|:{}[]",\n')] == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_is_of_its_script(kind: Kind) -> None:
    chinese, english = _part(kind, "zh"), _part(kind, "en")
    assert _han(chinese) > 0.6 * len(chinese)
    assert _han(english) == 0
    assert sum(character.isascii() and character.isalpha() for character in english) > 0.7 * len(english)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_text_is_in_it(kind: Kind) -> None:
    strange = {c for c in sample_text(kind) if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs")}
    assert not strange
    assert "\ufffd" not in sample_text(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_no_sentence_is_said_twice(kind: Kind) -> None:
    counts = Counter(_sentences(sample_text(kind)))
    assert [sentence for sentence, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_phrases_hardly_repeat(kind: Kind) -> None:
    """A model learns a repetition as it reads and scores it for free: what counts is how many n-grams are new."""
    english = re.findall(r"[a-z']+", _part(kind, "en").lower())
    chinese = [character for character in _part(kind, "zh") if _han(character)]
    for units, size in ((english, 4), (chinese, 6)):
        runs = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
        assert len(set(runs)) > 0.985 * len(runs)
        assert max(Counter(runs).values()) <= 4
