"""A JSON schema becomes a grammar (GBNF) all of whose texts are valid by the schema (2020-12).

What a grammar cannot promise is refused by the keyword's name and place; nothing is ignored but annotations. Where a schema
says less than a reader expects, the narrower reading is taken, so that what comes out is valid still: an object has the
properties that the schema names, in that order, and others only where `additionalProperties` asks for them; a keyword for one
type alone means that type; whole numbers have up to 18 digits.
"""

import json
import math
from collections.abc import Iterator
from functools import reduce
from typing import Any
from urllib.parse import unquote

from bq.runtime.errors import UsageError
from bq.runtime.grammar import ROOT
from bq.runtime.json_grammar import FORMATS, NEVER, RULES, decimal, name_rules, value, whole_number
from bq.runtime.json_keywords import (
    KEYWORDS,
    TYPES,
    Schema,
    both,
    bounds,
    canonical,
    check,
    coming,
    distinct,
    equal,
    kinds,
    refuse,
    type_of,
    types,
)
from bq.runtime.json_pattern import pattern_to_gbnf
from bq.runtime.language import say

_MOST_RULES = 20_000
_MOST_NESTED = 60


def parse_schema(text: str) -> Any:
    """A schema's text. Raises UsageError that says where it is no JSON."""

    def no_constant(name: str) -> None:
        raise ValueError(say(f"{name} is no JSON", f"{name} 不是 JSON"))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        named = dict(pairs)
        if len(named) < len(pairs):
            name = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ValueError(say(f"the name {name!r} comes twice in one object", f"名称 {name!r} 在同一对象中出现两次"))
        return named

    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UsageError(
            say(
                f"The JSON schema is no JSON: {error.msg} in line {error.lineno}, column {error.colno}.",
                f"JSON 模式不是有效的 JSON：第 {error.lineno} 行第 {error.colno} 列（{error.msg}）。",
            ),
            _schema_form(),
        ) from None
    except (ValueError, RecursionError) as error:
        detail = error if isinstance(error, ValueError) else say("it is nested too deeply", "嵌套过深")
        raise UsageError(
            say(f"The JSON schema cannot be used: {detail}.", f"无法使用该 JSON 模式：{detail}。"), _schema_form()
        ) from None


def _schema_form() -> str:
    return say('Give JSON like {"type": "object"}.', '请给出形如 {"type": "object"} 的 JSON。')


def schema_to_gbnf(schema: object) -> str:
    """A schema as json.load gives it. Raises UsageError for what cannot be promised, or is no schema."""
    try:
        schema = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        refuse("#", "it is no JSON, or nested too deeply", "不是 JSON，或嵌套过深")
    writer = _Writer(schema)
    root = writer.rule(schema, "#")
    return "\n".join(f"{name} ::= {body}" for name, body in {ROOT: root, **RULES, **writer.rules}.items()) + "\n"


class _Writer:
    def __init__(self, schema: object) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._depth = 0

    def rule(self, schema: object, place: str) -> str:
        """The name of the rule for a schema; equal schemas share one, so that a schema may contain itself."""
        key = json.dumps(schema)
        if key not in self._names:
            name = self._names[key] = f"r{len(self._names)}"
            self._depth += 1
            if len(self._names) > _MOST_RULES or self._depth > _MOST_NESTED:
                refuse(place, "it is too large or too deep", "规模过大或嵌套过深")
            self.rules[name] = " | ".join(self.options(self.flat(schema, place, ()), place)) or NEVER
            self._depth -= 1
        return self._names[key]

    def add(self, body: str) -> str:
        """A rule of its own."""
        name = f"p{len(self.rules)}"
        if len(self.rules) > _MOST_RULES:
            refuse("#", "it is too large", "规模过大")
        self.rules[name] = body
        return name

    def flat(self, schema: object, place: str, via: tuple[str, ...]) -> Schema:
        """The same schema as one object without `$ref`, `allOf` and `const`; `via` are the references on the way."""
        if schema is True:
            return {}
        if schema is False:
            return {"enum": []}
        if not isinstance(schema, dict):
            refuse(place, "a schema is an object, true or false", "模式应为对象、true 或 false")
        if place.count("/allOf/") + len(via) > _MOST_NESTED:
            refuse(place, "it is nested too deeply", "嵌套过深")
        check(schema, place)
        own = {key: part for key, part in schema.items() if key in KEYWORDS - {"$ref", "allOf", "const"}}
        if "const" in schema:
            own["enum"] = [one for one in own.get("enum", [schema["const"]]) if equal(one, schema["const"])]
        parts = [own]
        if "$ref" in schema:
            reference = schema["$ref"]
            if reference in via:
                refuse(place, f"{reference} leads back to itself", f"{reference} 指回自身")
            parts.append(self.flat(self.target(reference, place), place, (*via, str(reference))))
        for i, part in enumerate(distinct(schema.get("allOf", []))):
            parts.append(self.flat(part, f"{place}/allOf/{i}", via))
        return reduce(lambda one, other: both(one, other, place), parts)

    def target(self, reference: object, place: str) -> object:
        """What a `$ref` points to, by JSON Pointer (RFC 6901)."""
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            refuse(place, f'"$ref" to {reference!r}: only places in the same schema', '"$ref" 只能指向同一模式内')
        here: object = self.schema
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(here, dict) and name in here:
                here = here[name]
            elif isinstance(here, list) and name.isascii() and name.isdigit() and int(name) < len(here):
                here = here[int(name)]
            else:
                refuse(place, f'"$ref" to {reference!r}: there is no such place', f'"$ref" 指向的 {reference!r} 不存在')
        return here

    def options(self, schema: Schema, place: str) -> Iterator[str]:
        """What a flat schema allows, one kind after the other."""
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                rest = {key: part for key, part in schema.items() if key != keyword}
                if keyword == "oneOf":
                    self._refuse_overlap(schema[keyword], place)
                for i, branch in enumerate(schema[keyword]):
                    yield self.rule({"allOf": [rest, branch]} if rest else branch, f"{place}/{keyword}/{i}")
                return
        if "enum" in schema:
            yield from self._enum(schema, place)
            return
        for kind in types(schema):
            yield getattr(self, f"_{kind}")(schema, place)

    def _enum(self, schema: Schema, place: str) -> Iterator[str]:
        for keyword in schema:
            if keyword not in ("enum", "type"):
                refuse(place, f'"{keyword}" beside "enum" or "const"', f'"enum" 或 "const" 旁的 "{keyword}"')
        fitting = kinds({"type": schema["type"]}) if "type" in schema else set(TYPES)
        yield from {canonical(one): value(one) for one in schema["enum"] if type_of(one) in fitting}.values()

    def _refuse_overlap(self, branches: list[object], place: str) -> None:
        """`oneOf` is a promise only where no value can be valid by two."""
        flat = [self.flat(branch, f"{place}/oneOf/{i}", ()) for i, branch in enumerate(branches)]
        for i, one in enumerate(flat):
            for j, other in enumerate(flat[:i]):
                if not self._apart(one, other, place):
                    refuse(
                        place,
                        f'"oneOf": a value may fit both {j} and {i}; say "anyOf", or tell them apart by a required "const"',
                        f'"oneOf" 的第 {j} 与第 {i} 项可能同时成立；请改用 "anyOf"，或用必需的 "const" 区分',
                    )

    def _apart(self, one: Schema, other: Schema, place: str) -> bool:
        """Whether it is certain that nothing that comes out of one is valid by the other."""
        if "enum" in one and "enum" in other:
            return not {canonical(a) for a in one["enum"]} & {canonical(b) for b in other["enum"]}
        shared = (coming(one) & kinds(other)) | (coming(other) & kinds(one))
        if shared != {"object"}:
            return not shared
        return any(
            self._apart(
                self.flat(one["properties"][name], place, ()), self.flat(other["properties"][name], place, ()), place
            )
            for name in one.get("required", [])
            if name in other.get("required", []) and all(name in side.get("properties", {}) for side in (one, other))
        )

    def _object(self, schema: Schema, place: str) -> str:
        properties: Schema = schema.get("properties", {})
        required = schema.get("required", [])
        is_free = not properties and not required
        others = schema.get("additionalProperties", is_free)
        missing = {name: schema.get("additionalProperties", True) for name in required if name not in properties}
        members = [
            (f'{value(name)} ":" sp {self.rule(part, f"{place}/properties/{name}")}', name in required)
            for name, part in {**properties, **missing}.items()
        ]
        further = self._further(others, [name for name, _ in {**properties, **missing}.items()], place)
        return self._members(members, further)

    def _further(self, schema: object, names: list[str], place: str) -> str:
        """One more property, of a name that is none of `names`; "" if there may be none."""
        if schema is False:
            return ""
        name = self.add("")
        for rule, body in name_rules(name, names).items():
            self.rules[rule] = body
        return self.add(f'{name} ":" sp {self.rule(schema, f"{place}/additionalProperties")}')

    def _members(self, members: list[tuple[str, bool]], further: str) -> str:
        """An object of these in order, each optional or not, then any number of `further`."""
        after = f'("," ws {further})*' if further else '""'
        first = [f"{further} {after}"] if further else []
        may_be_empty = True
        for member, is_required in reversed(members):
            rest = self.add(after)
            if is_required:
                first, may_be_empty = [], False
            first.insert(0, f"{member} {rest}")
            following = f'"," ws {member}'
            after = f"{following if is_required else f'({following})?'} {rest}"
        inside = f"({' | '.join(first)}) ws" if first else '""'
        return f'"{{" ws ({inside}){"?" if may_be_empty else ""} "}}"'

    def _array(self, schema: Schema, place: str) -> str:
        fixed = [self.rule(part, f"{place}/prefixItems/{i}") for i, part in enumerate(schema.get("prefixItems", []))]
        most = schema.get("maxItems")
        fixed = fixed if most is None else fixed[:most]
        least = schema.get("minItems", len(fixed))
        further = schema.get("items", not fixed or least > len(fixed))
        if further is False:
            if least > len(fixed):
                return NEVER
            most = len(fixed)
        if most is not None and least > most:
            return NEVER
        item = self.rule(further, f"{place}/items") if further is not False and most != len(fixed) else ""
        return f'"[" ws {self._items(fixed, item, least, most)} "]"'

    def _items(self, fixed: list[str], item: str, least: int, most: int | None) -> str:
        if item and not fixed:
            fixed = [item]  # the first has no comma before it
        if not fixed:
            return '""'
        after = f'("," ws {item}){_times(max(0, least - len(fixed)), most and most - len(fixed))}' if item else '""'
        for i in range(len(fixed) - 1, -1, -1):
            here = f'"," ws {fixed[i]} {after}' if i else f"{fixed[i]} {after} ws"
            after = self.add(here if i < least else f"({here})?")
        return after

    def _string(self, schema: Schema, place: str) -> str:
        has_length = "minLength" in schema or "maxLength" in schema
        given = [name for name in ("pattern", "format", "minLength", "maxLength") if name in schema]
        if len(given) - has_length > 1 or (has_length and given[0] in ("pattern", "format")):
            names = ", ".join(f'"{name}"' for name in given)
            refuse(place, f'{names} together; say it all in "pattern"', f'{names} 同时出现；请都写进 "pattern"')
        if "pattern" in schema:
            inside = pattern_to_gbnf(schema["pattern"], place)
        elif "format" in schema:
            inside = f"({FORMATS[schema['format']]})"
        elif has_length:
            least, most = schema.get("minLength", 0), schema.get("maxLength")
            if most is not None and most < least:
                return NEVER
            inside = f"char{_times(least, most)}"
        else:
            return "string"
        return f'"\\"" {inside} "\\""'

    def _integer(self, schema: Schema, place: str) -> str:
        low, high = bounds(schema)
        if low is None and high is None:
            return "integer"
        least = None if low is None else math.floor(low.at) + 1 if low.strict else math.ceil(low.at)
        most = None if high is None else math.ceil(high.at) - 1 if high.strict else math.floor(high.at)
        if least is not None and most is not None and least > most:
            return NEVER
        return whole_number(least, most)

    def _number(self, schema: Schema, place: str) -> str:
        low, high = bounds(schema)
        if low is None and high is None:
            return "number"
        for bound in (low, high):
            if bound and not bound.is_exact:
                refuse(place, f"the bound {bound.at} has more than 15 digits", f"界限 {bound.at} 超过 15 位")
        if low and high and (low.at > high.at or (low.at == high.at and (low.strict or high.strict))):
            return NEVER
        return decimal(low, high)

    def _boolean(self, schema: Schema, place: str) -> str:
        return "boolean"

    def _null(self, schema: Schema, place: str) -> str:
        return "null"


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"
