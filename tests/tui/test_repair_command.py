"""`bq repair` as a person runs it: what it says, what it prints, its exit status."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bq.runtime.language import set_language
from bq.tui.main import run
from tests.support.broken_gguf import strings
from tests.support.gguf_writer import ARRAY, STRING, array, take_apart
from tests.support.old_converters import as_old
from tests.tui.conftest import Bq

SMALL: dict[str, Any] = {"hidden": 64, "heads": 2, "ffn": 96}
Repair = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repair(capsys: pytest.CaptureFixture[str]) -> Repair:
    """`repair(path, "--dry-run")`: exit status, stdout, stderr; in this process, for starting one costs more than all of it."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = run(["repair", *map(str, arguments)], debug=False)
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def right(converted: Callable[..., Path]) -> Path:
    return converted("b2-7b", "Q8_0", **SMALL)


@pytest.fixture
def old(tmp_path: Path, right: Path) -> Path:
    path = tmp_path / "old.gguf"
    path.write_bytes(as_old(take_apart(right)).to_bytes())
    return path


def test_it_says_what_is_wrong_and_prints_the_new_path_alone(bq: Bq, repair: Repair, old: Path) -> None:
    """As the installed command."""
    done = bq("repair", old)
    new = old.with_name("old-repaired.gguf")
    assert (done.returncode, done.stdout.decode()) == (0, f"{new}\n")
    told = done.stderr.decode()
    assert "old.gguf (Baichuan 2, chat): 6 things are wrong." in told
    assert "206 pieces have a wrong type, so texts get wrong token ids: 206 NORMAL → USER_DEFINED." in told
    assert "→ They are typed by the layout of Baichuan 2 (user-defined: ids 3 to 210)." in told
    assert "Checked: nothing is left to repair; 291 tensors are copied byte for byte" in told
    assert "\x1b" not in told
    status, out, said = repair(new)
    assert (status, out) == (0, f"{new}\n")
    assert "needs no repair and is left alone" in said
    assert sorted(path.name for path in old.parent.iterdir()) == ["old-repaired.gguf", "old.gguf"]


def test_a_dry_run_writes_nothing(repair: Repair, old: Path) -> None:
    status, out, said = repair(old, "--dry-run")
    assert (status, said) == (0, "")
    assert "6 things are wrong" in out
    status, out, said = repair(old, "--dry-run", "--json", "-o", old.with_name("x.gguf"))
    assert (status, said) == (0, "")
    found = json.loads(out)
    assert found["needs_repair"]
    assert found["can_be_repaired"]
    assert found["output"] == str(old.with_name("x.gguf"))
    assert [one["name"] for one in found["findings"] if one["verdict"] == "fault"] == [
        "token-types",
        "role-pieces",
        "add-space-prefix",
        "add-bos-token",
        "stop",
        "chat-template",
    ]
    assert list(old.parent.iterdir()) == [old]


def test_it_speaks_chinese(repair: Repair, old: Path) -> None:
    set_language("zh")
    _, told, _ = repair(old, "--dry-run")
    assert "有 6 处问题" in told
    assert "角色词元" in told
    assert "→ 改为 CONTROL。" in told


def test_names_in_a_file_cannot_control_the_terminal(repair: Repair, tmp_path: Path, right: Path) -> None:
    """The names of its role pieces are shown; those of a file of ours may be any."""
    parts = take_apart(right)
    names = strings(parts)
    names[195:197] = "\x1b[2J\u202e", "\udcff\x9b"
    parts = parts.with_key("tokenizer.ggml.tokens", ARRAY, array(STRING, names))
    types = parts.key("tokenizer.ggml.token_type")
    ordinary = types.value[: 12 + 4 * 195] + bytes((1, 0, 0, 0)) * 2 + types.value[12 + 4 * 197 :]
    path = tmp_path / "x.gguf"
    path.write_bytes(parts.with_key(types.name, types.kind, ordinary).to_bytes())
    for options in ((), ("--json",)):
        status, out, _ = repair(path, "--dry-run", *options)
        assert status == 0
        assert all(line.isprintable() for line in out.split("\n"))
    assert "\\x1b[2J\\u202e \\xff\\x9b are NORMAL" in repair(path, "--dry-run")[1]


def test_a_wrong_use_is_told_in_a_line(repair: Repair, old: Path) -> None:
    for arguments, words in (
        (("--json",), "--dry-run"),
        (("--output-type", "Q9"), "Choose one of F32"),
        (("-o", old), "never changed"),
    ):
        status, out, said = repair(old, *arguments)
        assert (status, out) == (2, "")
        assert words in said.splitlines()[-1]


def test_what_cannot_be_repaired_ends_with_1(repair: Repair, tmp_path: Path, converted: Callable[..., Path]) -> None:
    path = tmp_path / "lost.gguf"
    path.write_bytes(as_old(take_apart(converted("b1-7b", "Q8_0", **SMALL, normalized_head=True))).to_bytes())
    status, out, said = repair(path)
    assert (status, out) == (1, "")
    assert "Convert the release again with `bq convert`" in said.splitlines()[-1]
    status, out, _ = repair(path, "--dry-run", "--json")
    assert (status, json.loads(out)["can_be_repaired"]) == (1, False)
    assert list(tmp_path.iterdir()) == [path]
