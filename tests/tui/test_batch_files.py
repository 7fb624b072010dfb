"""The lines of a batch are read as they are meant or refused by name, and its journal loses nothing that was whole."""

import contextlib
import io
import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError, UsageError
from bq.runtime.prompt import Message
from bq.tui.batch_input import MAX_LINE_BYTES, BadLine, Task, Template, parse_line, read_batch
from bq.tui.batch_journal import MAGIC, Journal, NoJournal, journal_path, open_journal, read_journal

PLAIN = Template()
SUM_UP = Template("Sum up.")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def user(text: str, system: str = "") -> tuple[Message, ...]:
    front = (Message("system", system),) if system else ()
    return (*front, Message("user", text))


@pytest.mark.parametrize(
    ("line", "template", "messages"),
    [
        ('"hello"', PLAIN, user("hello")),
        ('{"instruction": "sum up", "input": "a\\nb"}', PLAIN, user("sum up\n\na\nb")),
        ('{"instruction": "sum up", "input": ""}', PLAIN, user("sum up")),
        ('{"instruction": "a", "system": "s"}', PLAIN, user("a", "s")),
        ('{"instruction": "a"}', Template(system="t"), user("a", "t")),
        ('{"instruction": "a", "system": "s"}', Template(system="t"), user("a", "s")),
        ('{"instruction": "a", "system": ""}', Template(system="t"), user("a")),
        ('"a text"', SUM_UP, user("Sum up.\n\na text")),
        ('{"input": "a text", "system": "s"}', SUM_UP, user("Sum up.\n\na text", "s")),
        ('{"messages": [{"role": "user", "content": "a"}]}', Template(system="t"), user("a", "t")),
        (
            '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]}',
            Template(system="t"),
            user("a", "s"),
        ),
        ('  {"instruction": "\\ud83d\\ude00"}\r', PLAIN, user("😀")),
    ],
)
def test_a_line_is_the_conversation_it_means(line: str, template: Template, messages: tuple[Message, ...]) -> None:
    assert parse_line(line.encode(), 1, template).messages == messages


def test_a_text_is_gone_on_with_and_an_id_is_kept() -> None:
    assert parse_line(b'{"text": "Once", "id": [1, null]}', 7, PLAIN) == Task(7, text="Once", head={"id": [1, None]})
    assert parse_line(b'{"instruction": "a", "id": null}', 1, PLAIN).head == {"id": None}
    assert parse_line(b'{"instruction": "a", "output": "b"}', 1, PLAIN).unread == ("output",)


@pytest.mark.parametrize(
    ("line", "template", "what"),
    [
        ("{", PLAIN, "no valid JSON at column 2"),
        ("nothing", PLAIN, "no valid JSON at column 1"),
        ('"a" "b"', PLAIN, "no valid JSON at column 5"),
        ("[1]", PLAIN, "a JSON object or string is expected"),
        ("12", PLAIN, "a JSON object or string is expected"),
        ("{}", PLAIN, 'one of "instruction", "messages", "text" is expected'),
        ('{"instruction": "a", "text": "b"}', PLAIN, 'one of "instruction", "messages", "text" is expected'),
        ('{"instruction": 3}', PLAIN, '"instruction" must be a text'),
        ('{"instruction": " \\n"}', PLAIN, '"instruction" is empty'),
        ('""', PLAIN, '"instruction" is empty'),
        ('{"instruction": "a", "input": null}', PLAIN, '"input" must be a text'),
        ('{"instruction": "a", "system": 1}', PLAIN, '"system" must be a text'),
        ('{"instruction": "a", "instruction": "b"}', PLAIN, "the key 'instruction' stands twice"),
        ('{"instruction": "a", "id": {"b": 1, "b": 2}}', PLAIN, "the key 'b' stands twice"),
        ('{"instruction": "a", "id": NaN}', PLAIN, "NaN is no JSON number"),
        ('{"instruction": "a", "id": -Infinity}', PLAIN, "-Infinity is no JSON number"),
        ('{"instruction": "a", "id": 1e999}', PLAIN, "'1e999' is no JSON number"),
        ('{"instruction": "a", "id": %s}' % ("9" * 5000), PLAIN, "a number is too long"),
        ('{"instruction": "a", "id": %s}' % ("[" * 100_000), PLAIN, "nested too deeply"),
        ('"\\ud800"', PLAIN, "half of a surrogate pair"),
        ('{"instruction": "a", "id": "\\udfff"}', PLAIN, "half of a surrogate pair"),
        ('{"text": "a", "system": "s"}', PLAIN, '"system" does not go with "text"'),
        ('{"text": "a", "input": "s"}', PLAIN, '"input" does not go with "text"'),
        ('{"text": "a"}', Template(system="s"), 'a "text" has no system prompt'),
        ('{"messages": [], "id": 1}', PLAIN, '"messages" must be a list that is not empty'),
        ('{"messages": {}}', PLAIN, '"messages" must be a list that is not empty'),
        ('{"messages": [{"role": "user"}]}', PLAIN, 'message 1 needs a "role"'),
        ('{"messages": [{"role": [], "content": ""}]}', PLAIN, 'message 1 needs a "role"'),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', PLAIN, '"messages" has no user message'),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "a"}]}',
            PLAIN,
            "a system message stands only at the beginning",
        ),
        ('{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}], "system": "b"}', PLAIN, "two"),
        ('{"instruction": "a"}', SUM_UP, '"instruction" beside the INSTRUCTION'),
        ('{"text": "a"}', SUM_UP, '"text" beside the INSTRUCTION'),
        ('{"id": 1}', SUM_UP, '"input" must be a text'),
        ('""', SUM_UP, '"input" is empty'),
    ],
)  # fmt: skip
def test_a_wrong_line_says_what_is_wrong(line: str, template: Template, what: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse_line(line.encode(), 1, template)
    assert what in str(caught.value)


@given(
    st.binary(max_size=60)
    | st.text(string.printable, max_size=60).map(str.encode)
    | VALUES.map(json.dumps).map(str.encode)
)
def test_any_bytes_are_a_task_or_a_bad_line(data: bytes) -> None:
    for template in (PLAIN, SUM_UP, Template(system="s")):
        with contextlib.suppress(BadLine):
            task = parse_line(data, 1, template)
            assert (task.text is None) == bool(task.messages)
            assert "".join(message.content for message in task.messages).strip() or task.text


@given(TEXT.filter(str.strip), TEXT, TEXT, VALUES, st.booleans())
def test_what_json_writes_is_read_as_it_was(text: str, below: str, system: str, mark: Any, escaped: bool) -> None:
    line = json.dumps({"instruction": text, "input": below, "system": system, "id": mark}, ensure_ascii=escaped)
    task = parse_line(line.encode(), 3, PLAIN)
    assert task.messages == user(f"{text}\n\n{below}" if below else text, system)
    assert task.head == {"id": mark}


def read(tmp_path: Path, data: bytes, template: Template = PLAIN) -> list[Task]:
    (tmp_path / "in.jsonl").write_bytes(data)
    return list(read_batch(str(tmp_path / "in.jsonl"), template).tasks(()))


def test_a_byte_order_mark_blank_lines_and_any_line_end_are_taken(tmp_path: Path) -> None:
    tasks = read(tmp_path, b'\xef\xbb\xbf"a"\r\n\r\n \t\n"b\xe2\x80\xa8c"\n"d"')
    assert [(task.line, task.messages[0].content) for task in tasks] == [(1, "a"), (4, "b\u2028c"), (5, "d")]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'"a"\n\n{"a": \n"b"', "line 3: no valid JSON at column 7 (Expecting value). Mend the line; nothing was run."),
        (b'"a"\n"\xff"', "line 2: byte 2 is no UTF-8. Mend the line; nothing was run."),
        ('"a"\n'.encode("utf-16"), " is UTF-16. Save it as UTF-8."),
        (b"\xef\xbb\xbf\n  \n", "There are no lines in "),
        (b"", "There are no lines in "),
        (b'"a"\n"' + b"a" * MAX_LINE_BYTES + b'"\n', "line 2: longer than 16 MiB. Split it; no context is that long."),
    ],
)
def test_a_wrong_input_is_one_line_that_says_where(tmp_path: Path, data: bytes, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, data)
    assert what in str(caught.value)


def test_a_line_may_have_16_mib(tmp_path: Path) -> None:
    (task,) = read(tmp_path, b'"' + b"a" * (MAX_LINE_BYTES - 2) + b'"\r\n')
    assert len(task.messages[0].content) == MAX_LINE_BYTES - 2


@pytest.mark.parametrize("name", ["", "folder", "none.jsonl"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be read: "):
        read_batch(str(tmp_path / name), PLAIN)


HEADER = {"model": {"name": "m"}, "input": "i", "options": {"--temp": 0.5, "INSTRUCTION": ""}}
NUMBERS = range(1, 9)


def answer(line: int, text: str = "…") -> dict[str, Any]:
    return {"id": "x", "line": line, "output": text, "stop": "end", "tokens": 1}


def journal_of(out: Path, lines: list[int]) -> bytes:
    with open_journal(out, HEADER, {"seed": 5}, NUMBERS, False) as journal:
        for line in lines:
            journal.add(answer(line, f"answer {line}"))
    return journal_path(out).read_bytes()


def test_the_output_is_in_input_order_and_nothing_else_stays(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    journal_of(out, [3, 1, 8, 2])
    with open_journal(out, HEADER, {"seed": 6}, NUMBERS, False) as journal:
        assert (sorted(journal.done), journal.header["seed"]) == ([1, 2, 3, 8], 5)
        for line in (7, 4, 6, 5):
            journal.add(answer(line, f"answer {line}"))
        journal.finish(out, NUMBERS, False)
    assert os.listdir(tmp_path) == ["out.jsonl"]
    found = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert found == [answer(line, f"answer {line}") for line in NUMBERS]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(NUMBERS), unique=True), st.data())
def test_a_torn_journal_keeps_every_whole_answer(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], data: st.DataObject
) -> None:
    """Cut anywhere, as a kill leaves it, or with bytes that the disk never got; then it goes on."""
    out = tmp_path_factory.mktemp("torn") / "out.jsonl"
    whole = journal_of(out, lines)
    cut = data.draw(st.integers(0, len(whole)))
    zeros = data.draw(st.sampled_from([0, 0, 7, 5000]))
    journal_path(out).write_bytes(whole[:cut] + bytes(zeros))
    kept = max(whole[:cut].count(b"\n") - 1, 0)
    with open_journal(out, HEADER, {"seed": 5}, NUMBERS, False) as journal:
        assert list(journal.done) == lines[:kept]
        for line in (line for line in NUMBERS if line not in journal.done):
            journal.add(answer(line, f"answer {line}"))
        journal.finish(out, NUMBERS, False)
    assert [json.loads(line)["line"] for line in out.read_bytes().splitlines()] == list(NUMBERS)


@settings(deadline=None)
@given(st.data())
def test_a_changed_byte_costs_its_own_line_at_most(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = list(NUMBERS)
    whole = bytearray(journal_of(tmp_path_factory.mktemp("flip") / "out.jsonl", lines))
    first = whole.index(b"\n") + 1
    place = data.draw(st.integers(first, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    contents = read_journal(io.BytesIO(whole), NUMBERS)
    assert contents is not None
    hit = whole[:place].count(b"\n")  # lines are in order, behind the header
    assert {*lines} - contents.answers.keys() <= {hit, hit + 1}
    for line, (offset, size) in contents.answers.items():
        assert json.loads(whole[offset : offset + size]) == answer(line, f"answer {line}")


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda data: MAGIC + data + b"\n"))
def test_any_other_file_is_no_journal(data: bytes) -> None:
    try:
        assert read_journal(io.BytesIO(data), NUMBERS) is None
    except NoJournal:
        return
    assert MAGIC.startswith(data.rstrip(b"\0")[: len(MAGIC)])


def test_answers_to_other_lines_and_second_answers_do_not_count(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with open_journal(out, HEADER, {}, NUMBERS, False) as journal:
        for line in (2, 99, 2, True, -1):
            journal.add(answer(line, "first" if not journal.done else "later"))
    contents = read_journal(io.BytesIO(journal_path(out).read_bytes()), NUMBERS)
    assert contents is not None
    assert list(contents.answers) == [2]
    offset, size = contents.answers[2]
    assert json.loads(journal_path(out).read_bytes()[offset : offset + size])["output"] == "first"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"model": {"name": "n"}}, "another model"),
        ({"input": "j"}, "another input"),
        ({"options": {"--temp": 0.6, "INSTRUCTION": ""}}, "another --temp"),
        ({"options": {"--temp": 0.5, "INSTRUCTION": "a"}}, "another INSTRUCTION"),
    ],
)
def test_another_run_is_refused_by_name_and_only_restart_begins_anew(
    tmp_path: Path, changed: dict[str, Any], what: str
) -> None:
    out = tmp_path / "out.jsonl"
    before = journal_of(out, [1, 2])
    with (
        pytest.raises(BqError, match=f"was begun with {what}"),
        open_journal(out, {**HEADER, **changed}, {}, NUMBERS, False),
    ):
        pass
    assert journal_path(out).read_bytes() == before
    with open_journal(out, {**HEADER, **changed}, {}, NUMBERS, True) as journal:
        assert not journal.done


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    journal_path(out).write_text("my notes\n")
    for restart in (False, True):
        with (
            pytest.raises(BqError, match="is not the journal of a batch"),
            open_journal(out, HEADER, {}, NUMBERS, restart),
        ):
            pass
    assert journal_path(out).read_text() == "my notes\n"


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with (
        open_journal(out, HEADER, {}, NUMBERS, False) as journal,
        pytest.raises(BqError, match="Another bq is using"),
        open_journal(out, HEADER, {}, NUMBERS, True),
    ):
        pass
    assert not journal.done


def test_an_output_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    before = journal_of(out, list(NUMBERS))
    out.write_text("someone's")
    with open_journal(out, HEADER, {}, NUMBERS, False) as journal:
        assert not journal.is_written_to(out, NUMBERS)
        with pytest.raises(UsageError, match="exists already"):
            journal.finish(out, NUMBERS, False)
    assert (out.read_text(), journal_path(out).read_bytes()) == ("someone's", before)


class _Full(io.FileIO):
    """A file on a disk with room for some bytes more."""

    room = 0

    def write(self, data: Any) -> int:
        part = bytes(data)[: self.room]
        self.room -= len(part)
        if not part:
            raise OSError(28, "No space left on device")
        return super().write(part)


def test_a_full_disk_is_one_line_and_the_journal_stays_whole(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    before = journal_of(out, [4, 5])
    contents = read_journal(io.BytesIO(before), NUMBERS)
    assert contents is not None
    with _Full(journal_path(out), "r+") as file:
        file.room = 20
        journal = Journal(file, journal_path(out), contents)
        with pytest.raises(
            BqError, match=r"cannot be written: No space left on device\. Nothing that was answered is lost"
        ):
            journal.add(answer(6))
        assert sorted(journal.done) == [4, 5]
    assert journal_path(out).read_bytes() == before
