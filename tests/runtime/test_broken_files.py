"""Whatever is wrong with a file, `bq run` answers or says so in one line; nothing ends the process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.broken_gguf import broken, try_all
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import take_apart

# Each family tries its own part of the corpus of eleven thousand; the step shares no factor with the corpus's own rhythm.
STEP, FLIPS = 101, 300


@pytest.mark.parametrize("family", FAMILIES)
def test_no_broken_file_ends_the_process(converted: Callable[..., Path], family: Family) -> None:
    source = converted(family, "Q8_0", hidden=32, heads=2, ffn=32)
    outcomes = list(try_all(source, FAMILIES.index(family) * STEP // 4, STEP, FLIPS))
    assert [one for one in outcomes if not one.is_good] == []
    assert len(outcomes) > 70
    assert {one.code for one in outcomes} >= {0, 1}  # some are harmless: the corpus is not only what is refused at once


def test_the_corpus_is_the_same_at_every_call(converted: Callable[..., Path]) -> None:
    parts = take_apart(converted("b2-7b", "Q8_0", hidden=32, heads=2, ffn=32))
    once, again = ([(name, make()) for name, make in list(broken(parts, flips=20))[-60:]] for _ in range(2))
    assert once == again
