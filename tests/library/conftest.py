"""Small models that differ, for whatever keeps models apart; and processes that start at once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gguf_writer import STRING, encoded, take_apart
from tests.support.nursery import Nursery
from tests.support.nursery import nursery as a_nursery

Convert = Callable[..., Path]


@pytest.fixture(scope="session")
def contents(converted: Convert) -> tuple[bytes, ...]:
    """Four models whose headers differ by their names, and so their content."""
    parts = take_apart(converted("b2-7b", "Q8_0", hidden=32, heads=2, ffn=32))
    names = ("one", "two", "three", "four")
    return tuple(parts.with_key("general.name", STRING, encoded(STRING, name)).to_bytes() for name in names)


@pytest.fixture
def model(tmp_path: Path, contents: tuple[bytes, ...]) -> Path:
    path = tmp_path / "my model.gguf"
    path.write_bytes(contents[0])
    return path


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Where real processes are started from, for all tests of the library."""
    if os.name == "nt":
        pytest.skip("there is no fork")
    with a_nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found
