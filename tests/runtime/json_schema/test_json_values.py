"""Numbers, dates, names and patterns: what a schema's grammar takes is what the schema means."""

import datetime
import json
import re
import string
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bq.runtime.json_grammar import Bound, decimal, name_rules, whole_number
from bq.runtime.json_schema import schema_to_gbnf
from bq.runtime.tokenizer import Tokenizer
from tests.support.constrained import Language

from .common import said, validate


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
