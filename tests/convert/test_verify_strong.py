"""A model that magnifies every error, as strong adapters make one, is judged by what noise of that size does to it."""

from pathlib import Path

import numpy as np
import pytest

from bq.convert.adapter.read import Adapter, read_adapter
from bq.convert.convert import convert, prepare
from bq.convert.verify.against import Against, check_against
from bq.convert.verify.check import Check
from bq.convert.verify.forward import Forward
from bq.convert.verify.logit_checks import error_limit, noise_error
from tests.support.adapters import LINEAR, write_adapter
from tests.support.families import Shape, write_checkpoint
from tests.support.wrong_files import not_reordered, write_wrong

WEIGHT = 10  # the deltas are three times as large as the base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with its adapter beside it."""
    folder = tmp_path_factory.mktemp("strong")
    checkpoint = write_checkpoint(folder / "base", Shape("b2-7b", hidden=64, heads=2, ffn=64, form="safetensors"))
    write_adapter(folder / "adapter", checkpoint, LINEAR, rank=4)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> tuple[Adapter]:
    return (read_adapter(base / "adapter", WEIGHT),)


@pytest.fixture(scope="module")
def strong(base: Path, adapters: tuple[Adapter]) -> Path:
    """The merged file."""
    out = base / "strong.gguf"
    convert(prepare(base / "base", "Q8_0", adapters=adapters), out, threads=2)
    return out


def logits(path: Path, base: Path, adapters: tuple[Adapter]) -> Check:
    checks = check_against(path, base / "base", Against(2, 8, adapters=adapters))
    return next(check for check in checks if check.name == "logits")


def test_its_right_file_passes_though_it_is_further_away_than_others_are(
    strong: Path, base: Path, adapters: tuple[Adapter]
) -> None:
    found = logits(strong, base, adapters)
    assert found.verdict == "pass", found.text
    assert found.details["error"] > error_limit(0.01), "or the model is no example"
    assert found.details["limit"] > found.details["error"]


def test_where_weights_are_wrong_noise_is_no_excuse(strong: Path, base: Path, adapters: tuple[Adapter]) -> None:
    wrong = write_wrong(strong, base / "wrong.gguf", not_reordered)
    assert logits(wrong, base, adapters).verdict == "failure"


def test_noise_has_the_size_that_it_is_asked_for(base: Path, adapters: tuple[Adapter]) -> None:
    conversion = prepare(base / "base", "F32", adapters=adapters)
    plain, noisy = (Forward(conversion, threads=1, noise=noise)._weights for noise in (0.0, 0.05))
    name = "blk.3.ffn_down"
    columns = plain[f"{name}.weight"].columns
    eye = np.eye(columns, dtype=np.float32)
    one, other = plain.linear(eye, name), noisy.linear(eye, name)
    assert np.linalg.norm(other - one) / np.linalg.norm(one) == pytest.approx(0.05, rel=0.1)  # of 4,096 draws
    assert np.array_equal(other, noisy.linear(eye, name)), "the same each time"


def test_more_noise_more_error(base: Path, adapters: tuple[Adapter]) -> None:
    conversion = prepare(base / "base", "F32", adapters=adapters)
    found = [noise_error(conversion, [[1, 5, 9, 200]], noise, lambda part, what: None) for noise in (0.0, 0.0005, 0.05)]
    assert found[0] == 0
    assert 0 < found[1] < found[2]
