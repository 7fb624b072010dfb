"""What the keywords of a JSON schema mean: which are known, how two schemas that must both hold become one, which types
a schema is about."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NoReturn

from bq.runtime.errors import UsageError
from bq.runtime.json_grammar import FORMATS, Bound
from bq.runtime.language import say

Schema = dict[str, Any]
_MOST_TIMES = 100_000
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_ANNOTATIONS = {
    "title", "description", "default", "examples", "$schema", "$comment", "$defs", "definitions", "deprecated", "readOnly",
    "writeOnly", "contentEncoding", "contentMediaType", "discriminator",
}  # fmt: skip
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
}
_GREATEST = {"minimum", "exclusiveMinimum", "minLength", "minItems"}  # of two, the greater counts
_LEAST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"}
KEYWORDS = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}.union(*_OF_TYPE.values())
_HARMLESS: dict[str, Any] = {"uniqueItems": False, "minProperties": 0}  # say nothing then


def refuse(place: str, en: str, zh: str) -> NoReturn:
    """Raise the error of a schema that bq cannot keep; `place` is a JSON Pointer."""
    raise UsageError(
        say(f"The JSON schema cannot be promised at {place}: {en}.", f"无法保证符合 JSON 模式（{place}）：{zh}。"),
        say("Change the schema there, or leave it out.", "请修改或去掉模式中的这一处。"),
    )


def check(schema: Schema, place: str) -> None:
    """Refuse keywords that would be ignored, and values that have no sense."""
    for keyword, content in schema.items():
        if keyword == "$id" and place == "#":
            continue
        if keyword in _ANNOTATIONS or keyword.startswith("x-") or keyword in KEYWORDS:
            continue
        if keyword in _HARMLESS and equal(content, _HARMLESS[keyword]):
            continue
        refuse(place, f'the keyword "{keyword}" is not supported', f'不支持关键字 "{keyword}"')
    for keyword, has_sense in _SENSE.items():
        if keyword in schema and not has_sense(schema[keyword]):
            refuse(place, f'"{keyword}" has a senseless value', f'"{keyword}" 的值无效')
    if isinstance(schema.get("items"), list):
        refuse(place, 'a list in "items"; say "prefixItems"', '"items" 中的列表；请改用 "prefixItems"')
    if schema.get("format") not in (None, *FORMATS):
        refuse(place, f'"format": {schema["format"]!r} is not supported', f'不支持 "format": {schema["format"]!r}')


def _is_count(content: object) -> bool:
    return isinstance(content, int) and not isinstance(content, bool) and 0 <= content <= _MOST_TIMES


def _is_number(content: object) -> bool:
    return isinstance(content, (int, float)) and not isinstance(content, bool) and abs(content) < 10**40


def _is_types(content: object) -> bool:
    return all(one in TYPES for one in (content if isinstance(content, list) else [content]))


def _is_schemas(content: object) -> bool:
    return isinstance(content, list) and len(content) > 0


def _is_names(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(name, str) for name in content)


def _is(kind: type) -> Callable[[object], bool]:
    return lambda content: isinstance(content, kind)


_SENSE: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), _is_schemas),
    **dict.fromkeys(("pattern", "format"), _is(str)),
    "type": _is_types,
    "required": _is_names,
    "properties": _is(dict),
    "enum": _is(list),
}


def both(one: Schema, other: Schema, place: str) -> Schema:
    """What is valid by two flat schemas."""
    merged = {**one, **other}
    if "items" in merged and _lacks_prefix(one) != _lacks_prefix(other):
        refuse(place, '"prefixItems" and "items" in different parts', '"prefixItems" 与 "items" 位于不同部分')
    for keyword in one.keys() & other.keys():
        merged[keyword] = _both_say(keyword, one[keyword], other[keyword], place)
    if "properties" in merged or "required" in merged or "additionalProperties" in merged:
        merged |= _both_objects(one, other)
    return merged


def _lacks_prefix(schema: Schema) -> bool:
    """Whether its items begin elsewhere than those of a schema with prefixItems."""
    return "items" in schema and "prefixItems" not in schema


def _both_say(keyword: str, one: Any, other: Any, place: str) -> Any:
    if keyword in _GREATEST:
        return max(one, other)
    if keyword in _LEAST:
        return min(one, other)
    if keyword == "type":
        return [kind for kind in TYPES if _has_type(one, kind) and _has_type(other, kind)]
    if keyword == "enum":
        return [a for a in one if any(equal(a, b) for b in other)]
    if keyword == "items":
        return {"allOf": [one, other]} if one != other else one
    if one == other or keyword in _OF_TYPE["object"]:
        return one
    refuse(place, f'"{keyword}" comes twice in what all must hold', f'"{keyword}" 在须同时成立的部分中出现两次')


def _has_type(given: Any, kind: str) -> bool:
    listed = [given] if isinstance(given, str) else given
    return kind in listed or (kind == "integer" and "number" in listed)


def _both_objects(one: Schema, other: Schema) -> Schema:
    """A property must hold by both: by its own schema where it has one, else by additionalProperties."""
    names = {**one.get("properties", {}), **other.get("properties", {})}
    sides = [(side.get("properties", {}), side.get("additionalProperties", True)) for side in (one, other)]
    merged: Schema = {"properties": {name: all_of([own.get(name, rest) for own, rest in sides]) for name in names}}
    if "additionalProperties" in one or "additionalProperties" in other:
        merged["additionalProperties"] = all_of([rest for _, rest in sides])
    merged["required"] = distinct([*one.get("required", []), *other.get("required", [])])
    return merged


def all_of(schemas: list[Any]) -> Any:
    """The schema of what is valid by all of these, flat where it can be: merging again and again comes to an end."""
    if any(schema is False for schema in schemas):
        return False
    parts: list[Any] = []
    for schema in schemas:
        is_all = isinstance(schema, dict) and schema.keys() == {"allOf"} and isinstance(schema["allOf"], list)
        parts += schema["allOf"] if is_all else [schema]
    parts = distinct([part for part in parts if part is not True])
    return parts[0] if len(parts) == 1 else {"allOf": parts} if parts else True


def distinct(items: list[Any]) -> list[Any]:
    """The first of each."""
    return list({json.dumps(item): item for item in items}.values())


def equal(one: object, other: object) -> bool:
    """As JSON Schema compares values."""
    return canonical(one) == canonical(other)


def canonical(data: object) -> str:
    """The same text for what JSON Schema calls equal: 1 and 1.0 are, true and 1 are not."""
    return json.dumps(_plain_numbers(data), sort_keys=True)


def _plain_numbers(data: object) -> object:
    if isinstance(data, float) and data == int(data):
        return int(data)
    if isinstance(data, list):
        return [_plain_numbers(item) for item in data]
    return {key: _plain_numbers(item) for key, item in data.items()} if isinstance(data, dict) else data


def type_of(data: object) -> str:
    """The narrowest type of a value."""
    if isinstance(data, bool):
        return "boolean"
    if isinstance(data, (int, float)):
        return "integer" if data == int(data) else "number"
    names = {str: "string", list: "array", dict: "object", type(None): "null"}
    return names[type(data)]


def types(schema: Schema) -> list[str]:
    """The types of what comes out: those given, else those that the keywords are for, else all."""
    given = schema.get("type")
    if given is None:
        given = [kind for kind, keywords in _OF_TYPE.items() if keywords & schema.keys()] or list(TYPES)
    listed = [given] if isinstance(given, str) else given
    return [kind for kind in listed if kind != "integer" or "number" not in listed]


def coming(schema: Schema) -> set[str]:
    """The types of what comes out of a flat schema."""
    if "enum" in schema or "anyOf" in schema or "oneOf" in schema:
        return kinds(schema)
    return set(types(schema)) | ({"integer"} if "number" in types(schema) else set())


def kinds(schema: Schema) -> set[str]:
    """All types that may be valid by a flat schema, whether they come out or not."""
    if "enum" in schema:
        return {type_of(one) for one in schema["enum"]}
    given = set(types(schema)) if "type" in schema else set(TYPES)
    return given | ({"integer"} if "number" in given else set())


def bounds(schema: Schema) -> tuple[Bound | None, Bound | None]:
    """The least and the greatest number."""

    def limit(keyword: str, strict: bool) -> list[Bound]:
        return [Bound(Decimal(repr(schema[keyword])), strict)] if keyword in schema else []

    low = limit("minimum", False) + limit("exclusiveMinimum", True)
    high = limit("maximum", False) + limit("exclusiveMaximum", True)
    return (
        max(low, key=lambda bound: (bound.at, bound.strict), default=None),
        min(high, key=lambda bound: (bound.at, not bound.strict), default=None),
    )
