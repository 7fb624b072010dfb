"""The part of Go's text/template that ollama's templates use, and ollama's reading of a Modelfile: the tests' oracle.

Written from pkg.go.dev/text/template (actions, pipelines, variables, functions, trimming) and from ollama's docs/template.mdx,
docs/modelfile.mdx and the rules of its parser (parser/parser.go). What is not known here is an error, never passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.S)
_WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|`[^`]*`|\(|\)|:=|=|,|[^\s()",=]+)')
_SPACE = " \t\r\n"


@dataclass
class Node:
    """`kind` is "text", "print", "set", "if" or "range"; `branches` are (condition words, body) of an `if`."""

    kind: str
    words: list[str] = field(default_factory=list)
    text: str = ""
    branches: list[tuple[list[str] | None, list[Node]]] = field(default_factory=list)


def parse(template: str) -> list[Node]:
    """The nodes of a template. Raises ValueError for what Go would not take, or what is not known here."""
    pieces: list[str | list[str]] = []
    at, trims_next = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        pieces.append(_trim(text, trims_next, found[1] is not None))
        pieces.append(_words(found[2]))
        at, trims_next = found.end(), found[3] is not None
    pieces.append(_trim(template[at:], trims_next, False))
    nodes, rest = _block(pieces, top=True)
    if rest:
        raise ValueError(f"unexpected {rest[0]}")
    return nodes


def _trim(text: str, left: bool, right: bool) -> str:
    if "{{" in text or "}}" in text:
        raise ValueError(f"an action is not closed: {text!r}")
    return (text.lstrip(_SPACE) if left else text).rstrip(_SPACE if right else "")


def _words(text: str) -> list[str]:
    words, at = [], 0
    while text[at:].strip():
        found = _WORD.match(text, at)
        if found is None:
            raise ValueError(f"cannot read {text[at:]!r}")
        words.append(found[1])
        at = found.end()
    return words


def _block(pieces: list[str | list[str]], top: bool = False) -> tuple[list[Node], list[str | list[str]]]:
    """Nodes up to the action that ends the block, and what follows, that action first."""
    nodes: list[Node] = []
    while pieces:
        piece = pieces[0]
        if isinstance(piece, str):
            nodes.append(Node("text", text=piece))
            pieces = pieces[1:]
        elif piece[0] in ("end", "else"):
            if top:
                raise ValueError(f"unexpected {piece}")
            return nodes, pieces
        elif piece[0] in ("if", "range"):
            node, pieces = _branches(piece, pieces[1:])
            nodes.append(node)
        else:
            nodes.append(Node("set" if ":=" in piece or "=" in piece else "print", piece))
            pieces = pieces[1:]
    if not top:
        raise ValueError("a block is not ended")
    return nodes, []


def _branches(head: list[str], pieces: list[str | list[str]]) -> tuple[Node, list[str | list[str]]]:
    node = Node(head[0], head[1:])
    condition: list[str] | None = head[1:]
    while True:
        body, pieces = _block(pieces)
        node.branches.append((condition, body))
        ending, pieces = pieces[0], pieces[1:]
        if ending == ["end"]:
            return node, pieces
        if ending[:2] == ["else", "if"] and head[0] == "if":
            condition = list(ending[2:])
        elif ending == ["else"]:
            condition = None
        else:
            raise ValueError(f"unexpected {ending}")


def render(template: str, values: Mapping[str, Any]) -> str:
    """The template with these values as its root."""
    out: list[str] = []
    _run(parse(template), values, {"$": values}, out)
    return "".join(out)


def _run(nodes: Sequence[Node], dot: Any, variables: dict[str, Any], out: list[str]) -> None:
    known = dict(variables)  # a variable lives to the end of its block
    for node in nodes:
        if node.kind == "text":
            out.append(node.text)
        elif node.kind == "print":
            out.append(_shown(_value(node.words, dot, known)))
        elif node.kind == "set":
            known[node.words[0]] = _value(node.words[2:], dot, known)
        elif node.kind == "if":
            body = next(
                (body for words, body in node.branches if words is None or _true(_value(words, dot, known))), []
            )
            _run(body, dot, known, out)
        else:
            _range(node, dot, known, out)


def _range(node: Node, dot: Any, known: dict[str, Any], out: list[str]) -> None:
    (words, body), *rest = node.branches
    assert words is not None
    assert not rest, "range … else is not used"
    names = [word for word in words[: words.index(":=")] if word != ","] if ":=" in words else []
    items = _value(words[words.index(":=") + 1 if names else 0 :], dot, known)
    for i, item in enumerate(items):
        given = {1: [item], 2: [i, item]}.get(len(names), [])
        _run(body, item, {**known, **dict(zip(names, given, strict=True))}, out)


def _shown(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _true(value: Any) -> bool:
    """Go's truth: not the zero value of its type, and not empty."""
    return bool(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "not": lambda value: not _true(value),
    "and": lambda *values: next((value for value in values if not _true(value)), values[-1]),
    "or": lambda *values: next((value for value in values if _true(value)), values[-1]),
    "len": len,
    "slice": lambda items, *bounds: items[slice(*bounds, None) if len(bounds) == 1 else slice(*bounds)],
}


def _value(words: Sequence[str], dot: Any, variables: Mapping[str, Any]) -> Any:
    """A pipeline without pipes: one operand, or a function and its arguments."""
    values, at = [], 0
    while at < len(words):
        if words[at] == "(":
            depth, end = 1, at + 1
            while depth:
                depth += {"(": 1, ")": -1}.get(words[end], 0)
                end += 1
            values.append(_value(words[at + 1 : end - 1], dot, variables))
            at = end
        else:
            values.append(
                _operand(words[at], dot, variables) if at or words[0] not in _FUNCTIONS else _FUNCTIONS[words[0]]
            )
            at += 1
    first, *arguments = values
    if callable(first):
        return first(*arguments)
    if arguments:
        raise ValueError(f"{words[0]} takes no arguments")
    return first


def _operand(word: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    if word[0] in '"`':
        return word[1:-1] if word[0] == "`" or "\\" not in word else _refuse(word)
    if re.fullmatch(r"\d+", word):
        return int(word)
    name, *fields = word.split(".")
    value = dot if name == "" else variables[name]
    for one in [] if word == "." else fields:
        value = value.get(one, "")  # missingkey=zero, and a field that a message does not fill
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"escapes are not known here: {word}")


def ollama_prompt(template: str, messages: Sequence[tuple[str, str]], **more: Any) -> str:
    """What ollama renders of a conversation (Execute and collate of template/template.go); `more` are Think and IsThinkSet."""
    collated: list[dict[str, str]] = []
    for role, content in messages:
        if collated and collated[-1]["Role"] == role:
            collated[-1]["Content"] += "\n\n" + content
        else:
            collated.append({"Role": role, "Content": content})
    system = "\n\n".join(content for role, content in messages if role == "system")
    if ".Messages" in template:
        return render(template, {"System": system, "Messages": collated, "Response": "", **more})
    (only,) = messages  # older templates are rendered once for each round; here only one text is given
    return render(template, {"System": "", "Prompt": only[1], "Response": "", **more})


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """Commands and values as ollama's parser reads them; PARAMETER NAME VALUE is (name, value)."""
    found, at = [], 0
    while at < len(text):
        if text[at] in " \t\r\n":
            at += 1
        elif text[at] == "#":
            at = (text + "\n").index("\n", at)
        else:
            name, at = _take_word(text, at)
            if name.lower() == "parameter":
                name, at = _take_word(text, at)
            value, at = _take_value(text, at)
            found.append((name.lower(), value))
    return found


def _take_word(text: str, at: int) -> tuple[str, int]:
    match = re.compile(r"([A-Za-z0-9_]+)[ \t]").match(text, at)
    if match is None:
        raise ValueError(f"no command at {text[at : at + 20]!r}")
    return match[1], match.end()


def _take_value(text: str, at: int) -> tuple[str, int]:
    """Up to the first line end at which the quotes are closed."""
    for end in [found.start() for found in re.finditer("[\r\n]", text[at:])] + [len(text) - at]:
        value = "".join(c for c in text[at : at + end] if c in "\r\n\t" or c.isprintable()).strip()
        for quotes in ('"""', '"'):
            if value.startswith(quotes):
                if len(value) >= 2 * len(quotes) and value.endswith(quotes):
                    return value[len(quotes) : -len(quotes)], at + end
                break
        else:
            return value, at + end
    raise ValueError("a quoted value has no end")
