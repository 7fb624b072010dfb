"""Models, loaded once, and a session of one of them."""

from collections.abc import Callable, Iterator

import pytest

from bq.runtime import session
from tests.support.contexts import Loaded
from tests.support.families import Family

from .common import IDS, MODEL, TALK, Convert


@pytest.fixture(scope="session")
def models(converted: Convert) -> Iterator[Callable[[Family], Loaded]]:
    loaded: dict[Family, Loaded] = {}

    def give(family: Family = "b2-7b") -> Loaded:
        if family not in loaded:
            loaded[family] = Loaded(converted(family))
        return loaded[family]

    yield give
    for one in loaded.values():
        one.close()


@pytest.fixture(scope="session")
def saved(models: Callable[..., Loaded], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A session of IDS, as bytes."""
    path = tmp_path_factory.mktemp("saved") / "s"
    with models().engine() as engine:
        engine.prefill(IDS)
        assert session.save(engine, MODEL, path, TALK) == len(IDS)
    return path.read_bytes()
