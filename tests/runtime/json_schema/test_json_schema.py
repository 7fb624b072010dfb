"""JSON schemas: whatever a model says, what comes out is JSON and valid by the jsonschema package."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bq.runtime.constraint import by_json_schema
from bq.runtime.json_grammar import value
from bq.runtime.json_schema import schema_to_gbnf
from bq.runtime.loading import load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.tokenizer import Tokenizer
from tests.support.constrained import Language, ramble
from tests.support.refusals import only_refuses

from .common import Schema, said, seeds, validate

_names = st.sampled_from(["a", "ab", "名", 'q"', "b\\", "\x7f", "long name"])
_scalars = (
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-9, 9) | st.text('a你"\\\n\x01\u202e😀', max_size=5)
)
_numbers = st.integers(-300, 300) | st.decimals(-3, 3, places=2).map(float)


@st.composite
def _bounded(draw: st.DrawFn, kind: str) -> Schema:
    low, high = sorted(draw(st.tuples(_numbers, _numbers)))
    assume(high - low > 1)
    lower = draw(st.sampled_from([{}, {"minimum": low}, {"exclusiveMinimum": low}]))
    upper = draw(st.sampled_from([{}, {"maximum": high}, {"exclusiveMaximum": high}]))
    return {"type": kind, **lower, **upper}


@st.composite
def _strings(draw: st.DrawFn) -> Schema:
    low, high = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    return draw(
        st.sampled_from(
            [
                {"type": "string"},
                {"type": "string", "minLength": low},
                {"type": "string", "minLength": low, "maxLength": high},
                {"type": "string", "pattern": "^[A-Z]{2}-\\d{1,3}$"},
                {"type": "string", "pattern": "a+|你?b"},
                {"type": "string", "format": draw(st.sampled_from(["date", "time", "date-time", "uuid"]))},
            ]
        )
    )


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_names, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    others = draw(st.sampled_from([None, True, False]) | inner)
    schema: Schema = {"type": "object", "properties": properties, "required": required}
    return schema if others is None else {**schema, "additionalProperties": others}


@st.composite
def _arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    schema: Schema = {"type": "array"}
    if draw(st.booleans()):
        schema["items"] = draw(inner)
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    low, high = sorted(draw(st.tuples(st.integers(0, 4), st.integers(0, 4))))
    if draw(st.booleans()):
        schema["minItems"] = low
    if draw(st.booleans()):
        schema["maxItems"] = high
    return schema


_leaves: st.SearchStrategy[Schema] = st.one_of(
    _bounded("integer"),
    _bounded("number"),
    _strings(),
    st.sampled_from(
        [{}, True, {"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}, {"type": ["integer", "number"]}]
    ),
    _scalars.map(lambda one: {"const": one}),
    st.lists(_scalars, min_size=1, max_size=4).map(lambda some: {"enum": some, "description": "one of"}),
)
_schemas: st.SearchStrategy[Schema] = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        _objects(inner),
        _arrays(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.lists(_objects(inner), min_size=1, max_size=2).map(lambda some: {"allOf": some}),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(schema=_schemas, seed=seeds, limit=st.integers(0, 60))
def test_noise_becomes_valid_json(small: Tokenizer, schema: Schema, seed: int, limit: int) -> None:
    jsonschema.Draft202012Validator.check_schema(schema)
    text = only_refuses(said, schema, small, seed, limit)
    assume(text is not None)  # allOf may ask for what cannot be
    validate(schema, text)


def _object(required: str = "", **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


INTEGER = {"type": "integer"}
NODE = _object(
    "name", name={"type": "string", "maxLength": 3}, sub={"type": "array", "items": {"$ref": "#/$defs/node"}}
)
DOG = _object("kind bark", kind={"const": "dog"}, bark=INTEGER)
CAT = _object("kind", kind={"const": "cat"})
SCHEMAS: dict[str, Schema] = {
    "tree": {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    "one of": {"oneOf": [DOG, CAT, {"type": "null"}], "discriminator": {"propertyName": "kind"}},
    "optional": _object(a={"anyOf": [INTEGER, {"type": "null"}], "default": None}),
    "branches": {**_object(a=INTEGER, b={"type": "boolean"}), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    "both": {
        "allOf": [
            _object("a", a={"type": "number", "minimum": 0}),
            {"properties": {"a": {"type": "integer", "maximum": 3}, "b": True}, "required": ["b"]},
        ]
    },
    "closed": {
        "allOf": [
            {"properties": {"a": INTEGER}, "additionalProperties": False},
            {"properties": {"a": {"maximum": 5}, "b": {"type": "null"}}},
        ],
        "required": ["a"],
    },
    "reference beside": {
        "$defs": {"s": {"type": "string"}},
        **_object("a", a={"$ref": "#/$defs/s", "maxLength": 2}),
    },
    "pointer": {"$defs": {"a/b": {"x~y": {"enum": [1, "二"]}}}, "$ref": "#/$defs/a~1b/x~0y"},
    "itself": _object("n", next={"$ref": "#"}, n=INTEGER),
    "unnamed": {"type": "object", "required": ["x"]},
    "others": {**_object(a=INTEGER, ab=INTEGER), "additionalProperties": {"type": "null"}},
    "free": {"type": "object"},
    "anything": True,
    "untyped": {"minimum": 3, "maxLength": 2},
    "tuple": {"prefixItems": [INTEGER, {"type": "string"}], "items": {"type": "null"}, "minItems": 4, "maxItems": 5},
    "odd texts": {"enum": ["\x00\x1b[2J", "\u202e", '"\\\n\t', "\ud800", "é你😀", "\x7f", ""]},
    "odd values": {"enum": [1.5, -0.0, 1e30, [1, {"a": []}], {}, None, True]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_schemas_are_made_of(small: Tokenizer, name: str) -> None:
    for seed in range(12):
        validate(SCHEMAS[name], said(SCHEMAS[name], small, seed, limit=seed * 6))


def test_what_comes_out_has_all_that_a_schema_names(small: Tokenizer) -> None:
    values = [validate(SCHEMAS["optional"], said(SCHEMAS["optional"], small, seed)) for seed in range(40)]
    assert {tuple(one) for one in values} == {(), ("a",)}
    assert {type(one["a"]) for one in values if "a" in one} == {int, type(None)}
    odd = [validate(SCHEMAS["odd texts"], said(SCHEMAS["odd texts"], small, seed)) for seed in range(200)]
    assert set(odd) == set(SCHEMAS["odd texts"]["enum"])


def test_a_character_in_several_tokens_is_spelled_to_its_end(small: Tokenizer) -> None:
    """Where it alone leads out: another one that begins with the same byte would lead nowhere."""
    for character in "¡é模😀":
        text = json.loads(
            ramble(by_json_schema({"type": "string", "pattern": character}), small, np.random.default_rng(0))
        )
        assert character in text


def test_equal_schemas_share_a_rule_and_the_text_stays_small() -> None:
    item = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(30)}}
    many = {"type": "object", "properties": {f"q{i}": item for i in range(30)}}
    assert len(schema_to_gbnf(many)) < 3 * len(schema_to_gbnf(item)) + 3000


def test_values_are_written_in_one_way() -> None:
    written = value({"a": [1, "é\n"]})
    assert '{"a": [1, "é\\n"]}' in Language(f"root ::= {written}")


@pytest.mark.parametrize("family", ["b2-7b", "b1-7b"])
def test_an_answer_of_a_model_parses_at_every_limit(converted: Callable[..., Path], family: str) -> None:
    schema = _object(
        "name of n", name={"type": "string"}, of={"enum": ["甲", "b"]}, n={"type": "number", "minimum": 0, "maximum": 1}
    )
    with load(converted(family, hidden=64, heads=2, ffn=64)) as model:
        for limit in (1, 2, 3, 5, 8, 13, 30, 60):
            answer = model.chat(
                [Message("user", "hello")],
                constraint=by_json_schema(schema),
                sampling=Sampling(temperature=3.0, top_k=0, top_p=1.0, seed=limit),
                max_tokens=limit,
                force=True,
            )
            data = validate(schema, "".join(answer))
            assert list(data) == ["name", "of", "n"]
