"""`bq repair` as a person runs it: what it says, what it prints, its exit status."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_writer import take_apart
from tests.support.old_converters import as_old
from tests.tui.conftest import Bq

SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 64}


@pytest.fixture
def right(converted: Callable[..., Path]) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def old(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "old.gguf"
    path.write_bytes(as_old(take_apart(right)).to_bytes())
    return path


def test_it_says_what_is_wrong_and_prints_the_new_path_alone(bq: Bq, old: Path) -> None:
    done = bq("repair", old)
    new = old.with_name("old-repaired.gguf")
    assert (done.returncode, done.stdout.decode()) == (0, f"{new}\n")
    told = done.stderr.decode()
    assert "old.gguf (Baichuan 2, chat): 6 things are wrong." in told
    assert "206 pieces have a wrong type, so texts get wrong token ids: 206 NORMAL → USER_DEFINED." in told
    assert "→ They are typed by the layout of Baichuan 2 (user-defined: ids 3 to 210)." in told
    assert "Checked: nothing is left to repair; 291 tensors are copied byte for byte" in told
    assert "\x1b" not in told
    again = bq("repair", new)
    assert (again.returncode, again.stdout.decode()) == (0, f"{new}\n")
    assert "needs no repair and is left alone" in again.stderr.decode()
    assert sorted(path.name for path in old.parent.iterdir()) == ["old-repaired.gguf", "old.gguf"]


def test_a_dry_run_writes_nothing(bq: Bq, old: Path) -> None:
    text, data = bq("repair", old, "--dry-run"), bq("repair", old, "--dry-run", "--json")
    assert (text.returncode, data.returncode, text.stderr) == (0, 0, b"")
    assert "6 things are wrong" in text.stdout.decode()
    found = json.loads(data.stdout)
    assert found["needs_repair"]
    assert found["can_be_repaired"]
    assert [one["name"] for one in found["findings"] if one["verdict"] == "fault"] == [
        "token-types",
        "role-pieces",
        "add-space-prefix",
        "add-bos-token",
        "stop",
        "chat-template",
    ]
    assert list(old.parent.iterdir()) == [old]


def test_it_speaks_chinese(bq: Bq, old: Path) -> None:
    told = bq("--lang", "zh", "repair", old, "--dry-run").stdout.decode()
    assert "有 6 处问题" in told
    assert "角色词元" in told
    assert "→ 改为 CONTROL。" in told


def test_a_wrong_use_is_told_in_a_line(bq: Bq, old: Path) -> None:
    for arguments, words in (
        (("--json",), "--dry-run"),
        (("--output-type", "Q9"), "Choose one of F32"),
        (("-o", old), "never changed"),
    ):
        done = bq("repair", old, *arguments)
        assert done.returncode in (1, 2)
        assert done.stdout == b""
        assert words in done.stderr.decode().splitlines()[-1]


def test_what_cannot_be_repaired_ends_with_1(bq: Bq, tmp_path: Path, converted: Callable[..., Path]) -> None:
    path = tmp_path / "lost.gguf"
    path.write_bytes(as_old(take_apart(converted("b1-7b", "Q8_0", **SMALL, normalized_head=True))).to_bytes())
    done, looked = bq("repair", path), bq("repair", path, "--dry-run", "--json")
    assert (done.returncode, done.stdout) == (1, b"")
    assert "Convert the release again with `bq convert`" in done.stderr.decode().splitlines()[-1]
    assert (looked.returncode, json.loads(looked.stdout)["can_be_repaired"]) == (1, False)
    assert list(tmp_path.iterdir()) == [path]
