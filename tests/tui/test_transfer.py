"""A conversation leaves as a file and comes back as it was; a file from elsewhere is taken, or refused in a line."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.runtime.language import set_language
from bq.runtime.prompt import Message
from bq.tui import transfer, transfer_json, transfer_markdown
from bq.tui.conversation import Conversation, Node, new_id
from bq.tui.transfer import from_json, from_markdown, read_conversation, suggested_name, to_json, to_markdown

HARD_PIECES = (
    "\n", "\n\n", " ", "\r\n", "\r", "\u2028", "# ", "## You", "## 助手\n\n", "```", "```python\n", "~~~~", "    ```", "- ```",
    "<!-- bq user -->\n", "<!-- bq end -->", "<!-- bq2 ", "<!-- bq", " -->", "<!--", "*a*", "中文", "text", "\\", "\0", "😀",
)  # fmt: skip
HARD = st.one_of(
    st.lists(st.sampled_from(HARD_PIECES), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
SECONDS = st.floats(0, 2.5e11)


@st.composite
def trees(draw: st.DrawFn) -> Conversation:
    made = Conversation(
        mode=draw(st.sampled_from(["chat", "instruct", "complete"])),
        system=draw(HARD),
        title=draw(HARD),
        created=draw(SECONDS),
    )
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from([None, *made.nodes]))
        role = "assistant" if parent and made.nodes[parent].role == "user" else "user"
        stop = draw(st.sampled_from(["end", "length", "stop", "cancel", "error", "incomplete"]))
        node = Node(new_id(), parent, role, draw(HARD), stop, draw(HARD), draw(st.booleans()), draw(SECONDS))
        node.tokens, node.seconds = draw(st.integers(0, 1 << 40)), draw(SECONDS)
        made.nodes[node.id] = node
        made.head = draw(st.sampled_from([made.head, node.id]))
    return made


def said(conversation: Conversation) -> tuple[str, str, str, list[tuple[str, str]]]:
    path = [(node.role, node.content) for node in conversation.path()]
    return conversation.mode, conversation.title, conversation.system, path


def talk(*texts: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation.of([Message(roles[i % 2], text) for i, text in enumerate(texts)])  # type: ignore[arg-type]


# Markdown of ours


@settings(max_examples=150, deadline=None)
@given(trees())
def test_markdown_brings_the_path_back_whatever_the_texts_are(made: Conversation) -> None:
    text = to_markdown(made)
    back = from_markdown(text)
    assert said(back) == said(made)
    assert back.id != made.id
    assert not back.nodes.keys() & made.nodes.keys()
    assert to_markdown(made) == text, "the same conversation is the same file"


def test_markdown_is_for_people() -> None:
    made = Conversation.of(
        [Message("system", "Be brief."), Message("user", "How?"), Message("assistant", "So:\n\n1. this")]
    )
    made.title, made.created = "A title", 1_700_000_000
    made.nodes[made.head or ""].model = "bq_demo"
    lines = to_markdown(made).split("\n")
    shown = [line for line in lines if line and not re.fullmatch(r"<!-- .* -->", line)]
    about = shown.pop(1)
    assert shown == ["# A title", "## System prompt", "Be brief.", "## You", "How?", "## Assistant", "So:", "1. this"]
    assert re.fullmatch(r"\*2023-11-1\d \d\d:\d\d · bq\\_demo\*", about)
    set_language("zh")
    assert "## 你\n\nHow?\n" in to_markdown(made)
    assert said(from_markdown(to_markdown(made))) == said(made)


@pytest.mark.parametrize(
    ("answer", "closing"),
    [
        ("```python\nprint(1)", "```"),
        ("~~~~\n```\n~~~", "~~~~"),
        ("```\na\n    ```", "```"),
        ("```\na\n```", ""),
        ("````\na\n`````  ", ""),
        ("``` not `a` fence", ""),
        ("- item\n  ```\n  code", ""),
        ("no\u2028```", ""),
    ],
)
def test_a_code_block_that_is_left_open_does_not_swallow_the_rest(answer: str, closing: str) -> None:
    made = talk("question", answer, "another")
    text = to_markdown(made)
    below = text[text.index(answer) + len(answer) : text.index("<!-- bq user", text.index(answer))]
    assert below.strip() == closing
    assert said(from_markdown(text)) == said(made)


def test_an_editor_that_changes_line_ends_or_headings_does_no_harm() -> None:
    made = talk("a\nb", "c\n\nd")
    made.title = "title"
    text = to_markdown(made)
    assert said(from_markdown(text.replace("\n", "\r\n"))) == said(made)
    assert said(from_markdown(text.replace("## You\n", "### Myself, of course\n").rstrip())) == said(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("conversation 1 chat", "conversation 2 chat"),
            "Line 1: it was written by a newer bq",
        ),
        (lambda text: text.replace("conversation 1 chat", "conversation 1 sing"), "Line 1: there is no mode sing"),
        (lambda text: text.replace("<!-- bq assistant", "<!-- bq tool"), "Line 18: there is no part tool"),
        (lambda text: text[: text.index("<!-- bq assistant")], "Line 13: what follows was cut off"),
        (lambda text: text[: text.index("\n") + 1], "Line 1: what follows was cut off"),
        (lambda text: text + "more\n", "Line 23: there is text after the end"),
        (lambda text: text.replace("<!-- bq end", "<!-- bq system"), "Line 23: system does not belong here"),
        (lambda text: text.replace("<!-- bq about", "<!-- bq title"), "Line 5: title does not belong here"),
        (lambda text: text + "<!-- bq end -->", "Line 24: end does not belong here"),
    ],
)
def test_a_file_of_ours_that_was_broken_is_a_line_that_names_the_line(
    change: Callable[[str], str], message: str
) -> None:
    made = Conversation.of([Message("system", "s"), Message("user", "q"), Message("assistant", "a")])
    made.title = "title"
    with pytest.raises(UsageError) as caught:
        from_markdown(change(to_markdown(made)))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("Nothing was imported.")


# Markdown from elsewhere


def test_a_file_from_elsewhere_is_read_by_its_headings() -> None:
    text = """# My chat

Exported on Monday.

## System
Be brief.
## **You:**

What is `## Assistant`?

```
## Assistant
```

## Assistant (7B)

### User

is a heading.

## 用户
继续

## 助手

好。

## Assistant

And more.

## You

"""
    made = from_markdown(text.replace("\n", "\r\n"))
    assert (made.title, made.system) == ("My chat", "Be brief.")
    assert [(node.role, node.content) for node in made.path()] == [
        ("user", "What is `## Assistant`?\n\n```\n## Assistant\n```"),
        ("assistant", "### User\n\nis a heading."),
        ("user", "继续"),
        ("assistant", "好。\n\nAnd more."),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1: from here on, no heading such as `## You`"),
        ("# Title\n\nprose\n", "Line 1: from here on, no heading"),
        ("\n## Assistant\nhello", "Line 2: an answer before the first question"),
        ("## You\nq\n## System\ns", "Line 3: a system prompt stands only at the beginning"),
        ("## System\ns", "Line 1: from here on"),
    ],
)
def test_a_file_that_is_no_conversation_is_a_line_that_names_the_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_markdown(text)
    assert str(caught.value).startswith(message)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([*HARD_PIECES, "\n## You\n", "\n## AI\n", "<!-- bq conversation 1 chat -->\n"]), max_size=12
    )
)
def test_any_text_is_a_conversation_or_a_usage_error(pieces: list[str]) -> None:
    with suppress(UsageError):
        from_markdown("".join(pieces)).path()
    with suppress(UsageError):
        from_json("".join(pieces)).path()


# JSON


def shape(conversation: Conversation) -> Any:
    """The tree without its ids."""
    places = {id: place for place, id in enumerate(conversation.nodes)}
    nodes = [
        {**asdict(node), "id": None, "parent": places.get(node.parent or "")} for node in conversation.nodes.values()
    ]
    head = places.get(conversation.head or "")
    return conversation.mode, conversation.title, conversation.system, conversation.created, head, nodes


@settings(max_examples=80, deadline=None)
@given(trees())
def test_json_brings_the_whole_tree_back_with_ids_of_its_own(made: Conversation) -> None:
    text = to_json(made)
    first, second = from_json(text), from_json(text)
    assert shape(first) == shape(second) == shape(made)
    ids = [one for each in (made, first, second) for one in (each.id, *each.nodes)]
    assert len(set(ids)) == len(ids)


def test_json_has_every_field_of_a_message_and_reads_well() -> None:
    made = talk("问题", "回答")
    made.draft = "not said"
    text = to_json(made)
    assert list(json.loads(text)["nodes"][0]) == [one.name for one in fields(Node)]
    assert '\n      "content": "问题"' in text
    assert "not said" not in text


def test_an_answer_that_is_being_written_is_a_stopped_one() -> None:
    made = talk("question")
    made.begin()
    made.write("half")
    back = from_json(to_json(made))
    assert (back.last_answer, back.is_open, back.nodes[back.head or ""].stop) == ("half", False, "cancel")


@pytest.mark.parametrize(
    "text",
    [
        '[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]',
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "name": "x"}, '
        '{"role": "assistant", "content": "a"}], "model": "m"}',
        '\ufeff{"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    ],
)
def test_the_lists_that_others_write_are_read(text: str) -> None:
    assert said(from_json(text)) == ("chat", "", "s", [("user", "q"), ("assistant", "a")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: no valid JSON"),
        ("{\n nothing}", "line 2, column 2: no valid JSON"),
        ("null", '"messages" or a list of messages is expected'),
        ("{}", '"messages" or a list'),
        ("[]", "1 to 100000 messages"),
        ('{"messages": {}}', "1 to 100000 messages"),
        ('{"messages": 3, "system": "s"}', "1 to 100000 messages"),
        ("[3]", "message 1: an object is expected"),
        ('[{"role": "user"}]', 'message 1: "content" must be a text'),
        ('[{"role": "user", "content": ["q"]}]', 'message 1: "content" must be a text'),
        ('[{"role": "tool", "content": "q"}]', 'message 1: "role" must be one of "system", "user", "assistant"'),
        ('[{"role": ["user"], "content": "q"}]', 'message 1: "role"'),
        ('[{"role": "system", "content": "s"}]', "there is no question"),
        ('[{"role": "assistant", "content": "a"}]', "message 1: an answer follows a question"),
        ('[{"role": "user", "content": "q"}, {"role": "system", "content": "s"}]', "message 2: an answer follows"),
        ('[{"role": "user", "content": "\\ud800"}]', 'message 1: "content" has half of a surrogate pair'),
        ('[{"role": "user", "role": "user", "content": "q"}]', "the key 'role' stands twice"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[" + "9" * 5000 + "]", "a number is too long"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
    ],
)
def test_json_that_is_no_conversation_is_a_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(text)
    assert str(caught.value).startswith(f"This is no conversation: {message}")
    assert str(caught.value).endswith("Nothing was imported.")


def tree() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(to_json(talk("question", "answer", "question")))
    for number, node in enumerate(value["nodes"]):
        node["id"], node["parent"] = f"n{number}", f"n{number - 1}" if number else None
    return {**value, "head": "n2"}


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        (None, "format", "another", '"format" must be'),
        (None, "version", "1", '"format" must be'),
        (None, "version", True, '"format" must be'),
        (None, "version", 2, "it was written by a newer bq"),
        (None, "mode", "sing", 'the conversation: "mode" must be one of "chat", "instruct", "complete"'),
        (None, "title", None, 'the conversation: "title" must be a text'),
        (None, "created", "now", 'the conversation: "created" must be a number'),
        (None, "created", float("1e300"), 'the conversation: "created" must be a number from 0 to 253402300799'),
        (None, "head", "n3", 'the conversation: "head" names no node before it'),
        (None, "head", [], 'the conversation: "head" names'),
        (None, "nodes", {}, '"nodes" must be a list of at most 100000'),
        (None, "nodes", [None], "node 1: an object is expected"),
        (1, "id", "n0", "node 2: another node has its id"),
        (1, "id", 3, 'node 2: "id" must be a text'),
        (1, "id", "x" * 1001, 'node 2: "id" must be a text of at most 1000'),
        (0, "parent", "n2", 'node 1: "parent" names no node before it'),
        (1, "parent", "n1", 'node 2: "parent" names no node before it'),
        (1, "parent", {}, 'node 2: "parent" names'),
        (1, "role", "system", 'node 2: "role" must be one of'),
        (1, "content", 3, 'node 2: "content" must be a text'),
        (1, "stop", "", 'node 2: "stop" must be one of'),
        (1, "pinned", 0, 'node 2: "pinned" must be one of false, true'),
        (1, "tokens", 1.0, 'node 2: "tokens" must be a whole number'),
        (1, "tokens", True, 'node 2: "tokens" must be a whole number'),
        (1, "tokens", 1 << 60, 'node 2: "tokens" must be a whole number'),
        (1, "seconds", -1, 'node 2: "seconds" must be a number'),
        (1, "seconds", True, 'node 2: "seconds" must be a number'),
    ],
)
def test_a_tree_that_cannot_be_is_a_line_that_says_where(where: int | None, key: str, value: Any, message: str) -> None:
    whole = tree()
    (whole if where is None else whole["nodes"][where])[key] = value
    with pytest.raises(UsageError) as caught:
        from_json(json.dumps(whole))
    assert str(caught.value).startswith(f"This is no conversation: {message}")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_time_that_is_no_number_is_a_line(number: str) -> None:
    with pytest.raises(UsageError):
        from_json(re.sub(r'"seconds": [\d.]+', f'"seconds": {number}', to_json(talk("question"))))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_tree_with_any_value_in_any_place_is_a_conversation_or_a_usage_error(data: st.DataObject) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=4,
    )
    whole = tree()
    place = data.draw(st.sampled_from([whole, *whole["nodes"]]))
    key = data.draw(st.sampled_from([*place]))
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(values)
    try:
        made = from_json(json.dumps(whole))
    except UsageError:
        return
    assert len(made.path()) <= len(made.nodes)
    to_markdown(made)


def test_the_number_of_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_markdown, "MAX_MESSAGES", 2)
    for text, line in ((to_markdown(talk("q", "a")), 12), ("## You\nq\n## AI\na\n## You\nq", 5)):
        with pytest.raises(UsageError, match=f"Line {line}: more than 2 messages"):
            from_markdown(text)
    monkeypatch.setattr(transfer_json, "MAX_NODES", 2)
    with pytest.raises(UsageError, match="must be a list of at most 2"):
        from_json(json.dumps(tree()))


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
