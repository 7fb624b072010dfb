"""A store of its own for each test, and a clock that can be put forward."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bq.tui import store as store_module
from bq.tui.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conversations.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock(3600)`: it is so much later from now on."""
    later = 0.0
    real = time.time
    monkeypatch.setattr(store_module.time, "time", lambda: real() + later)

    def advance(seconds: float) -> None:
        nonlocal later
        later += seconds

    return advance
