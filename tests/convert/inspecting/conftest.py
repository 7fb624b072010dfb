"""A file to look at, files made of it, and checkpoints to be changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.convert.inspect.model import ModelReport, inspect_model
from tests.support.families import Shape, write_checkpoint
from tests.support.gguf_writer import Parts, take_apart

from .common import SMALL, Convert


@pytest.fixture
def path(converted: Convert) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def edited(path: Path, tmp_path: Path) -> Callable[..., ModelReport]:
    """The report of that file after an edit."""

    def make(edit: Callable[[Parts], Parts | bytes]) -> ModelReport:
        new = edit(take_apart(path))
        (tmp_path / "x.gguf").write_bytes(new if isinstance(new, bytes) else new.to_bytes())
        return inspect_model(tmp_path / "x.gguf")

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a small checkpoint, to be changed: each has its own copy."""
    kept: dict[Shape, Path] = {}

    def make(**shape: Any) -> Path:
        one = Shape(**(SMALL | {"vocab": 704, "form": "bin-shards"} | shape))
        if one not in kept:
            kept[one] = tmp_path_factory.mktemp("kept") / "mine-chat"
            write_checkpoint(kept[one], one)
        copy = tmp_path_factory.mktemp("copy") / "mine-chat"
        shutil.copytree(kept[one], copy)
        return copy

    return make
