"""Models that say what the test expects, and the line mode with lines piped in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted import byte_tokens, saying
from tests.support.tokenizer import ASSISTANT_ID, pieces
from tests.tui.conftest import Bq

from .common import GREEDY, Scripted


@pytest.fixture(scope="session")
def speaker(scripted: Scripted) -> Path:
    """Answers everything with 完done."""
    return scripted(saying(byte_tokens("完done")))


@pytest.fixture(scope="session")
def endless(scripted: Scripted) -> Path:
    """Answers 123123…, without an end; digits are tokens of their own, so that an answer can be continued."""
    names = [piece.text for piece in pieces(2)]
    first, *rest = (names.index(digit) for digit in "123")
    return scripted({ASSISTANT_ID: first, **dict(zip((first, *rest), (*rest, first), strict=True))})


@pytest.fixture
def talk(bq: Bq, speaker: Path) -> Callable[..., Any]:
    """`talk("hello", "/list")`: these lines are piped in."""

    def run(*lines: str, options: tuple[object, ...] = (), **keywords: Any) -> Any:
        data = "".join(line + "\n" for line in lines).encode()
        return bq("chat", "-m", speaker, *GREEDY, *options, stdin=data, **keywords)

    return run
