"""Whatever is wrong with a file, `bq run` answers or says so in one line; nothing ends the process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.broken_gguf import broken, try_all
from tests.support.families import FAMILIES, Family
from tests.support.gguf_writer import take_apart
from tests.support.qwen_gguf import QwenShape, write_qwen

# Each family tries its own part of the corpus of eleven thousand; the step shares no factor with the corpus's own rhythm.
STEP, FLIPS = 101, 300
QWEN = QwenShape(hidden=32, heads=2, kv_heads=1, ffn=32, merges=20, quantized=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_broken_file_ends_the_process(converted: Callable[..., Path], family: Family) -> None:
    source = converted(family, "Q8_0", hidden=32, heads=2, ffn=32)
    outcomes = list(try_all(source, FAMILIES.index(family) * STEP // 4, STEP, FLIPS))
    assert [one for one in outcomes if not one.is_good] == []
    assert len(outcomes) > 70
    assert {one.code for one in outcomes} >= {0, 1}  # some are harmless: the corpus is not only what is refused at once


@pytest.mark.parametrize("shape", [QWEN, replace(QWEN, experts=4)], ids=["qwen2", "qwen3moe"])
def test_no_broken_file_of_a_later_model_ends_the_process(tmp_path: Path, shape: QwenShape) -> None:
    source = write_qwen(tmp_path / "x.gguf", shape)
    outcomes = list(try_all(source, 7, 3 * STEP, FLIPS))
    assert [one for one in outcomes if not one.is_good] == []
    assert {one.code for one in outcomes} >= {0, 1}


def test_the_corpus_is_the_same_at_every_call(converted: Callable[..., Path]) -> None:
    parts = take_apart(converted("b2-7b", "Q8_0", hidden=32, heads=2, ffn=32))
    once, again = ([(name, make()) for name, make in list(broken(parts, flips=20))[-60:]] for _ in range(2))
    assert once == again
