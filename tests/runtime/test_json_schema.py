"""JSON schemas: whatever a model says, what comes out is JSON and valid by the jsonschema package; what cannot be promised
is refused by name."""

import datetime
import json
import re
import string
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bq.runtime.constraint import by_json_schema
from bq.runtime.json_grammar import Bound, decimal, name_rules, value, whole_number
from bq.runtime.json_pattern import pattern_to_gbnf
from bq.runtime.json_schema import parse_schema, schema_to_gbnf
from bq.runtime.language import set_language
from bq.runtime.loading import load
from bq.runtime.prompt import Message
from bq.runtime.sampling import Sampling
from bq.runtime.text_stream import harmless
from bq.runtime.tokenizer import Tokenizer
from tests.runtime.conftest import OpenPair
from tests.support.constrained import Language, ramble
from tests.support.refusals import advised_refusal, only_refuses
from tests.support.tokenizer import small_tokenizer

Schema = Any
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="session")
def small(open_pair: OpenPair) -> Tokenizer:
    return open_pair(2, small_tokenizer(2))[0]


def validate(schema: Schema, text: str) -> Any:
    """The value of `text`, which must be JSON and valid by the schema."""
    data = json.loads(text)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(data)
    assert harmless(text) == text
    return data


def said(schema: Schema, tokenizer: Tokenizer, seed: int, limit: int = 60) -> str:
    return ramble(by_json_schema(schema), tokenizer, np.random.default_rng(seed), limit)


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


@pytest.mark.parametrize(
    "bounds", [(-120, 120), (0, 0), (7, 123), (-9, -3), (99, 101), (-1, 1000), (None, 12), (-12, None)]
)
def test_whole_numbers_are_those_between_the_bounds(bounds: tuple[int | None, int | None]) -> None:
    language = Language(f"root ::= {whole_number(*bounds)}")
    low, high = (-(10**9) if bounds[0] is None else bounds[0]), (10**9 if bounds[1] is None else bounds[1])
    for number in range(-1100, 1101):
        assert (str(number) in language) == (low <= number <= high), number
    assert not any(text in language for text in ("", "-", "00", "01", "-01", "+1", "1.0", " 1"))


_decimals = st.decimals(-20, 20, places=3) | st.integers(-20, 20).map(Decimal) | st.decimals(-1, 1, places=2)


@settings(max_examples=300, deadline=None)
@given(
    low=st.none() | st.builds(Bound, _decimals, st.booleans()),
    high=st.none() | st.builds(Bound, _decimals, st.booleans()),
    numbers=st.lists(_decimals, min_size=1, max_size=30),
)
def test_decimals_are_those_between_the_bounds(low: Bound | None, high: Bound | None, numbers: list[Decimal]) -> None:
    assume(not (low and high) or low.at < high.at)
    language = Language(f"root ::= {decimal(low, high)}")
    for number in [*numbers, *(bound.at for bound in (low, high) if bound)]:
        inside = (low is None or number > low.at or (number == low.at and not low.strict)) and (
            high is None or number < high.at or (number == high.at and not high.strict)
        )
        for text in {f"{number:f}", f"{number.normalize():f}", f"{number:.6f}"}:
            # A zero below zero is left out where only numbers above it are asked for, and the other way round.
            if number != 0:
                assert (text in language) == inside, text


def test_a_strict_bound_is_not_reached_by_rounding(small: Tokenizer) -> None:
    for bound in (0.1, 5, 0.123456789012345, 99999999999999.5):
        schema = {"type": "number", "exclusiveMaximum": bound, "minimum": 0}
        language = Language(f"root ::= {decimal(Bound(Decimal(0)), Bound(Decimal(repr(bound)), True))}")
        digits = f"{Decimal(repr(bound)) - Decimal(10) ** -14:f}"
        for text in (digits + "9" * n for n in range(30)):
            if text in language:
                validate(schema, text)
        validate(schema, said(schema, small, 3))


def test_dates_are_those_of_the_calendar() -> None:
    language = Language(schema_to_gbnf({"type": "string", "format": "date"}))
    for year in (0, 1, 4, 100, 400, 1900, 2000, 2023, 2024, 9999):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date(year, month, day)
                    is_date = True
                except ValueError:
                    is_date = False
                assert (f'"{text}"' in language) == is_date, text


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text("ab你", max_size=4), max_size=5), name=st.text("ab你 ", max_size=5))
def test_a_further_name_is_none_of_those_named(names: list[str], name: str) -> None:
    rules = {"root": "other", **name_rules("other", names), "plain": "[ab你 ]"}
    gbnf = "\n".join(f"{rule} ::= {body}" for rule, body in rules.items())
    assert (json.dumps(name, ensure_ascii=False) in Language(gbnf)) == (name not in names)


PATTERNS = [
    "^abc$", "^[a-z]+@[a-z]+\\.(com|org)$", "\\d{3}", "^\\w+\\s\\w+$", "^(?:a|b){2,3}c?$", "^.{2,4}$", "^[^\\d\\s]+$",
    "^\\S+$", "a|^b$", "^\\D\\W$", "^[\\w.-]*$", '^["\\\\/]$', "^[\\u4e00-\\u9fa5]{2,4}$", "^\\x41\\t$", "", "^$", "^a*?b+?$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_of_a_pattern_are_found_by_it(small: Tokenizer, pattern: str) -> None:
    for seed in range(15):
        text = validate(
            {"type": "string", "pattern": pattern}, said({"type": "string", "pattern": pattern}, small, seed)
        )
        assert re.search(pattern, text)


_regexes = st.recursive(
    st.sampled_from(["a", "b", "ab", "\\.", "[ab]", "[^a]", "\\d", ".", "你", "\\w", "[a-c\\d]"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: f"({'|'.join(some)})"),
        st.builds(
            lambda one, times: f"(?:{one}){times}", inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}"])
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(regex=_regexes, anchors=st.tuples(st.booleans(), st.booleans()), data=st.data())
def test_a_pattern_takes_the_texts_that_it_finds(regex: str, anchors: tuple[bool, bool], data: st.DataObject) -> None:
    """The whole language: a text is taken exactly if `re` finds the pattern in it, of characters all dialects agree on."""
    pattern = "^" * anchors[0] + regex + "$" * anchors[1]
    language = Language(schema_to_gbnf({"type": "string", "pattern": pattern}))
    wanted = st.from_regex(pattern, alphabet=string.ascii_letters + string.digits + "._你 ").filter(
        lambda one: "\n" not in one
    )
    for text in (data.draw(st.text("ab1._你", max_size=5)), data.draw(wanted)):
        if "^]" in pattern or "[^" in pattern or "\\w" in pattern:  # beyond ASCII the dialects differ
            text = text.replace("你", "a")
        expected = re.search(pattern, text, re.ASCII) is not None
        assert (json.dumps(text, ensure_ascii=False) in language) == expected, text


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


def test_a_character_in_several_tokens_is_spelled_to_its_end(small: Tokenizer) -> None:
    """Where it alone leads out: another one that begins with the same byte would lead nowhere."""
    for character in "¡é模😀":
        text = json.loads(
            ramble(by_json_schema({"type": "string", "pattern": character}), small, np.random.default_rng(0))
        )
        assert character in text


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


def test_the_pattern_of_a_refusal_names_its_place() -> None:
    assert "#/properties/x" in advised_refusal(pattern_to_gbnf, "(", "#/properties/x")
