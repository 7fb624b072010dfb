"""Checkpoints to convert, and a disk that is soon full."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.families import write_checkpoint
from tests.support.stored import Stored, stored

from .common import SLOW, SMALL, Bq


@pytest.fixture
def bq(bq_command: Path, tmp_path: Path) -> Bq:
    return Bq(bq_command, tmp_path)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "mine-chat"
    write_checkpoint(folder, SMALL)
    return folder


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow") / "slow-chat"
    write_checkpoint(folder, SLOW)
    return folder


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NaN in the tensor that is written last."""
    folder = tmp_path_factory.mktemp("spoiled") / "bad-chat"
    last = "model.layers.31.mlp.up_proj.weight"
    bad = np.ones((96, 64), "<f4")
    bad[-1, -1] = np.nan

    def edit(tensors: list[Stored]) -> list[Stored]:
        return [stored(last, bad) if one.name == last else one for one in tensors]

    write_checkpoint(folder, SMALL, edit=edit)
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a tmpfs of some bytes, where the system allows it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip("no tmpfs can be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)
