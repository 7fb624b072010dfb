"""A conversation as JSON for programs: the whole tree of messages, and back; also the list of messages that others write.

What is read is checked to the last field: a file is a conversation as it may be made here, or a UsageError in a line. It gets
ids of its own, so that a file that is imported twice is two conversations. The draft is not a part of it: it was not said.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, cast, get_args

from bq.runtime.errors import UsageError
from bq.runtime.language import say
from bq.runtime.prompt import Message
from bq.tui.conversation import Conversation, Mode, Node, Role, Stop, new_id

FORMAT, VERSION = "bq conversation", 1
MAX_NODES = 100_000
_MAX_TEXT = 16 << 20  # characters
_MAX_NAME = 1000
_MAX_SECONDS = 253_402_300_799  # the last second of the year 9999
_MAX_COUNT = 1 << 53  # what every reader of JSON holds exactly
_MAX_DIGITS = 19
_NODE = ("id", "parent", "role", "content", "stop", "model", "pinned", "created", "tokens", "seconds")
_HALF = re.compile("[\ud800-\udfff]")
_STOPS = tuple(stop for stop in get_args(Stop) if stop)


def to_json(conversation: Conversation) -> str:
    """The whole tree. An answer that is being written is one that was stopped."""
    nodes = [{name: getattr(node, name) for name in _NODE} for node in conversation.nodes.values()]
    for node in nodes:
        node["stop"] = node["stop"] or "cancel"
    value = {
        "format": FORMAT,
        "version": VERSION,
        "mode": conversation.mode,
        "title": conversation.title,
        "system": conversation.system,
        "created": conversation.created,
        "head": conversation.head,
        "nodes": nodes,
    }
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str) -> Conversation:
    """The conversation of a JSON file: a tree of ours, `[{"role", "content"}, …]` or `{"messages": […]}`.

    Raises UsageError for anything else.
    """
    value = _parse(text.removeprefix("\ufeff"))
    if isinstance(value, list):
        return _from_messages(value)
    if isinstance(value, dict) and "format" in value:
        return _from_tree(value)
    if isinstance(value, dict) and "messages" in value:
        return _from_messages(_with_system(value))
    raise _wrong(say('"messages" or a list of messages is expected', '应有 "messages" 或消息列表'))


# The text


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise _wrong(
            say(
                f"line {error.lineno}, column {error.colno}: no valid JSON ({error.msg})",
                f"第 {error.lineno} 行第 {error.colno} 列：JSON 无效（{error.msg}）",
            )
        ) from None
    except RecursionError:
        raise _wrong(say("nested too deeply", "嵌套过深")) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _wrong(say(f"the key {name[:40]!r} stands twice", f"键 {name[:40]!r} 重复"))
        found[name] = value
    return found


def _no_number(text: str) -> Any:
    raise _wrong(say(f"{text} is no JSON number", f"{text} 不是 JSON 数字"))


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _wrong(say("a number is too long", "数字过长"))
    return int(digits)


# The tree


def _from_tree(value: dict[str, Any]) -> Conversation:
    if value["format"] != FORMAT or type(value.get("version")) is not int:
        raise _wrong(
            say(f'"format" must be {FORMAT!r}, with a "version"', f'"format" 应为 {FORMAT!r}，并带有 "version"')
        )
    if value["version"] != VERSION:
        raise _wrong(say("it was written by a newer bq", "由更新版本的 bq 写入"))
    whole = say("the conversation", "对话")
    made = Conversation(
        mode=cast(Mode, _choice(value, "mode", whole, get_args(Mode))),
        title=_text(value, "title", whole),
        system=_text(value, "system", whole),
        created=_number(value, "created", whole, _MAX_SECONDS),
    )
    ids: dict[str | None, str | None] = {None: None}
    for place, one in enumerate(_nodes(value.get("nodes")), 1):
        node = _node(one, say(f"node {place}", f"第 {place} 个节点"), ids)
        made.nodes[node.id] = node
    made.head = ids[_known(value, "head", whole, ids)]
    return made


def _nodes(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_NODES:
        raise _wrong(
            say(f'"nodes" must be a list of at most {MAX_NODES}', f'"nodes" 应为列表，且不超过 {MAX_NODES} 项')
        )
    return value


def _node(value: Any, where: str, ids: dict[str | None, str | None]) -> Node:
    """A node with an id of its own; `ids` has those of the nodes before it, so that a parent is one of them."""
    if not isinstance(value, dict):
        raise _bad(where, say("an object is expected", "应为对象"))
    id = _text(value, "id", where, _MAX_NAME)
    if id in ids:
        raise _bad(where, say("another node has its id", "与其他节点的 id 相同"))
    made = Node(
        id=new_id(),
        parent=ids[_known(value, "parent", where, ids)],
        role=cast(Role, _choice(value, "role", where, get_args(Role))),
        content=_text(value, "content", where),
        stop=cast(Stop, _choice(value, "stop", where, _STOPS)),
        model=_text(value, "model", where, _MAX_NAME),
        pinned=_choice(value, "pinned", where, (False, True)),
        created=_number(value, "created", where, _MAX_SECONDS),
        tokens=_count(value, "tokens", where),
        seconds=_number(value, "seconds", where, _MAX_SECONDS),
    )
    ids[id] = made.id
    return made


def _known(value: dict[str, Any], key: str, where: str, ids: dict[str | None, str | None]) -> str | None:
    found = value.get(key, ...)
    if (found is not None and not isinstance(found, str)) or found not in ids:
        raise _bad(where, say(f'"{key}" names no node before it', f'"{key}" 不是之前的节点'))
    return found


def _text(value: dict[str, Any], key: str, where: str, most: int = _MAX_TEXT) -> str:
    found = value.get(key)
    if not isinstance(found, str) or len(found) > most:
        raise _bad(
            where, say(f'"{key}" must be a text of at most {most} characters', f'"{key}" 应为不超过 {most} 字符的文本')
        )
    if _HALF.search(found):
        raise _bad(where, say(f'"{key}" has half of a surrogate pair', f'"{key}" 中有单独的代理码位'))
    return found


def _choice(value: dict[str, Any], key: str, where: str, choices: Sequence[Any]) -> Any:
    found = value.get(key)
    if not any(type(found) is type(one) and found == one for one in choices):
        raise _bad(where, say(f'"{key}" must be one of {_listed(choices)}', f'"{key}" 应为 {_listed(choices)} 之一'))
    return found


def _listed(choices: Sequence[Any]) -> str:
    return ", ".join(json.dumps(one) for one in choices)


def _number(value: dict[str, Any], key: str, where: str, most: int) -> float:
    found = value.get(key)
    if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 <= found <= most:
        raise _bad(where, say(f'"{key}" must be a number from 0 to {most}', f'"{key}" 应为 0 到 {most} 的数'))
    return float(found)


def _count(value: dict[str, Any], key: str, where: str) -> int:
    found = value.get(key)
    if type(found) is not int or not 0 <= found <= _MAX_COUNT:
        raise _bad(where, say(f'"{key}" must be a whole number from 0 on', f'"{key}" 应为非负整数'))
    return found


# The list


def _from_messages(value: Any) -> Conversation:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_NODES:
        raise _wrong(say(f"1 to {MAX_NODES} messages are expected", f"应有 1 到 {MAX_NODES} 条消息"))
    messages = [_message(one, say(f"message {place}", f"第 {place} 条消息")) for place, one in enumerate(value, 1)]
    before = "system" if messages[0].role == "system" else "assistant"
    for place, message in enumerate(messages[before == "system" :], 1 + (before == "system")):
        if message.role == "system" or (message.role == "assistant" and before != "user"):
            raise _bad(
                say(f"message {place}", f"第 {place} 条消息"),
                say(
                    "an answer follows a question, and a system message none", "回答应在问题之后，系统消息只能位于开头"
                ),
            )
        before = message.role
    if before == "system":
        raise _wrong(say("there is no question", "没有问题"))
    return Conversation.of(messages)


def _with_system(value: dict[str, Any]) -> Any:
    """The messages, after the system prompt that stands beside them, if any."""
    if "system" not in value or not isinstance(value["messages"], list):
        return value["messages"]
    return [{"role": "system", "content": value["system"]}, *value["messages"]]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise _bad(where, say("an object is expected", "应为对象"))
    role = _choice(value, "role", where, ("system", "user", "assistant"))
    return Message(role, _text(value, "content", where))


def _bad(where: str, what: str) -> UsageError:
    return _wrong(say(f"{where}: {what}", f"{where}：{what}"))


def _wrong(what: str) -> UsageError:
    return UsageError(
        say(f"This is no conversation: {what}.", f"这不是对话：{what}。"),
        say("Nothing was imported.", "未导入任何内容。"),
    )
