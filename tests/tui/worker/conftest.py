"""A model that never stops, and an engine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bq.runtime.fit import LoadOptions
from bq.tui.engine import Engine
from tests.support.scripted import byte_tokens
from tests.support.tokenizer import ASSISTANT_ID


@pytest.fixture(scope="module")
def endless(scripted: Callable[..., Path]) -> Path:
    """Says xyxyxy… for as long as it may."""
    x, y = byte_tokens("xy")
    return scripted({ASSISTANT_ID: x, x: y, y: x})


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(LoadOptions(threads=1, batch=1))
    yield made
    made.close()
