"""Files of ours, changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.families import Family

from .common import SMALL, Convert, Edit, parts_of


@pytest.fixture
def changed(tmp_path: Path, converted: Convert) -> Callable[..., Path]:
    """`changed("b2-7b", edit)`: a file of ours, changed."""

    def make(family: Family, *edits: Edit, **shape: Any) -> Path:
        parts = parts_of(converted(family, "Q8_0", **(SMALL | shape)))
        for edit in edits:
            parts = edit(parts)
        path = tmp_path / "old.gguf"
        path.write_bytes(parts.to_bytes())
        return path

    return make
