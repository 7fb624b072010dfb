"""What cannot be promised is refused by name, and no schema does harm."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bq.runtime.constraint import by_json_schema
from bq.runtime.json_pattern import pattern_to_gbnf
from bq.runtime.json_schema import parse_schema, schema_to_gbnf
from bq.runtime.language import set_language
from bq.runtime.tokenizer import Tokenizer
from tests.support.constrained import ramble
from tests.support.refusals import advised_refusal, only_refuses

from .common import Schema

REFUSED: dict[str, tuple[Schema, str]] = {
    "not": ({"not": {}}, 'at #: the keyword "not"'),
    "if": ({"properties": {"a": {"if": {}}}}, 'at #/properties/a: the keyword "if"'),
    "patternProperties": ({"patternProperties": {}}, '"patternProperties"'),
    "uniqueItems": ({"items": {"type": "array", "uniqueItems": True}}, 'at #/items: the keyword "uniqueItems"'),
    "typo": ({"maxlength": 3}, '"maxlength"'),
    "nullable": ({"type": "string", "nullable": True}, '"nullable"'),
    "multipleOf": ({"type": "number", "multipleOf": 3}, '"multipleOf"'),
    "external": ({"$ref": "https://example.com/x.json"}, "only places in the same schema"),
    "no place": ({"$ref": "#/$defs/x"}, "no such place"),
    "circle": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "back to itself",
    ),
    "circle of all": ({"allOf": [{"$ref": "#"}]}, "back to itself"),
    "circle of any": ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, ""),
    "format": ({"type": "string", "format": "email"}, "'email' is not supported"),
    "overlap": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, '"oneOf"'),
    "enum and": ({"enum": ["a"], "maxLength": 3}, '"maxLength" beside'),
    "pattern and": ({"type": "string", "pattern": "a", "maxLength": 3}, "together"),
    "lookahead": ({"pattern": "^(?=a)"}, "character 4"),
    "backreference": ({"pattern": "(a)\\1"}, "not supported"),
    "unicode": ({"pattern": "\\p{L}"}, "not supported"),
    "items list": ({"items": [{}]}, "prefixItems"),
    "no schema": ([], "a schema is an object"),
    "inner": ({"properties": {"a": 3}}, "at #/properties/a: a schema is an object"),
    "type": ({"type": "text"}, '"type" has a senseless value'),
    "minLength": ({"minLength": -1}, '"minLength" has a senseless'),
    "minimum": ({"minimum": "3"}, '"minimum" has a senseless'),
    "required": ({"required": "a"}, '"required" has a senseless'),
    "digits": ({"type": "number", "minimum": 1e20}, "more than 15 digits"),
    "never": (False, "No answer can be held"),
    "between": ({"type": "integer", "minimum": 3, "maximum": 2}, "No answer can be held"),
    "no end": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "No answer can be held"),
    "required not allowed": (
        {"required": ["a"], "additionalProperties": False, "properties": {}},
        "No answer can be held",
    ),
    "all twice": ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, '"pattern" comes twice'),
    "all items": ({"allOf": [{"items": {}}, {"prefixItems": [{}]}]}, "prefixItems"),
    "deep": (json.loads('{"items":' * 200 + "{}" + "}" * 200), "deep"),
    "numbers": ({"const": float("nan")}, "no JSON"),
    "objects": ({"const": {1, 2}}, "no JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_promised_is_refused_by_name(name: str) -> None:
    schema, words = REFUSED[name]
    assert words in advised_refusal(by_json_schema, schema)
    set_language("zh")
    advised_refusal(by_json_schema, schema)


@pytest.mark.parametrize(
    "keyword", ["title", "description", "default", "examples", "$schema", "$comment", "$id", "x-order", "deprecated"]
)
def test_annotations_change_nothing(keyword: str) -> None:
    assert schema_to_gbnf({"type": "null", keyword: ["any"]}).splitlines()[-1] == "r0 ::= null"


_KEYWORDS = [
    *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "a"),
    *("properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems"),
    *("minimum", "maximum", "minLength", "maxLength", "pattern", "format"),
]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_KEYWORDS),
            inner | st.sampled_from(["#", "#/$defs/a", "object", "array", "string", "integer", 3, 1, 0, "^a", "date"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(schema=_json)
def test_no_schema_does_harm(small: Tokenizer, schema: Schema) -> None:
    make = only_refuses(by_json_schema, schema)
    if make is not None:
        json.loads(ramble(make, small, np.random.default_rng(0), limit=10))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n "a": }', "line 2, column 7"),
        ("", "line 1, column 1"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"type": "string", "type": "null"}', "'type' comes twice"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_schema_that_is_no_json_is_one_line(text: str, words: str) -> None:
    assert words in advised_refusal(parse_schema, text)


def test_the_pattern_of_a_refusal_names_its_place() -> None:
    assert "#/properties/x" in advised_refusal(pattern_to_gbnf, "(", "#/properties/x")
