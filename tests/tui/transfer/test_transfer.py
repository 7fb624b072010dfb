"""A file is read by what it is, and gets a name that every system takes."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.tui import transfer
from bq.tui.conversation import Conversation
from bq.tui.transfer import read_conversation, suggested_name, to_json, to_markdown

from .common import said, talk

# Files


def test_a_file_is_read_by_what_it_is(tmp_path: Path) -> None:
    made = talk("a\r\nb", "[]\n")
    for name, text in {
        "a.md": to_markdown(made),
        "a.JSON": to_json(made),
        "without": to_json(made),
        "plain.txt": to_markdown(made),
        "bom.json": "\ufeff" + to_json(made),
        "bom.md": "\ufeff" + to_markdown(made),
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        assert said(read_conversation(tmp_path / name)) == said(made), name


def test_what_cannot_be_read_is_a_line_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_BYTES", 100)
    (tmp_path / "big.md").write_bytes(b"x" * 101)
    (tmp_path / "full.md").write_bytes(b"x" * 100)
    (tmp_path / "latin.md").write_bytes(b"caf\xe9")
    (tmp_path / "a.md").write_bytes(b"[]")
    (tmp_path / "a.json").write_bytes(b"## You\nq")
    (tmp_path / "empty").write_bytes(b"")
    if os.name != "nt":
        os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "none.md": "none.md cannot be read: No such file or directory. Give a .md or .json file.",
        ".": "cannot be read: it is no file. Give",
        "big.md": "big.md cannot be read: it is larger than 64 MiB. Give",
        "full.md": "full.md: Line 1: from here on",
        "latin.md": "latin.md cannot be read: byte 4 is no UTF-8. Give",
        "a.md": "a.md: Line 1: from here on",
        "a.json": "a.json: This is no conversation: line 1, column 1: no valid JSON",
        "empty": "empty: Line 1: from here on",
        **(
            {"pipe": "pipe cannot be read: it is no file", "x\0": "cannot be read: no file has"}
            if os.name != "nt"
            else {}
        ),
    }.items():
        with pytest.raises(UsageError, match=re.escape(message)) as caught:
            read_conversation(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1


# Names


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("量化是什么？", "量化是什么？.md"),
        ("What is Q4_K_M?", "What is Q4_K_M.md"),
        ('a/b\\c:d*e\n<f>|"g"', "a b c d e f g.md"),
        ("../../etc/passwd", "etc passwd.md"),
        ("-rf ~", "rf.md"),
        ("CON", "_CON.md"),
        ("nul.txt", "_nul.txt.md"),
        ("com¹", "_com¹.md"),
        ("console", "console.md"),
        ("\x1b[31mred\u202e", "[31mred.md"),
        ("...", "conversation.md"),
        ("", "conversation.md"),
    ],
)
def test_a_suggested_name_is_one_on_every_system(title: str, name: str) -> None:
    assert suggested_name(Conversation(title=title), ".md") == name


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_heading_gives_a_name_of_one_file(title: str) -> None:
    name = suggested_name(Conversation(title=title), ".json")
    assert len(name.encode()) <= 200
    assert name.isprintable()
    assert not set(name) & set('<>:"/\\|?*')
    assert name[0] not in ".- " and name[-6] not in ". "  # noqa: PT018
