"""Templates: those of bq work as they are, a person's own are kept, and a damaged file is not touched."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bq.runtime.errors import BqError, UsageError
from bq.runtime.language import set_language
from bq.tui.answer_form import AnswerForm
from bq.tui.chosen_model import home
from bq.tui.templates import (
    Template,
    built_in,
    check_form,
    delete_template,
    own_templates,
    save_template,
    templates,
)

OWN = Template("情绪", "这段话的情绪？", AnswerForm("choices", '好,"不,不好"'))


def file() -> Path:
    return home() / "templates.json"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_those_of_bq_are_sound_in_both_languages(language: str) -> None:
    set_language(language)
    found = built_in()
    assert len({one.name for one in found}) == len(found) == 6
    assert [one.form.kind for one in found if one.form] == ["json_schema", "choices"]
    for one in found:
        assert (max(one.instruction) > "\u4e00") == (language == "zh")
        if one.form:
            check_form(one.form)


def test_an_own_one_comes_first_and_is_kept() -> None:
    for one in (OWN, Template("brief", "In one sentence.")):
        save_template(one)
    assert templates() == [OWN, Template("brief", "In one sentence."), *built_in()]
    save_template(Template("情绪", "x", AnswerForm("grammar", 'root ::= "a"')))
    assert [one.instruction for one in own_templates()] == ["x", "In one sentence."]
    delete_template("情绪")
    assert [one.name for one in own_templates()] == ["brief"]
    if os.name != "nt":
        assert stat.S_IMODE(file().stat().st_mode) == 0o600


def test_only_an_own_one_can_be_deleted() -> None:
    with pytest.raises(UsageError, match=r"no template summarise of your own\. Those that come with bq stay"):
        delete_template("summarise")
    assert not file().exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (Template("", "x"), "cannot be a template's name"),
        (Template("a b", "x"), "without spaces"),
        (Template("a\x1b[2J", "x"), "cannot be a template's name"),
        (Template("a" * 41, "x"), "up to 40"),
        (Template("a", " \n"), "empty or far too long"),
        (Template("a", "x" * 20_001), "Give up to 20000 characters"),
        (Template("a", "x", AnswerForm("choices", "one")), "At least two choices"),
        (Template("a", "x", AnswerForm("choices", "one,")), "none of them empty"),
        (Template("a", "x", AnswerForm("choices", '"one,two')), "quotes do not match"),
        (Template("a", "x", AnswerForm("json_schema", "{")), "no JSON"),
        (Template("a", "x", AnswerForm("json_schema", '{"if": {}}')), "cannot be promised"),
        (Template("a", "x", AnswerForm("grammar", "root ::= nothing")), "nothing"),
    ],
)
def test_one_that_makes_no_sense_is_not_kept(template: Template, said: str) -> None:
    save_template(OWN)
    before = file().read_bytes()
    with pytest.raises(UsageError, match=said):
        save_template(template)
    assert file().read_bytes() == before


@pytest.mark.parametrize(
    "found",
    [
        b"{",
        b"[]",
        b'{"a": 3}',
        b'{"a": {}}',
        b'{"a": {"instruction": 3}}',
        b'{"a": {"instruction": ""}}',
        b'{"a b": {"instruction": "x"}}',
        b'{"a": {"instruction": "x", "form": "choices"}}',
        b'{"a": {"instruction": "x", "form": {"kind": "shell", "text": "ls"}}}',
        b'{"a": {"instruction": "x", "form": {"kind": "choices", "text": 3}}}',
        b'{"a": {"instruction": "x", "form": {"kind": "json_schema", "text": "{"}}}',
        b"[" * 99_999,
        b"\xff",
    ],
)
def test_a_damaged_file_is_said_and_left_alone(found: bytes) -> None:
    file().write_bytes(found)
    for attempt in (templates, lambda: save_template(OWN), lambda: delete_template("a")):
        with pytest.raises(BqError, match=r"templates\.json.* It is left as it is: mend it, or move it away\.$"):
            attempt()
    assert file().read_bytes() == found
    assert [one.name for one in home().iterdir()] == ["templates.json"]


def test_no_more_is_kept_than_can_be_read() -> None:
    with pytest.raises(BqError, match="larger than 1 MiB"):
        save_template(Template("a", "x", AnswerForm("choices", "好," * 300_000 + "x,y")))
    assert list(home().iterdir()) == []


values = st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2)
forms = values | st.fixed_dictionaries({"kind": st.sampled_from(["choices", "grammar", "x"]) | values, "text": values})
entries = values | st.fixed_dictionaries({}, optional={"instruction": values, "form": forms})


@given(st.dictionaries(st.text(max_size=5), entries, max_size=3))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_file_holds_it_is_templates_or_damaged(found: dict[str, Any]) -> None:
    file().write_text(json.dumps(found))
    try:
        own = own_templates()
    except BqError:
        return
    assert [one.name for one in own] == list(found)
