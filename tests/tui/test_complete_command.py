"""`bq complete` for those who study a model: each token with its probability and what else the model thought of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bq.tui.study import piece_text
from tests.support.scripted import byte_tokens
from tests.tui.conftest import Bq

BANG = 73
GREEDY = ("--greedy", "--repeat-penalty", 1, "--threads", 1, "--ctx", 256)


@pytest.fixture(scope="session")
def base(scripted: Callable[..., Path]) -> Path:
    """A Base model: goes on after "!" with "é" in two byte pieces, then "x"."""
    first, second, x = byte_tokens("éx")
    return scripted({BANG: first, first: second, second: x}, chat=False)


def test_a_line_for_each_token_and_the_text_on_stderr(bq: Bq, base: Path) -> None:
    done = bq("complete", "-m", base, *GREEDY, "!", "--top-tokens", 2, "--max-tokens", 3)
    assert done.returncode == 0
    head, *rows = done.stdout.decode().splitlines()
    assert head.split() == ["TOKEN", "P", "LIKELIEST"]
    assert [row.split()[0] for row in rows] == [r'"\xc3"', r'"\xa9"', '"x"']
    for row in rows:
        token, share, _, likeliest = row.split()[:4]
        assert likeliest == token
        assert row.count("%") == 3
        assert float(share) > 0
    assert done.stderr.decode().splitlines() == ["éx", "The answer was cut at the limit (--max-tokens)."]


def test_json_gives_an_object_for_each_token(bq: Bq, base: Path) -> None:
    done = bq("complete", "-m", base, *GREEDY, "!", "--top-tokens", 3, "--json", "--max-tokens", 3)
    steps = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [step["id"] for step in steps] == byte_tokens("éx")
    assert [(step["text"], step.get("bytes")) for step in steps] == [(None, "c3"), (None, "a9"), ("x", None)]
    for step in steps:
        found = [one["probability"] for one in step["alternatives"]]
        assert found == sorted(found, reverse=True)
        assert len(found) == 3
        assert sum(found) <= 1
        assert step["probability"] == pytest.approx(np.exp(step["logprob"]))


def test_json_alone_is_a_wrong_use(bq: Bq, base: Path) -> None:
    done = bq("complete", "-m", base, "--json", "!")
    assert done.returncode == 2
    assert "--top-tokens" in done.stderr.decode()


def test_a_stop_text_ends_it(bq: Bq, base: Path) -> None:
    done = bq("complete", "-m", base, *GREEDY, "--stop", "zz", "--stop", "x", "--stats", "!")
    assert done.stdout.decode() == "é\n"
    assert "stop: stop" in done.stderr.decode()


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        (b" a", '" a"'),
        ("你".encode(), '"你"'),
        (b"\xe4", r'"\xe4"'),
        (b"", "⟨⟩"),
        (b"\n", r'"\n"'),
        (b"\x1b[2J", '"␛[2J"'),
    ],
)
def test_a_piece_is_shown_without_harm(piece: bytes, shown: str) -> None:
    assert piece_text(piece) == shown
