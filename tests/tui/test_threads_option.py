"""More threads than cores are told of, and used all the same."""

from collections.abc import Callable
from typing import Any

import pytest

from bq.runtime import cpu


@pytest.mark.parametrize(("count", "is_told"), [(2, False), (3, True)])
def test_more_threads_than_cores_are_told_of(
    bq: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, count: int, is_told: bool
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: 2)
    done = bq("--lang", "en", "run", "-m", "none.gguf", "--threads", count, "hi")
    assert done.returncode == 2
    assert ("--threads 3 on 2 cores" in done.stderr.decode()) == is_told
