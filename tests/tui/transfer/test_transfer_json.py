"""A conversation leaves as JSON and comes back with all that there is; JSON from elsewhere is taken, or refused in a line."""

import json
import re
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.errors import UsageError
from bq.tui import transfer_json, transfer_markdown
from bq.tui.conversation import Conversation, Node
from bq.tui.transfer import from_json, from_markdown, to_json, to_markdown

from .common import said, talk, trees

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
